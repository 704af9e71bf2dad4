"""When a batch will be over, and how many dead letters a replay may take now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.batches import RECENT, eta_s
from orchestrator.replays import BURST_S, allowance

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("left", "ended", "ended_lately", "began_at", "seconds"),
    [
        pytest.param(10, 0, 0, ago(60), None, id="nothing has ended: nobody knows"),
        pytest.param(0, 0, 0, None, None, id="there is nothing in it"),
        pytest.param(10, 5, 5, ago(60), 120.0, id="a young one goes on as it has gone so far"),
        pytest.param(10, 1000, 50, ago(7200), 60.0, id="an old one goes on as in the last five minutes"),
        pytest.param(10, 20, 0, ago(3600), 1800.0, id="one that stands still has the pace of all its time"),
        pytest.param(10, 5, 5, NOW, 0.0, id="one that began this very moment"),
    ],
)
def test_when_a_batch_will_be_over(
    left: int, ended: int, ended_lately: int, began_at: datetime | None, seconds: float | None
) -> None:
    assert eta_s(left, ended, ended_lately, began_at, NOW) == seconds


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.floats(0, 1e6))
def test_an_estimate_is_never_negative_and_grows_with_what_is_left(left: int, ended: int, age: float) -> None:
    lately = ended if age <= RECENT.total_seconds() else ended // 2
    first, second = (eta_s(n, ended, lately, ago(age), NOW) for n in (left, left + 1))
    assert first is not None
    assert second is not None
    assert 0 <= first <= second


@pytest.mark.parametrize(
    ("since", "rate", "due", "left"),
    [
        pytest.param(0.8, 10, 8, 0.0, id="as many as the rate allows"),
        pytest.param(0.85, 10, 8, 0.05, id="and the rest of the time is kept for the next"),
        pytest.param(0.0, 10, 0, 0.0, id="none when no time has passed"),
        pytest.param(60, 10, 20, 0.0, id="nobody makes up for a minute at once"),
        pytest.param(0.8, 0.5, 0, 0.8, id="a slow one waits"),
        pytest.param(2.0, 0.5, 1, 0.0, id="until it is one"),
        pytest.param(90, 0.01, 0, 90, id="however slow it is"),
        pytest.param(100, 0.01, 1, 0.0, id="its time comes"),
    ],
)
def test_how_many_letters_a_replay_may_take_now(since: float, rate: float, due: int, left: float) -> None:
    found, last_at = allowance(ago(since), NOW, rate)
    assert found == due
    assert (NOW - last_at).total_seconds() == pytest.approx(left, abs=1e-3)


@given(st.floats(0.01, 1000), st.lists(st.floats(0.001, 30), min_size=1, max_size=30))
def test_a_replay_is_never_faster_than_its_rate_and_never_stands_still(rate: float, looks: list[float]) -> None:
    last_at = at = NOW
    taken = 0
    for seconds in looks:
        at += timedelta(seconds=seconds)
        due, last_at = allowance(last_at, at, rate)
        taken += due
        assert taken <= (at - NOW).total_seconds() * rate + 1e-3
        assert due <= max(BURST_S * rate, 1) + 1e-3
    due, _ = allowance(last_at, at + timedelta(seconds=1 / rate + 1e-3), rate)
    assert due >= 1
