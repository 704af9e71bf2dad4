"""What an error leaves in the logs: where it came from, and nothing that it says."""

from __future__ import annotations

import json
import subprocess
import sys

CANARY = "Grade 4: maple"
PROGRAM = f"""
import logging
from runtime import logs

logs.configure("test")
try:
    try:
        raise ExceptionGroup("{CANARY}", [ValueError("{CANARY}")])
    except ExceptionGroup as first:
        first.add_note("{CANARY}")
        raise KeyError("{CANARY}") from first
except KeyError as problem:
    logs.get().error("test.unforeseen", exc_info=problem)
    logging.getLogger("library").error("gave up", exc_info=problem)
    logging.getLogger("library").exception("gave up")
"""


def test_an_error_tells_where_it_came_from_and_nothing_that_it_says() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "maple" not in done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["test.unforeseen", "gave up", "gave up"]
    for line in lines:
        error, cause = line["exception"]
        assert (error["exc_type"], cause["exc_type"], cause["is_cause"]) == ("KeyError", "ExceptionGroup", True)
        assert cause["exceptions"][0][0]["exc_type"] == "ValueError"
        assert error["frames"][0]["lineno"] > 0
