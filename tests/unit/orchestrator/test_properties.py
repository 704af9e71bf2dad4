"""What holds whatever arrives in whatever order. Most of it is checked by `laws` after every decision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.phases import PhaseFailed, PhaseSucceeded
from orchestrator.machine.decide import Room, decide
from orchestrator.machine.inputs import Failed, Input, Succeeded
from orchestrator.machine.job import Job
from tests.unit.orchestrator.given import BOOK, JOB, PHOTO, World, phase, pipeline
from tests.unit.orchestrator.moves import possible

MIXED = pipeline(
    phase("a", stall_s=5.0),
    phase("b", "a", when="a.go", fallback="cpu", unavailable="fallback", on_failure="degrade"),
    phase("c", "a", on_failure="skip", retry={}),
    phase("d", "b", "c"),
)
PIPELINES = [PHOTO, BOOK, MIXED]
choices = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3)), max_size=30)
strangers = st.builds(
    lambda phase, item, attempt, good, at: (phase, item, attempt, good),
    st.sampled_from(["a", "b", "c", "analyze", "nonsense"]),
    st.sampled_from([None, "p1", "nonsense"]),
    st.integers(1, 6),
    st.booleans(),
    st.none(),
)


def wander(world: World, chosen: list[tuple[int, int]]) -> World:
    """Let something happen, again and again; the second number of a choice says how much room there is."""
    assert world.pipeline is not None
    newest = replace(world.pipeline, version=2)
    for number, room in chosen:
        names = [phase.name for phase in world.pipeline.phases]
        world.rooms = {} if room == 3 else {name: Room(room, ahead=1) for name in names}
        inputs = list(possible(world.state, [world.pipeline, newest]))
        one = inputs[number % len(inputs)]
        world.at = max(world.at, one.at)
        world.give(one)
    return world


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PIPELINES), choices)
def test_any_order_of_anything_keeps_the_law(which: Any, chosen: list[tuple[int, int]]) -> None:
    wander(World(which).begins(style="warm"), chosen)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PIPELINES), choices, st.lists(strangers, max_size=20))
def test_what_nobody_waits_for_changes_nothing(
    which: Any, chosen: list[tuple[int, int]], late: list[tuple[str, str | None, int, bool]]
) -> None:
    world = wander(World(which).begins(style="warm"), chosen)
    for name, item, attempt, good in late:
        about: dict[str, Any] = {"job_id": JOB, "phase": name, "item": item, "attempt": attempt}
        given: Input = Failed(PhaseFailed(**about, code="CALL_LOST", ended_at=world.at), world.at)
        if good:
            done = PhaseSucceeded(**about, engine="late@1", started_at=world.at, ended_at=world.at)
            given = Succeeded(done, world.at)
        out = [(n, i, s.attempt) for n, i, s in world.state.units() if s.deadline]
        before = world.state
        world.give(given)
        assert (world.state is before) == ((name, item, attempt) not in out)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(PIPELINES), choices)
def test_every_job_ends_when_only_time_passes(which: Any, chosen: list[tuple[int, int]]) -> None:
    world = wander(World(which).begins(style="warm"), chosen)
    for _ in range(300):
        if world.state.is_over:
            return
        world.wakes()
        assert world.last.ignored is None, "what a job asked to be woken for is really due"
    raise AssertionError(f"it goes on for ever: {world.stands()}")


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PIPELINES), choices)
def test_the_same_inputs_twice_lead_to_the_same_job(which: Any, chosen: list[tuple[int, int]]) -> None:
    once = wander(World(which).begins(style="warm"), chosen)
    again = wander(World(which).begins(style="warm"), chosen)
    assert (once.state, once.effects) == (again.state, again.effects)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PIPELINES), choices)
def test_an_input_that_comes_twice_acts_once(which: Any, chosen: list[tuple[int, int]]) -> None:
    world = World(which).begins(style="warm")
    for one in chosen:
        wander(world, [one])
        if not world.last.ignored:
            inputs = list(possible(world.state, [world.pipeline] if world.pipeline else []))
            given = next((i for i in inputs if isinstance(i, Succeeded | Failed)), None)
            if given is not None:
                world.give(given)
                assert world.give(given).last.ignored


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(PIPELINES), choices)
def test_a_job_survives_being_written_down(which: Any, chosen: list[tuple[int, int]]) -> None:
    job = wander(World(which).begins(style="warm"), chosen).state
    assert msgspec.json.decode(written(job), type=Job, dec_hook=_model) == job


def written(job: Job) -> bytes:
    return msgspec.json.encode(job, enc_hook=lambda model: model.__dict__)


def _model(kind: Any, value: dict[str, Any]) -> Any:
    return kind.model_construct(**value)


def test_a_decision_leaves_the_job_that_it_was_made_of_untouched() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"])
    before = written(world.state)
    for one in possible(world.state, []):
        decide(world.state, 99, BOOK, one)
        assert written(world.state) == before
