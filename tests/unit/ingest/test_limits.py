"""Rates and quotas, as rules: what a bucket lets through in any time, and what a sum may be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ingest.limits import PERIODS, Limits, Period, key_of, over, seconds_left, take
from ingest.load import AGAIN_MAX_S, Load

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@given(st.floats(0.01, 1000), st.integers(1, 1000), st.lists(st.floats(0, 20), max_size=200))
def test_in_any_time_no_more_pass_than_the_burst_and_what_fills(per_s: float, burst: int, gaps: list[float]) -> None:
    full_at, now, passed = NOW, NOW, 0
    for gap in [0.0] * (burst % 50) + gaps:
        now += timedelta(seconds=gap)
        bucket = take(full_at, now, per_s, burst)
        full_at, passed = bucket.full_at, passed + bucket.taken
        elapsed = (now - NOW).total_seconds()
        assert passed <= burst + elapsed * per_s + 1e-3 * per_s + 1
        assert bucket.left <= burst - bucket.taken


@given(st.floats(0.01, 1000), st.integers(1, 300))
def test_a_full_bucket_gives_its_burst_and_then_says_when_there_is_one_again(per_s: float, burst: int) -> None:
    full_at = NOW - timedelta(days=1)
    for left in range(burst - 1, -1, -1):
        bucket = take(full_at, NOW, per_s, burst)
        assert bucket.taken
        assert bucket.left in (left, left - 1)  # times are whole microseconds
        full_at = bucket.full_at
    refused = take(full_at, NOW, per_s, burst)
    assert not refused.taken
    assert refused.wait_s == pytest.approx(1 / per_s, abs=1e-3)
    assert take(full_at, NOW + timedelta(seconds=refused.wait_s + 1e-3), per_s, burst).taken


@pytest.mark.parametrize(
    ("period", "key", "left_s"),
    [("day", "2026-01-31", 12 * 3600), ("month", "2026-01", 12 * 3600), ("stored", "stored", 3600)],
)
def test_a_sum_begins_anew_at_midnight_and_on_the_first(period: Period, key: str, left_s: float) -> None:
    assert key_of(period, NOW) == key
    assert seconds_left(period, NOW) == left_s


def test_a_month_is_as_long_as_it_is() -> None:
    assert seconds_left("month", datetime(2024, 2, 1, tzinfo=UTC)) == 29 * 24 * 3600
    assert seconds_left("month", datetime(2026, 12, 31, 23, tzinfo=UTC)) == 3600


@given(st.integers(0, 100), st.integers(0, 100), st.none() | st.integers(0, 100), st.none() | st.integers(0, 100))
def test_a_quota_is_over_when_one_of_its_sums_is(
    files: int, size: int, files_max: int | None, most: int | None
) -> None:
    for period in PERIODS:
        name = "stored" if period == "stored" else f"per_{period}"
        limits = Limits.model_validate({f"files_{name}": files_max, f"bytes_{name}": most})
        wanted = (files_max is not None and files > files_max) or (most is not None and size > most)
        assert bool(over(limits, period, files, size)) == wanted
        assert not any(over(limits, other, files, size) for other in PERIODS if other != period)


@pytest.mark.parametrize("wrong", [{"burst": 0}, {"uploads_per_s": 0}, {"files_per_day": -1}, {"files_per_week": 1}])
def test_a_limit_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(wrong)


@pytest.mark.parametrize(
    ("load", "code", "after_s"),
    [
        pytest.param(Load(jobs=9, tenants={"a": 9}, per_s=2), None, 0, id="there is room"),
        pytest.param(Load(jobs=29, tenants={"a": 9}, per_s=2), "PIPELINE_FULL", 10, id="20 have to end first"),
        pytest.param(Load(jobs=10, tenants={"a": 9}, per_s=2), "PIPELINE_FULL", 5, id="never sooner than in 5 s"),
        pytest.param(Load(jobs=10, tenants={}, per_s=0), "PIPELINE_FULL", AGAIN_MAX_S, id="nobody knows when"),
        pytest.param(Load(jobs=1, tenants={}, queue=0.8), "PIPELINE_FULL", AGAIN_MAX_S, id="the queue is nearly full"),
        pytest.param(Load(jobs=5, tenants={"a": 5}, per_s=1), "QUOTA_EXCEEDED", 5, id="the tenant has enough at work"),
        pytest.param(Load(jobs=5, tenants={"b": 5}, per_s=1), None, 0, id="another's are not its own"),
    ],
)
def test_how_full_is_too_full(load: Load, code: str | None, after_s: float) -> None:
    tenant_max = 5 if load.tenants != {"a": 9} else None
    refused = load.refusal("a", 10, tenant_max)
    assert (refused and refused.code) == code
    assert (refused.retry_after_s if refused else 0) == after_s
