"""How long a job will still take, from what others took."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contracts.jobs import Status
from output.pace import Ahead, Took, eta_s, pace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HISTORY = [
    Took(10.0, {"analyze": 1.0, "style": 4.0, "retouch": None}),
    Took(12.0, {"analyze": 2.0, "style": 5.0, "retouch": 2.0}),
    Took(11.0, {"analyze": 1.5, "style": 6.0, "retouch": None}),
    Took(13.0, {"analyze": 1.5, "style": 5.0, "retouch": 4.0}),
]  # waiting: 5.0, 3.0, 3.5, 2.5


def waits(name: str) -> Ahead:
    return Ahead(name, Status.QUEUED, None, None)


def runs(name: str, since_s: float, progress: float | None = None) -> Ahead:
    return Ahead(name, Status.RUNNING, NOW - timedelta(seconds=since_s), progress)


def test_of_too_few_jobs_nothing_is_said() -> None:
    assert pace(HISTORY[:2]) is None


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        pytest.param(["analyze", "style", "retouch"], 1.5 + 5.0 + 3.0 / 2 + 3.25, id="nothing has begun"),
        pytest.param(["style"], 5.0 + 3.25 / 3, id="one phase is left"),
        pytest.param([], 0.0, id="all is over"),
        pytest.param(["levitate"], 3.25 / 3, id="a phase that nobody has seen"),
    ],
)
def test_what_is_left_is_the_usual_of_what_is_ahead(ahead: list[str], expected: float) -> None:
    known = pace(HISTORY)
    assert known
    assert eta_s(known, 3, [waits(name) for name in ahead], NOW) == pytest.approx(expected, abs=0.06)


def test_what_runs_has_some_of_it_behind_it() -> None:
    known = pace(HISTORY)
    assert known
    waiting = 3.25 / 3
    assert eta_s(known, 3, [runs("style", 2.0)], NOW) == pytest.approx(3.0 + waiting, abs=0.06)
    assert eta_s(known, 3, [runs("style", 60.0)], NOW) == pytest.approx(waiting, abs=0.06), "late, but never negative"
    assert eta_s(known, 3, [runs("style", 30.0, 0.75)], NOW) == pytest.approx(10.0 + waiting, abs=0.06)
