"""The README's first command: it shows what it promises, and being stopped it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stack import control
from stack.home import Home
from stack.ports import anywhere

PATIENCE_S = 120.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A folder for a stack of its own, beside the one that the other tests share."""
    made = Home(tmp_path / "ein Ordner für Fotos")
    made.path.mkdir()
    made.write_state({"ports": anywhere()})
    return made


def demo(home: Home, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (sys.executable, "-m", "stack.cli", "demo", *arguments),
        env=os.environ | {"SAFELIGHT_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        text=True,
        # A shell that runs tests in the background may have told us to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def alive_in(home: Home) -> list[psutil.Process]:
    """Every process that works in the stack's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(home.path):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_the_demo_shows_a_dozen_photos_through_all_phases_and_cleans_up(home: Home) -> None:
    process = demo(home, "--json", "--down")
    told, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    shown = json.loads(told)
    jobs = [row["job"] for row in shown["photos"]]
    assert len(jobs) >= 12
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert all(len(job["trace_id"]) == 32 for job in jobs)
    assert set(shown["seconds_by_phase"]) == {"analyze", "style", "retouch", "cleanup", "crop", "variants"}
    assert all(row["photos"] > 0 for row in shown["seconds_by_phase"].values()), "every phase has worked on something"
    folders = [path for path in Path(shown["outputs"]).iterdir() if path.is_dir()]
    assert len(folders) == len(jobs)
    assert all(len(list(folder.iterdir())) == 6 for folder in folders), "web and thumb in three formats"
    assert alive_in(home) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("status", ["starting", "ready"])
def test_being_stopped_it_takes_down_what_it_started(home: Home, number: signal.Signals, status: str) -> None:
    process = demo(home)
    deadline = time.monotonic() + PATIENCE_S
    while home.read_state().get("status") != status:
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(number)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert alive_in(home) == []
    assert not control.down(home), "nothing is left to take down"
