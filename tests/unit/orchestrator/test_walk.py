"""A walk through every state that the inputs of some small pipelines lead to.

It proves that the two tables of transitions are exactly what the machine does: each row is met, and
whatever moves in one step moves by a row. And that no state is a dead end: from each there is a way on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from contracts.jobs import Status
from orchestrator.machine.decide import Room, decide
from orchestrator.machine.inputs import Admitted, Begin, Cancel, Input, Pause, Progressed, Retry
from orchestrator.machine.job import JOB_TRANSITIONS, TRANSITIONS, Job, Stand
from orchestrator.machine.pipeline import Pipeline
from tests.unit.orchestrator.given import START, phase, pipeline, upload
from tests.unit.orchestrator.laws import consistent, in_order, owned
from tests.unit.orchestrator.moves import possible

PAGES = {"pages": ["p1", "p2"]}
Facts = tuple[dict[str, Any], ...]

WALKS: dict[str, tuple[Pipeline, Facts]] = {
    "one phase with retries, a lease and a fallback": (
        pipeline(phase("a", fallback="cpu", stall_s=5.0)),
        ({},),
    ),
    "one that takes the fallback at once": (
        pipeline(phase("a", fallback="cpu", unavailable="fallback", retry={})),
        ({},),
    ),
    "two, the second by a condition, the first optional": (
        pipeline(phase("a", on_failure="skip", retry={}), phase("b", "a", when="a.go", retry={})),
        ({}, {"go": True}),
    ),
    "two side by side and one after them": (
        pipeline(phase("a", retry={}), phase("b", retry={}), phase("c", "a", "b", retry={})),
        ({},),
    ),
    "pages of which none may fail": (
        pipeline(phase("a", retry={}), phase("b", "a", each="a.pages", retry={})),
        ({}, PAGES, {"pages": "none"}, {"pages": [0] * 1001}),
    ),
    "pages that can be done without, one after the other": (
        pipeline(
            phase("a", retry={}),
            phase("b", "a", each="a.pages", retry={}, on_failure="skip"),
            phase("c", "b", each="a.pages", retry={}, on_failure="degrade"),
        ),
        ({"pages": ["p1"]},),
    ),
    "a phase that an older version left out": (
        pipeline(phase("a", when="options.style", retry={})),
        ({},),
    ),
}
NONE, ONE = ({name: Room(free) for name in "abc"} for free in (0, 1))
Edge = tuple[Job | None, Input, Job]


def shape(job: Job) -> object:
    """What tells two states apart. Times and the number of attempts do not: they would never come to an end."""
    units = tuple(
        (name, item, state.stand, state.failures, state.engine_only, state.deferred_by, bool(state.code))
        for name, item, state in job.units()
    )
    return job.status, job.paused_until is None, job.pipeline_version, units


@cache
def walked(name: str) -> tuple[list[Edge], int]:
    """Every step of a walk, and the number of states."""
    pinned, facts = WALKS[name]
    newest = replace(pinned, version=2, phases=tuple(replace(one, when=None) for one in pinned.phases))
    both = {1: pinned, 2: newest}
    edges: list[Edge] = []
    seen: set[object] = set()
    frontier: list[Job | None] = [None]
    while frontier:
        job = frontier.pop()
        for given, rooms in steps(job, pinned, newest, facts):
            decision = decide(job, 1, both[job.pipeline_version] if job else None, given, rooms)
            after = decision.job
            if decision.ignored or after is None:
                continue
            edges.append((job, given, after))
            if (reached := shape(after)) not in seen:
                seen.add(reached)
                frontier.append(after)
    return edges, len(seen)


def steps(job: Job | None, pinned: Pipeline, newest: Pipeline, facts: Facts) -> Iterator[tuple[Input, dict[str, Room]]]:
    if job is None:
        for rooms in ({}, NONE):
            for media_type in ("image/jpeg", "text/plain"):
                yield Begin(upload(media_type, pinned.name), pinned, START), rooms
        return
    for given in possible(job, [pinned, replace(newest, accepts=("image/jpeg", "text/plain"))], facts):
        yield given, {}
        if not isinstance(given, Progressed | Cancel | Pause):  # these give no commands
            yield given, NONE
            if isinstance(given, Admitted):
                yield given, ONE


@pytest.mark.parametrize("name", WALKS)
def test_no_state_is_a_dead_end_and_each_has_an_owner(name: str) -> None:
    edges, count = walked(name)
    states = {shape(after): (given, after) for _, given, after in edges}
    for given, job in states.values():
        pinned = given.pipeline if isinstance(given, Begin | Retry) else None
        owned(job, pinned)
        in_order(job, pinned)
        for _, _, state in job.units():
            consistent(state, job)
    left = {shape(before) for before, _, _ in edges if before is not None}
    assert {job.status for reached, (_, job) in states.items() if reached not in left} <= {Status.SUCCEEDED}
    assert count == len(states) > 5


@cache
def met() -> set[tuple[Stand, Stand]]:
    """Each way in which a unit has moved in one step of any walk."""
    found = set()
    for name in WALKS:
        for before, _, after in walked(name)[0]:
            for phase_, item, state in after.units():
                was = before.phases.get(phase_) if before else None
                old = was.items.get(item) if was and item else was
                found.add((old.stand if old else Stand.BLOCKED, state.stand))
    return found


@pytest.mark.parametrize("row", TRANSITIONS, ids=lambda row: f"{row[0]} to {row[1]}")
def test_each_row_of_the_table_is_met(row: tuple[Stand, Stand]) -> None:
    assert row in met()


def test_whatever_moves_moves_along_the_table() -> None:
    """A decision may take a unit along several rows at once; each is checked by an assert in the machine."""
    reach = {(a, b) for a, b in TRANSITIONS} | {(stand, stand) for stand in Stand}
    twice = {(a, c) for a, b in reach for b_, c in reach if b == b_}
    thrice = {(a, c) for a, b in twice for b_, c in reach if b == b_}
    assert met() <= thrice


@cache
def jobs_met() -> set[tuple[Status, Status]]:
    """Each way in which a job has moved in one step of any walk."""
    return {
        (before.status if before else Status.QUEUED, after.status)
        for name in WALKS
        for before, _, after in walked(name)[0]
    }


@pytest.mark.parametrize("row", JOB_TRANSITIONS, ids=lambda row: f"{row[0]} to {row[1]}")
def test_each_row_of_the_jobs_table_is_met(row: tuple[Status, Status]) -> None:
    assert row in jobs_met()


def test_no_job_moves_but_by_its_table() -> None:
    for name in WALKS:
        for before, given, after in walked(name)[0]:
            was = before.status if before else Status.QUEUED
            at_once = isinstance(given, Retry) and after.is_over
            assert at_once or was is after.status or (was, after.status) in JOB_TRANSITIONS
