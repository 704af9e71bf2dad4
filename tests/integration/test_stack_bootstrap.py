"""start.py fetches uv from the index it is told and checks it; a machine it cannot serve gets one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import start
from stack.home import REPOSITORY


def a_wheel() -> bytes:
    """A wheel whose uv is a script that says its version."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as wheel:
        wheel.writestr("uv-0.9.9.data/scripts/uv", "#!/bin/sh\necho uv 0.9.9\n")
    return content.getvalue()


def a_tag() -> str:
    system = "manylinux_2_17" if platform.libc_ver()[0] == "glibc" else "musllinux_1_1"
    return f"{'macosx_11_0' if sys.platform == 'darwin' else system}_{platform.machine()}"


class Index:
    """A package index that offers three versions of uv, in one of the two forms that indexes have."""

    def __init__(self, form: str, announced: str) -> None:
        wheel, newest, tag = a_wheel(), "uv-0.9.9", a_tag()
        names = [f"{version}-py3-none-{tag}.whl" for version in (newest, "uv-0.7.1", "uv-2.0.0")]
        if form == "json":
            files = [
                {"filename": n, "url": f"files/{n}", "hashes": {"sha256": announced}, "yanked": False} for n in names
            ]
            page = json.dumps({"files": files}).encode()
        else:
            links = (f'<a href="files/{n}#sha256={announced}">{n}</a>' for n in names)
            page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        pages = {"/simple/uv/": page, f"/simple/uv/files/{names[0]}": wheel}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if self.path in pages else 404)
                self.end_headers()
                self.wfile.write(pages.get(self.path, b""))

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/simple"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with start.py in it, in a path with spaces and umlauts."""
    folder = tmp_path / "böse Pfad mit Leerzeichen"
    (folder / ".tools").mkdir(parents=True)
    shutil.copy(REPOSITORY / "start.py", folder)
    return folder


def fetch(clone: Path, index: Index) -> subprocess.CompletedProcess[str]:
    program = "import subprocess, start; print(subprocess.check_output([start.by_wheel(), '--version'], text=True))"
    environment = {"UV_DEFAULT_INDEX": index.url, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("form", [pytest.param("json", id="a JSON index"), pytest.param("html", id="an HTML index")])
def test_uv_comes_from_the_given_index(clone: Path, form: str) -> None:
    answer = fetch(clone, Index(form, hashlib.sha256(a_wheel()).hexdigest()))
    assert answer.stdout.strip() == "uv 0.9.9", answer.stderr


def test_a_wheel_that_is_not_what_was_announced_is_refused(clone: Path) -> None:
    answer = fetch(clone, Index("json", "0" * 64))
    assert answer.returncode != 0
    assert "sha256" in answer.stderr
    assert not (clone / ".tools" / "wheel" / "uv").exists()


@pytest.mark.parametrize(
    ("pretence", "word"),
    [
        pytest.param("sys.version_info = (3, 10, 4)", "needs Python 3.11 or newer", id="an old Python"),
        pytest.param("sys.platform = 'win32'", "runs on Linux and macOS", id="Windows"),
    ],
)
def test_a_machine_that_cannot_run_it_gets_one_sentence(clone: Path, pretence: str, word: str) -> None:
    program = f"import sys, start; {pretence}; start.main(['demo'])"
    command = [sys.executable, "-c", program]
    answer = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert word in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        pytest.param({"PIP_FIND_LINKS": "/a /b"}, "UV_FIND_LINKS", "/a,/b", id="pip's wheel folders are uv's"),
        pytest.param(
            {"PIP_INDEX_URL": "https://x/simple"}, "UV_DEFAULT_INDEX", "https://x/simple", id="pip's index is"
        ),
        pytest.param(
            {"PIP_FIND_LINKS": "/a", "UV_FIND_LINKS": "/c"}, "UV_FIND_LINKS", None, id="what uv is told stays"
        ),
        pytest.param({}, "UV_FIND_LINKS", None, id="nothing is made up"),
    ],
)
def test_pips_variables_are_understood(given: dict[str, str], name: str, value: str | None) -> None:
    assert start.uv_variables(given).get(name) == value
