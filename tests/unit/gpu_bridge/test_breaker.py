"""When a provider is left alone, and how it is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_bridge.breaker import FAILURES, PAUSE_MAX_S, PAUSE_S, PROBE_S, Breaker, Circuit

T = datetime(2026, 1, 1, tzinfo=UTC)
moves = st.lists(st.tuples(st.sampled_from(("sent", "succeeded", "failed")), st.floats(0, 400)), max_size=60)


def s(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def failing(times: int, at: float = 0, circuit: Circuit = Circuit()) -> Circuit:  # noqa: B008  # frozen
    for _ in range(times):
        circuit = circuit.failed(s(at))
    return circuit


def moved(circuit: Circuit, move: str, now: datetime) -> Circuit:
    return circuit.succeeded() if move == "succeeded" else getattr(circuit, move)(now)


def test_a_few_failures_are_borne() -> None:
    circuit = failing(FAILURES - 1)
    assert (circuit.blocked_until(T), circuit.is_half_open) == (None, False)
    assert circuit.sent(T) == circuit, "no probe is needed"


def test_failures_in_a_row_open_it_and_one_success_forgets_them() -> None:
    assert failing(FAILURES).blocked_until(T) == s(PAUSE_S)
    assert failing(1, circuit=failing(FAILURES - 1).succeeded()).blocked_until(T) is None


def test_closed_open_half_open_closed() -> None:
    circuit = failing(FAILURES)
    assert circuit.blocked_until(s(PAUSE_S - 0.001)) == s(PAUSE_S)
    assert (circuit.blocked_until(s(PAUSE_S)), circuit.is_half_open) == (None, True)
    circuit = circuit.sent(s(20))
    assert circuit.blocked_until(s(21)) == s(20 + PROBE_S), "one probe at a time"
    circuit = circuit.succeeded()
    assert (circuit, circuit.blocked_until(s(21))) == (Circuit(), None)


def test_closed_open_half_open_open_for_twice_as_long() -> None:
    circuit = failing(FAILURES).sent(s(20)).failed(s(30))
    assert circuit.blocked_until(s(31)) == s(30 + 2 * PAUSE_S)
    assert circuit.sent(s(70)).failed(s(80)).blocked_until(s(81)) == s(80 + 4 * PAUSE_S)


def test_a_probe_that_is_never_heard_of_gives_way_to_the_next() -> None:
    circuit = failing(FAILURES).sent(s(20))
    assert circuit.blocked_until(s(20 + PROBE_S - 1)) is not None
    assert circuit.blocked_until(s(20 + PROBE_S)) is None


@pytest.mark.parametrize("times", [FAILURES + 20, 5000], ids=["many", "an outage of days"])
def test_a_pause_has_a_longest(times: int) -> None:
    assert failing(times).blocked_until(T) == s(PAUSE_MAX_S)


@given(moves)
def test_nobody_is_left_alone_for_ever(steps: list[tuple[str, float]]) -> None:
    circuit, now = Circuit(), T
    for move, later in steps:
        now += timedelta(seconds=later)
        circuit = moved(circuit, move, now)
        until = circuit.blocked_until(now)
        assert until is None or now < until <= now + timedelta(seconds=max(PAUSE_MAX_S, PROBE_S))
    assert circuit.blocked_until(now + timedelta(seconds=PAUSE_MAX_S + PROBE_S)) is None


@given(moves)
def test_it_is_open_only_after_failures_in_a_row(steps: list[tuple[str, float]]) -> None:
    circuit, now, in_a_row, opened = Circuit(), T, 0, False
    for move, later in steps:
        now += timedelta(seconds=later)
        circuit = moved(circuit, move, now)
        in_a_row = {"failed": in_a_row + 1, "succeeded": 0, "sent": in_a_row}[move]
        opened = in_a_row >= FAILURES
        assert circuit.is_half_open == opened


def test_circuits_are_of_a_provider_and_a_function() -> None:
    breaker = Breaker()
    places: list[tuple[str, str]] = [("modal", "style"), ("modal", "retouch"), ("local", "style")]
    for number in range(FAILURES):
        breaker.failed(*places[0], f"call {number}", T)
    assert [breaker.of(*place).blocked_until(T) for place in places] == [s(PAUSE_S), None, None]
    breaker.sent(*places[0], s(20))
    assert breaker.of(*places[0]).blocked_until(s(21)) == s(20 + PROBE_S)
    breaker.succeeded(*places[0])
    assert breaker.of(*places[0]) == Circuit()


def test_one_call_that_kills_whoever_works_on_it_closes_nothing_to_the_others() -> None:
    breaker = Breaker()
    for _ in range(FAILURES * 3):
        breaker.failed("modal", "style", "poison", T)
    assert breaker.of("modal", "style").blocked_until(T) is None
    for number in range(FAILURES - 1):
        breaker.failed("modal", "style", f"call {number}", T)
    assert breaker.of("modal", "style").blocked_until(T) == s(PAUSE_S)


def test_a_probe_that_fails_counts_whoever_it_was() -> None:
    breaker = Breaker()
    for number in range(FAILURES):
        breaker.failed("modal", "style", f"call {number}", T)
    breaker.sent("modal", "style", s(20))
    breaker.failed("modal", "style", "call 0", s(30))
    assert breaker.of("modal", "style").blocked_until(s(31)) == s(30 + 2 * PAUSE_S)
