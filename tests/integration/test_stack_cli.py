"""The stack's commands: what they print, as text and as JSON, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def safelight(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stack.cli", *arguments]
    environment = os.environ | {"SAFELIGHT_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_status_of_a_stack_that_is_down_ends_with_3(tmp_path: Path) -> None:
    answer = safelight(tmp_path / "none", "status", "--json")
    assert (answer.returncode, json.loads(answer.stdout)["status"]) == (3, "down")
    assert not (tmp_path / "none").exists(), "looking makes no folder"


def test_down_without_a_stack_is_no_failure(tmp_path: Path) -> None:
    answer = safelight(tmp_path / "none", "down", "--json")
    assert (answer.returncode, json.loads(answer.stdout)) == (0, {"status": "down", "was_up": False})


def test_logs_are_prefixed_with_their_process_and_cut_to_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("ingest", "output"):
        (tmp_path / "logs" / f"{name}.log").write_text("".join(f"{name} {n}\n" for n in range(100)))
    lines = safelight(tmp_path, "logs", "-n", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ingest", "ingest", "output", "output"]
    assert lines[-1].endswith("output 99")
    assert safelight(tmp_path, "logs", "ingest", "-n", "1").stdout == "ingest 99\n"


def test_a_log_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "nats.log").touch()
    answer = safelight(tmp_path, "logs", "mars")
    assert answer.returncode == 1
    assert answer.stderr.strip() == "safelight: there is no log of 'mars'; there are: nats"


@pytest.mark.parametrize("command", [("setup",), ("topology", "check")], ids=["setup", "topology check"])
def test_what_needs_a_stack_says_so(tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFELIGHT_NATS_PASSWORD", raising=False)
    answer = safelight(tmp_path, *command)
    assert answer.returncode == 1
    assert answer.stderr.strip() == "safelight: no stack is up here: run `safelight up`"
