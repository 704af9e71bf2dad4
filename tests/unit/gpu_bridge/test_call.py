"""The law of a call: how it moves, what it is called, when its time is up, what is kept of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.artifacts import ObjectRef
from contracts.envelope import ItemResult, Progress, StoredOutput
from contracts.errors import SafelightError
from contracts.phases import RunPhase
from gpu_bridge.call import (
    LEASED,
    TRANSITIONS,
    Call,
    Move,
    State,
    after,
    idempotency_key,
    kept,
    must_end_by,
    numbers,
    output_keys,
    overdue,
    shown,
)
from gpu_bridge.catalog import FUNCTIONS, Clocks, Function, function_named
from gpu_bridge.erasing import LINKS_LIVE_MAX

STYLE = function_named("style.apply")
T = datetime(2026, 1, 1, tzinfo=UTC)
CLOCKS = Clocks(queue_s=240, start_s=120, stall_s=60, run_s=200)


def s(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


# -- moves ------------------------------------------------------------------------------------------


def reached(start: State) -> set[State]:
    """Every state that a call in this one can come to."""
    found, left = {start}, [start]
    while left:
        state = left.pop()
        fresh = {to for (before, _), to in TRANSITIONS.items() if before is state} - found
        found |= fresh
        left += fresh
    return found


def test_every_state_can_be_come_to() -> None:
    assert reached(State.QUEUED) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_way_to_an_end(state: State) -> None:
    assert any(other.is_terminal for other in reached(state))


@pytest.mark.parametrize("state", [state for state in State if not state.is_terminal])
def test_what_is_not_over_can_fail(state: State) -> None:
    """So that a clock that runs out has something to do, whatever the state."""
    assert (state, Move.FAIL) in TRANSITIONS


@pytest.mark.parametrize("state", [state for state in State if state.is_terminal])
def test_an_end_is_left_only_when_a_command_asks_again(state: State) -> None:
    assert [(move, to) for (before, move), to in TRANSITIONS.items() if before is state] == [(Move.AGAIN, State.QUEUED)]


def test_an_epoch_is_begun_before_anything_is_bought() -> None:
    assert [before for (before, move) in TRANSITIONS if move is Move.LEASE] == [State.QUEUED]
    assert {to for (_, move), to in TRANSITIONS.items() if move is Move.LEASE} == {State.SUBMITTING}
    assert {before for (before, _), to in TRANSITIONS.items() if to is State.RUNNING} == {State.SUBMITTING}
    assert {before for (before, _), to in TRANSITIONS.items() if to in LEASED and before not in LEASED} == {
        State.QUEUED
    }


def test_a_success_counts_whatever_was_asked_for_meanwhile() -> None:
    assert {before for (before, move) in TRANSITIONS if move is Move.SUCCEED} == set(LEASED)


@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("state", State)
def test_what_the_table_does_not_allow_does_not_happen(state: State, move: Move) -> None:
    if (state, move) in TRANSITIONS:
        assert after(state, move) is TRANSITIONS[state, move]
    else:
        with pytest.raises(KeyError):
            after(state, move)


# -- names ------------------------------------------------------------------------------------------

SHA = {"image": "1" * 64, "lut": "2" * 64, "other": "3" * 64}
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2, allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def ref(sha256: str, key: str = "uploads/x") -> ObjectRef:
    return ObjectRef(key=key, sha256=sha256, size=1, media_type="image/png")


def command(**changes: Any) -> RunPhase:
    about: dict[str, Any] = {
        "job_id": UUID(int=1),
        "phase": "style",
        "attempt": 1,
        "tenant": "demo",
        "inputs": {"image": ref(SHA["image"]), "lut": ref(SHA["lut"])},
        "parameters": {"strength": 0.5},
        "deadline": T,
    }
    return RunPhase(**about | changes)


def key_of(**changes: Any) -> str:
    return idempotency_key(command(**changes), STYLE)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"tenant": "other"}, id="another tenant"),
        pytest.param({"parameters": {"strength": 0.6}}, id="another parameter"),
        pytest.param({"parameters": {}}, id="a parameter less"),
        pytest.param({"parameters": {"strength": "0.5"}}, id="a parameter of another type"),
        pytest.param({"inputs": {"image": ref(SHA["other"]), "lut": ref(SHA["lut"])}}, id="another picture"),
        pytest.param({"inputs": {"image": ref(SHA["image"]), "lut": ref(SHA["other"])}}, id="another style"),
        pytest.param({"inputs": {"image": ref(SHA["lut"]), "lut": ref(SHA["image"])}}, id="the two exchanged"),
        pytest.param({"engine": "cpu"}, id="for another engine"),
        pytest.param({"providers": ["local"]}, id="for some providers only"),
    ],
)
def test_other_work_has_another_name(changes: dict[str, Any]) -> None:
    assert key_of(**changes) != key_of()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"job_id": uuid4(), "phase": "again", "attempt": 7, "item": "p1"}, id="whoever asks, and how often"
        ),
        pytest.param({"deadline": s(60)}, id="however long they wait"),
        pytest.param({"force": True}, id="though the result is not good enough"),
        pytest.param(
            {
                "inputs": {
                    "image": ref(SHA["image"], "jobs/9/x.png"),
                    "lut": ref(SHA["lut"]),
                    "original": ref(SHA["other"]),
                }
            },
            id="wherever its inputs lie, whatever else is there",
        ),
    ],
)
def test_the_same_work_has_the_same_name(changes: dict[str, Any]) -> None:
    assert key_of(**changes) == key_of()


def test_another_function_or_version_of_it_is_other_work() -> None:
    keys = {idempotency_key(command(), one) for one in (STYLE, replace(STYLE, version=2), replace(STYLE, name="x"))}
    assert len(keys) == 3


def test_the_order_of_providers_means_nothing() -> None:
    assert key_of(providers=["modal", "local"]) == key_of(providers=["local", "modal"])


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_parameters_means_nothing(parameters: dict[str, Any], chance: Any) -> None:
    assert key_of(parameters=shuffled(parameters, chance)) == key_of(parameters=parameters)


def shuffled(value: Any, chance: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        chance.shuffle(names)
        return {name: shuffled(value[name], chance) for name in names}
    return [shuffled(one, chance) for one in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_other_parameters_are_other_work(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of(parameters=one) == key_of(parameters=other)) == same


def test_a_name_is_a_part_of_a_path_and_tells_nothing() -> None:
    name = key_of(parameters={"text": "Müller"})
    assert len(name) == 64
    assert set(name) <= set("0123456789abcdef")


@pytest.mark.parametrize("role", ["image", "lut"])
def test_work_that_lacks_an_input_has_no_name(role: str) -> None:
    inputs = {name: ref(SHA[name]) for name in ("image", "lut") if name != role}
    with pytest.raises(SafelightError, match=role) as problem:
        key_of(inputs=inputs)
    assert problem.value.code == "OBJECT_MISSING"


# -- clocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "started", "heard", "deadline", "now", "code"),
    [
        pytest.param(1, None, None, 999, 119, None, id="it may still start"),
        pytest.param(1, None, None, 999, 120, "CALL_START_DEADLINE", id="it has not started"),
        pytest.param(1, 100, None, 999, 130, None, id="once it has started, that clock is over"),
        pytest.param(1, 100, None, 999, 160, "CALL_STALLED", id="it has told nothing since it started"),
        pytest.param(1, 100, 140, 999, 199, None, id="it has told something"),
        pytest.param(1, 100, 140, 999, 200, "CALL_STALLED", id="and then nothing more"),
        pytest.param(1, 100, 299, 999, 300, "CALL_RUN_DEADLINE", id="it takes too long, however much it tells"),
        pytest.param(2, 100, 299, 999, 300, None, id="two calls have twice the time"),
        pytest.param(1, None, None, 50, 50, "CALL_DEADLINE", id="nobody waits any more for its start"),
        pytest.param(1, 10, 49, 50, 50, "CALL_DEADLINE", id="nobody waits any more for its end"),
        pytest.param(1, None, None, 50, 120, "CALL_START_DEADLINE", id="the nearer cause is told"),
    ],
)
def test_clocks(
    calls: int, started: float | None, heard: float | None, deadline: float, now: float, code: str | None
) -> None:
    began, told = (None if at is None else s(at) for at in (started, heard))
    assert overdue(CLOCKS, calls, T, began, told, s(deadline), s(now)) == code


@given(
    calls=st.integers(1, 8),
    spawned=st.floats(0, 1000),
    started=st.none() | st.floats(0, 1000),
    heard=st.none() | st.floats(0, 1000),
    deadline=st.floats(0, 5000),
)
def test_whatever_happens_a_clock_runs_out(
    calls: int, spawned: float, started: float | None, heard: float | None, deadline: float
) -> None:
    began = None if started is None else s(spawned + started)
    told = None if heard is None or began is None else began + timedelta(seconds=heard)
    assert overdue(CLOCKS, calls, s(spawned), began, told, s(deadline), s(10_000)) is not None


@pytest.mark.parametrize(
    ("calls", "deadline", "ends"),
    [(1, 1000, 320), (3, 1000, 720), (1, 100, 100)],
    ids=["its own time", "of all that travel together", "no longer than anybody waits"],
)
def test_a_submission_ends_by_itself(calls: int, deadline: float, ends: float) -> None:
    assert must_end_by(CLOCKS, calls, s(deadline), T) == s(ends)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
def test_no_link_outlives_the_time_after_which_what_was_erased_is_looked_after_once_more(function: Function) -> None:
    largest = 64  # of `Limits.batch`
    assert must_end_by(function.clocks, largest, T + timedelta(days=365), T) < T + LINKS_LIVE_MAX


# -- what is kept -----------------------------------------------------------------------------------


def a_call() -> Call:
    return Call("k" * 64, 3, uuid4(), "style.apply", "demo", State.RUNNING, "modal", "fc-1", s(60), T)


def answers(**keys: str) -> ItemResult:
    outputs = {
        role: StoredOutput(key=key, sha256="0" * 64, size=1, media_type="image/png", width=1, height=1)
        for role, key in keys.items()
    }
    return ItemResult(id="k" * 64, outputs=outputs, facts={"n": 1})


@pytest.mark.parametrize(("device", "degraded"), [("L4", False), ("cpu", True)])
def test_an_answer_is_kept_under_the_names_of_its_function(device: str, degraded: bool) -> None:
    call = a_call()
    found = kept(call, STYLE, answers(**output_keys(call.prefix, STYLE)), "lut@1", device)
    [artifact] = found.artifacts
    assert (artifact.name, artifact.key) == ("image.png", RIGHT)
    assert (found.facts, found.engine, found.degraded) == ({"n": 1}, "lut@1", degraded)


RIGHT = f"calls/demo/{'k' * 64}/3/image.png"


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"image": "uploads/x"}, id="another object"),
        pytest.param({"image": RIGHT.replace("/3/", "/2/")}, id="an object of another epoch"),
        pytest.param({"image": RIGHT.replace("demo", "other")}, id="an object of another tenant"),
        pytest.param({"image": RIGHT, "more": "calls/x"}, id="one more"),
        pytest.param({"picture": RIGHT}, id="another role"),
    ],
)
def test_an_answer_that_names_other_objects_is_refused(keys: dict[str, str]) -> None:
    with pytest.raises(SafelightError) as problem:
        kept(a_call(), STYLE, answers(**keys), "lut@1", "L4")
    assert problem.value.code == "ANSWER_INVALID"


def test_only_numbers_of_a_progress_mark_travel_and_not_many() -> None:
    facts = {"loss": 0.5, "better": True, "name": "x", "list": [1], "none": None, "k" * 65: 1}
    assert numbers(Progress(fraction=0.5, at=T, facts=facts)) == {"loss": 0.5, "better": True}
    assert len(numbers(Progress(fraction=0.5, at=T, facts={f"n{n}": n for n in range(100)}))) == 16


def test_what_is_shown_before_the_end_is_an_object_that_was_asked_for() -> None:
    outputs = answers(image=RIGHT, other="uploads/x").outputs
    [artifact] = shown(a_call(), STYLE, Progress(fraction=0.5, at=T, outputs=outputs))
    assert (artifact.name, artifact.key) == ("image.png", RIGHT)
    elsewhere = answers(image="uploads/x").outputs
    assert shown(a_call(), STYLE, Progress(fraction=0.5, at=T, outputs=elsewhere)) == ()
