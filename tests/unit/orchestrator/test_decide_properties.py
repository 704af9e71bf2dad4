"""What holds for every job, whatever arrives in whatever order.

Two ways to look: Hypothesis throws inputs in any order, twice, for attempts that are out, gone or
never were; and a walk visits every state that the inputs of one small pipeline can lead to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.jobs import Status
from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.pipelines import PHOTO
from tests.unit.orchestrator.given import FACE, START, WIRE, World

PHASES = [phase.name for phase in PHOTO.phases]
CODES = ["STORAGE_UNAVAILABLE", "IMAGE_CORRUPT", "OBJECT_MISSING", "NO_PROVIDER", "NEVER_HEARD_OF"]

happenings = st.one_of(
    st.tuples(st.just("succeeds"), st.sampled_from([*PHASES, "nonsense"]), st.integers(1, 5), st.booleans()),
    st.tuples(st.just("fails"), st.sampled_from([*PHASES, "nonsense"]), st.sampled_from(CODES), st.integers(1, 5)),
    st.tuples(st.just("time_passes"), st.sampled_from([0.0, 0.5, 1.0, 20.0, 121.0, 301.0, 4000.0])),
    st.tuples(st.just("begins")),
)


def check(job: Job, commands: list[tuple[str, int]]) -> None:
    """What must hold of every job at every moment."""
    assert len(commands) == len(set(commands)), "one attempt is never commanded twice"
    if job.status.is_terminal:
        assert job.wake_at is None
        assert job.ended_at is not None
        assert all(state.status.is_terminal for state in job.phases.values()), "nothing runs on in an ended job"
    else:
        assert job.wake_at is not None, "a job that is not over has a moment at which something is due"
        assert any(state.status is Status.RUNNING for state in job.phases.values()), "somebody owns it"
    for name, state in job.phases.items():
        if state.status is Status.RUNNING:
            assert (state.deadline is None) != (state.retry_at is None), "running is out or waiting, never both"
        else:
            assert state.deadline is None
            assert state.retry_at is None
        assert state.attempt == sum(1 for phase, _ in commands if phase == name)
        if state.status not in (Status.QUEUED, Status.CANCELLED):
            assert all(job.phases[need].is_done for need in PHOTO.phase(name).needs), "order is kept"


@settings(max_examples=150, deadline=None)
@given(st.lists(happenings, max_size=40), st.sampled_from([{}, {"style": "warm"}]))
def test_any_order_of_anything_keeps_the_law(what: list[tuple[Any, ...]], options: dict[str, str]) -> None:
    world = World().begins(**options)
    seen_end: Job | None = None
    for name, *args in what:
        if name == "succeeds":
            phase, attempt, rich = args
            world.succeeds(phase, attempt, image=rich, **(FACE | WIRE if rich else {}))
        else:
            getattr(world, str(name))(*args)
        check(world.state, [(c.phase, c.attempt) for c in world.commands])
        if seen_end is not None:
            assert world.state is seen_end, "an ended job changes no more"
        if world.state.status.is_terminal:
            seen_end = world.state
    endings = [t for t in world.told if t in ("job.v1.succeeded", "job.v1.failed", "job.v1.dead")]
    assert len(endings) == (1 if world.state.status.is_terminal else 0), "an end is told exactly once"


@settings(max_examples=100, deadline=None)
@given(st.lists(happenings, max_size=25))
def test_every_job_ends_when_only_time_passes(what: list[tuple[Any, ...]]) -> None:
    world = World().begins(style="warm")
    for name, *args in what:
        getattr(world, str(name))(*args) if name != "succeeds" else world.succeeds(args[0], args[1])
    for _ in range(100):
        wake_at = world.state.wake_at
        if wake_at is None:
            break
        world.at = max(world.at, wake_at)
        world.time_passes(0)
        assert world.last.ignored is None, "what a job asked to be woken for is really due"
    assert world.state.status.is_terminal


@settings(max_examples=100, deadline=None)
@given(st.lists(happenings, max_size=30))
def test_the_same_inputs_twice_lead_to_the_same_job(what: list[tuple[Any, ...]]) -> None:
    def play(times: int) -> Job:
        world = World().begins(style="warm")
        for name, *args in what:
            for _ in range(times if name != "time_passes" else 1):
                getattr(world, str(name))(*args) if name != "succeeds" else world.succeeds(args[0], args[1])
        return world.state

    assert play(1) == play(2)


SMALL = Pipeline(
    "small",
    1,
    ("image/jpeg",),
    1000.0,
    (
        Phase("a", "x", 10.0, (1.0,)),
        Phase("b", "x", 10.0, (1.0,), ("a",), "a.go"),
        Phase("c", "x", 10.0, (), ("a",)),
        Phase("d", "x", 10.0, (), ("b", "c")),
    ),
)


def test_a_walk_of_all_reachable_states_meets_every_status_and_never_gets_stuck() -> None:
    def shape(job: Job) -> object:
        phases = tuple((s.status, s.attempt, s.retry_at is None, s.deadline is None) for s in job.phases.values())
        return job.status, phases

    first = World(pipeline=SMALL).begins()
    frontier, seen, met = [first], {shape(first.state)}, set()
    while frontier:
        world = frontier.pop()
        met |= {(name, state.status) for name, state in world.state.phases.items()} | {("job", world.state.status)}
        if world.state.status.is_terminal:
            continue
        moves = 0
        running = [(name, state) for name, state in world.state.phases.items() if state.status is Status.RUNNING]
        for name, state in running:
            steps: list[Callable[..., World]] = [
                lambda w, n=name, a=state.attempt: w.succeeds(n, a, go=True),
                lambda w, n=name, a=state.attempt: w.succeeds(n, a, go=False),
                lambda w, n=name, a=state.attempt: w.fails(n, "STORAGE_UNAVAILABLE", a),
                lambda w, n=name, a=state.attempt: w.fails(n, "IMAGE_CORRUPT", a),
            ]
            wake = world.state.wake_at
            assert wake is not None
            steps.append(lambda w, due=wake: w.time_passes((due - w.at) / timedelta(seconds=1)))
            for step in steps:
                reached = replace(world, effects=[*world.effects])
                step(reached)
                if reached.last is not None and reached.last.ignored:
                    continue
                moves += 1
                if shape(reached.state) not in seen:
                    seen.add(shape(reached.state))
                    frontier.append(reached)
        assert moves, f"nothing can happen to {shape(world.state)}"
    assert {status for name, status in met if name == "job"} == {
        Status.RUNNING,
        Status.SUCCEEDED,
        Status.FAILED,
        Status.DEAD,
    }
    assert ("b", Status.SKIPPED) in met
    assert ("b", Status.CANCELLED) in met
    assert first.state.created_at == START
    assert len(seen) > 50
