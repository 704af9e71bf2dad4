"""Who goes next where work has to wait."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.machine.decide import Room
from orchestrator.machine.fairness import LANES, Limits, admit, room

Line = tuple[str, str]
A, B = ("bulk", "a"), ("bulk", "b")
FAST = ("interactive", "a")
limits = st.builds(Limits, st.none() | st.integers(1, 20), st.none() | st.integers(1, 10))
tenants = st.sampled_from("abcd")
lines = st.tuples(st.sampled_from(LANES), tenants)


def admitted(limits: Limits, running: dict[str, int], waiting: dict[Any, int], **weights: float) -> dict[Line, int]:
    return {(lane, tenant): count for lane, tenant, count in admit(limits, running, waiting, weights, {}, 1000)}


@pytest.mark.parametrize(
    ("limits", "running", "waiting", "weights", "next_"),
    [
        pytest.param(Limits(10, None), {"a": 7}, {A: 5}, {}, {A: 3}, id="as many as there is room for"),
        pytest.param(Limits(10, 8), {"a": 7}, {A: 5}, {}, {A: 1}, id="as many as one tenant may have"),
        pytest.param(Limits(None, 8), {"a": 7}, {A: 5}, {}, {A: 1}, id="a limit per tenant only"),
        pytest.param(Limits(None, None), {}, {A: 5}, {}, {A: 5}, id="no limit"),
        pytest.param(Limits(5, None), {"a": 9}, {A: 5}, {}, {}, id="a limit that was lowered"),
        pytest.param(Limits(1, None), {}, {A: 5000, B: 1}, {}, {A: 1}, id="of equals the names decide"),
        pytest.param(Limits(2, None), {"a": 1}, {A: 9, B: 1}, {"a": 9.0}, {B: 1}, id="whatever another weighs"),
        pytest.param(Limits(10, None), {"a": 9}, {A: 5000, B: 1}, {}, {B: 1}, id="who has nothing out goes first"),
        pytest.param(Limits(10, None), {"a": 2}, {A: 50, B: 50}, {}, {A: 3, B: 5}, id="until both have the same out"),
        pytest.param(Limits(12, None), {}, {A: 50, B: 50}, {"a": 2.0}, {A: 8, B: 4}, id="or as their weights say"),
        pytest.param(Limits(3, None), {}, {B: 9, FAST: 2}, {}, {FAST: 2, B: 1}, id="interactive goes before bulk"),
        pytest.param(Limits(3, 1), {}, {B: 9, FAST: 2}, {}, {FAST: 1, B: 1}, id="but leaves what it may not take"),
        pytest.param(Limits(3, None), {}, {A: 0, B: -1}, {}, {}, id="nobody waits"),
    ],
)  # fmt: skip
def test_who_goes_next(
    limits: Limits, running: dict[str, int], waiting: dict[Any, int], weights: dict[str, float], next_: dict[Any, int]
) -> None:
    assert admitted(limits, running, waiting, **weights) == next_


def test_no_more_are_admitted_than_one_look_may_take() -> None:
    assert admit(Limits(None, None), {}, {A: 50}, {}, {}, 7) == [("bulk", "a", 7)]


def test_of_equals_who_had_the_last_turn_longest_ago_goes_first_and_who_had_none_before_all() -> None:
    waiting: dict[Any, int] = {A: 9, B: 9, ("bulk", "c"): 9}
    one = Limits(1, None)
    assert admit(one, {}, waiting, {}, {"a": 3, "b": 2, "c": 1}, 9) == [("bulk", "c", 1)]
    assert admit(one, {}, waiting, {}, {"a": 3, "b": 2}, 9) == [("bulk", "c", 1)]
    assert admit(one, {"a": 0, "b": 0}, waiting, {}, {"a": 1, "b": 2, "c": 3}, 9) == [("bulk", "a", 1)]


@given(
    st.integers(1, 6),
    st.dictionaries(tenants, st.floats(0.01, 100), max_size=4),
    st.lists(tenants, min_size=2, max_size=4, unique=True),
)
def test_nobody_waits_for_ever_whatever_the_limit_and_the_weights(
    places: int, weights: dict[str, float], names: list[str]
) -> None:
    """Each tenant always has something that waits; with every ending one of them goes. All get their turn."""
    waiting: dict[Any, int] = {("bulk", name): 1_000_000 for name in names}
    out: list[str] = []
    turns: dict[str, int] = {}
    taken: Counter[str] = Counter()
    for n in range(1, 200):
        for _, name, count in admit(Limits(places, None), Counter(out), waiting, weights, turns, 1000):
            out += [name] * count
            turns[name] = n
            taken[name] += count
        out.pop(0)
    assert set(taken) == set(names)
    if places == 1:
        assert max(taken.values()) - min(taken.values()) <= 1, "they take turns"


def test_what_becomes_ready_does_not_overtake_what_waits() -> None:
    limits = Limits(10, 5)
    assert room(limits, running=4, running_of_tenant=2, waiting={}, tenant="a") == Room(3, 0)
    assert room(limits, 4, 2, {B: 1}, "a") == Room(0, 0)
    assert room(limits, 4, 2, {A: 40, FAST: 2, B: 7}, "a") == Room(0, 42)


@given(
    limits, st.dictionaries(tenants, st.integers(0, 12)), st.dictionaries(lines, st.integers(0, 30)), st.integers(0, 40)
)
def test_limits_hold_nobody_is_invented_and_no_room_is_left_while_somebody_could_use_it(
    limits: Limits, running: dict[str, int], waiting: dict[Any, int], most: int
) -> None:
    taken = {(lane, tenant): count for lane, tenant, count in admit(limits, running, waiting, {}, {}, most)}
    after = Counter(running)
    for (_, tenant), count in taken.items():
        after[tenant] += count
    assert all(0 < count <= waiting[line] for line, count in taken.items())
    assert sum(taken.values()) <= most
    for tenant in after:
        grew = after[tenant] > running.get(tenant, 0)
        assert not grew or limits.running_max_per_tenant is None or after[tenant] <= limits.running_max_per_tenant
    assert not taken or limits.running_max is None or after.total() <= limits.running_max
    left = {line: count - taken.get(line, 0) for line, count in waiting.items()}
    could = [line for line, count in left.items() if count > 0 and limits.free(after.total(), after[line[1]]) > 0]
    assert not could or sum(taken.values()) == most
