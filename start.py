"""Runs a recipe of the justfile on a machine that has only Python 3.11 and git: `python3 start.py demo`.

The recipe runner is `just`, which `uv` brings, and `uv` is looked for in this order; what has to
be fetched goes into the ignored folder `.tools` and nowhere else:

    1  the one fetched earlier      .tools/bin/uv
    2  on PATH, if new enough
    3  a virtual environment        where Python has ensurepip
    4  pip install --target         where there is pip; allowed on externally managed Pythons too
    5  its wheel, with urllib       where there is neither (Debian's python3 alone); the sha256 is checked

Package indexes, wheel folders and certificates are those of pip's and uv's own variables.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TOOLS = ROOT / ".tools"
UV = TOOLS / "bin" / "uv"
UV_AT_LEAST = (0, 8)
UV_WANTED = "uv>=0.8,<1"
JUST = "rust-just==1.59.*"
INDEX = "https://pypi.org/simple"  # where pip and uv look, too, unless they are told otherwise


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  # who runs this may well have an older one
        sys.exit(f"Safelight needs Python 3.11 or newer; this is {platform.python_version()} ({sys.executable}).")
    if sys.platform not in ("linux", "darwin"):
        sys.exit("Safelight runs on Linux and macOS; on Windows, use WSL.")
    os.chdir(ROOT)
    uv = find_uv()
    environment = (
        os.environ | uv_variables(os.environ) | {"PATH": f"{uv.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    )
    command = [str(uv), "tool", "run", "--from", JUST, "just", *arguments]
    sys.stdout.flush()
    os.execve(uv, command, environment)  # noqa: S606  # no shell: the recipe takes our place and gets our signals


def uv_variables(given: Mapping[str, str]) -> dict[str, str]:
    """What uv does not read itself: pip's variables, and which Python to build `.venv` from."""
    variables = {
        "UV_FIND_LINKS": ",".join(given.get("PIP_FIND_LINKS", "").split()),
        "UV_DEFAULT_INDEX": "" if "UV_INDEX_URL" in given else given.get("PIP_INDEX_URL", ""),
        "UV_INDEX": given.get("PIP_EXTRA_INDEX_URL", ""),
        # An environment that is there already keeps its Python.
        "UV_PYTHON": "" if (ROOT / ".venv").exists() else sys.executable,
    }
    return {name: value for name, value in variables.items() if value and name not in given}


def find_uv() -> Path:
    if is_new_enough(UV):
        return UV
    found = shutil.which("uv")
    if found and is_new_enough(Path(found)):
        return Path(found)
    TOOLS.mkdir(exist_ok=True)
    print("Fetching uv into .tools ...", file=sys.stderr)
    for way in ways():
        try:
            fetched = way()
        except (OSError, ValueError, LookupError, subprocess.CalledProcessError, zipfile.BadZipFile) as problem:
            print(f"  {way.__name__.replace('_', ' ')}: {problem}", file=sys.stderr)
            continue
        if is_new_enough(fetched):
            UV.parent.mkdir(exist_ok=True)
            UV.unlink(missing_ok=True)
            UV.symlink_to(os.path.relpath(fetched, UV.parent))
            return UV
    sys.exit("uv could not be fetched: see above, or install uv 0.8 or newer yourself and try again.")


def ways() -> Iterator[Callable[[], Path]]:
    if importlib.util.find_spec("ensurepip"):
        yield by_virtual_environment
    if importlib.util.find_spec("pip"):
        yield by_pip
    yield by_wheel


def is_new_enough(uv: Path) -> bool:
    try:
        said = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return version(said.split()[1]) >= UV_AT_LEAST


def version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:3])


def by_virtual_environment() -> Path:
    folder = TOOLS / "venv"
    run(sys.executable, "-m", "venv", "--clear", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", UV_WANTED)
    return folder / "bin" / "uv"


def by_pip() -> Path:
    folder = TOOLS / "pip"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", folder, UV_WANTED)
    return folder / "bin" / "uv"


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def by_wheel() -> Path:
    address, sha256 = newest_wheel(os.environ)
    with urllib.request.urlopen(address, timeout=180) as answer:  # noqa: S310  # from the user's own index
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("what the index sent is not what it announced (sha256)")
    archive, binary = TOOLS / "uv.whl", TOOLS / "wheel" / "uv"
    archive.write_bytes(content)
    with zipfile.ZipFile(archive) as wheel:
        inside = next(name for name in wheel.namelist() if name.endswith(".data/scripts/uv"))
        binary.parent.mkdir(exist_ok=True)
        binary.write_bytes(wheel.read(inside))
    binary.chmod(0o755)
    archive.unlink()
    return binary


def newest_wheel(given: Mapping[str, str]) -> tuple[str, str]:
    """Address and sha256 of uv's newest wheel for this machine, from the index's simple API (PEP 691, PEP 503)."""
    names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    index = next((given[name] for name in names if given.get(name)), INDEX)
    page = f"{index.rstrip('/')}/uv/"
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    request = urllib.request.Request(page, headers={"Accept": accept})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        text = answer.read().decode()
    fitting = []
    for name, address, sha256 in json_links(text) if text.lstrip().startswith("{") else html_links(text):
        released = re.fullmatch(r"uv-(\d+\.\d+\.\d+)-py3-none-(.+)\.whl", name)
        if released and UV_AT_LEAST <= version(released[1]) < (1,) and fits(released[2]):
            fitting.append((version(released[1]), urllib.parse.urljoin(page, address), sha256))
    if not fitting:
        raise LookupError(f"the index has no uv {platform.system()} {platform.machine()} wheel")
    return max(fitting)[1:]


def json_links(text: str) -> Iterator[tuple[str, str, str]]:
    for file in json.loads(text)["files"]:
        if not file.get("yanked") and "sha256" in file["hashes"]:
            yield file["filename"], file["url"], file["hashes"]["sha256"]


def html_links(text: str) -> Iterator[tuple[str, str, str]]:
    for tag in re.findall(r"<a\s[^>]*>", text):
        link = re.search(r'href="([^"#]+)#sha256=([0-9a-f]{64})"', tag)
        if link and "data-yanked" not in tag:
            yield urllib.parse.unquote(link[1].rsplit("/", 1)[-1]), link[1], link[2]


def fits(tags: str) -> bool:
    """Whether a wheel with these platform tags (several, joined by dots) runs here."""
    machine = platform.machine()
    if sys.platform == "darwin":
        system = "macosx"
    else:
        system = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return any(tag.startswith(system) and tag.endswith(f"_{machine}") for tag in tags.split("."))


if __name__ == "__main__":
    main(sys.argv[1:])
