"""docs/lifecycle.md is what the machine does."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from contracts.jobs import Status
from orchestrator import lifecycle
from orchestrator.machine import lifecycle as drawn
from orchestrator.machine.inputs import Input
from orchestrator.machine.job import JOB_TRANSITIONS, TRANSITIONS, Stand
from orchestrator.machine.waiting import OWNERS
from tests.unit.orchestrator.test_walk import WALKS, walked


def test_the_committed_file_is_drawn_from_the_machine() -> None:
    assert lifecycle.FILE.read_text() == drawn.text(), "run `python -m orchestrator.lifecycle`"


def test_a_file_that_differs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "FILE", lifecycle.FILE.with_name("glossary.md"))
    monkeypatch.setattr("sys.argv", ["lifecycle", "--check"])
    with pytest.raises(SystemExit, match="differs from the machine"):
        lifecycle.main()


def test_it_has_each_way_of_the_tables() -> None:
    ways = re.findall(r"^    (\w+) --> (\w+) :", drawn.text(), re.MULTILINE)
    over = {str(stand) for stand in Stand} - {"blocked", "ready", "out", "backoff", "spread"}
    wanted = {("again" if a in over else str(a), str(b)) for a, b in [*TRANSITIONS, *JOB_TRANSITIONS]}
    assert set(ways) == wanted


def test_it_tells_of_each_stand_each_input_and_each_ending() -> None:
    assert set(drawn.STANDS) == set(Stand)
    assert set(drawn.INPUTS) == set(get_args(Input))
    assert set(drawn.ENDINGS) == {status for status in Status if status.is_terminal} - {Status.SKIPPED}
    assert set(OWNERS) == {Stand.READY, Stand.OUT, Stand.BACKOFF, "paused"}


@pytest.mark.parametrize("kind", get_args(Input), ids=lambda kind: kind.__name__)
def test_what_an_input_leaves_of_a_job_is_what_the_walk_meets(kind: type[Input]) -> None:
    met = {after.status for name in WALKS for _, given, after in walked(name)[0] if type(given) is kind}
    assert met == set(drawn.INPUTS[kind].leaves)
