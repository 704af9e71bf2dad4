"""Which phases an ended job does again, and which keep what they made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from contracts.jobs import Status
from orchestrator.machine.inputs import Retry
from orchestrator.machine.job import TRANSITIONS, Job, PhaseState, Unit
from orchestrator.machine.pipeline import Pipeline

PARAMETERS_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """The job's phases as they begin again, in the order of the pipeline, and which of their units moved."""

    phases: Mapping[str, PhaseState]
    moved: tuple[Unit, ...]
    spent: Mapping[str, int]


def plan(job: Job, given: Retry, pinned: Pipeline | None) -> Plan | str:
    """How to begin again; a text says why not. `pinned` is what the job went by before, None when nobody knows it."""
    pipeline, start = given.pipeline, given.from_phase
    if pipeline.name != job.pipeline:
        return f"the job is one of pipeline {job.pipeline}"
    if job.original.media_type not in pipeline.accepts:
        return f"{pipeline.name} does not take {job.original.media_type}"
    if start not in (None, Retry.START, Retry.DEGRADED) and not pipeline.has(start):
        return f"the pipeline has no phase {start}"
    roots, anew = _roots(job, given, pinned)
    again = _again(job, pipeline, roots, anew)
    if not again:
        return "there is nothing to do again"
    takers = again if start == Retry.START else roots
    for name in given.parameters:
        if not any(name in pipeline.phase(taker).parameters for taker in takers):
            return f"no phase that it starts from takes a parameter {name}"
    if len(json.dumps(dict(given.parameters))) > PARAMETERS_BYTES_MAX:
        return f"the parameters have more than {PARAMETERS_BYTES_MAX} bytes"
    phases: dict[str, PhaseState] = {}
    moved: dict[Unit, None] = {}
    for phase in pipeline.in_order:
        name = phase.name
        before = job.phases.get(name)
        state = before or PhaseState(attempt=job.spent.get(name, 0))
        if name in again:
            state = state.again(force=given.force) if again[name] else _some_items_anew(state, given.force)
        if start == Retry.START:
            state = replace(state, overrides={})
        if name in takers and (mine := {k: v for k, v in given.parameters.items() if k in phase.parameters}):
            state = replace(state, overrides={**state.overrides, **mine})
        phases[name] = state
        if before is not state:
            moved[name, None] = None
            moved |= {
                (name, id_): None for id_, unit in state.items.items() if before and before.items[id_] is not unit
            }
        assert before is None or before is state or (before.stand, state.stand) in TRANSITIONS
    gone = {
        name: max(state.attempt, job.spent.get(name, 0)) for name, state in job.phases.items() if name not in phases
    }
    spent = {name: attempt for name, attempt in {**job.spent, **gone}.items() if attempt and name not in phases}
    return Plan({phase.name: phases[phase.name] for phase in pipeline.phases}, tuple(moved), spent)


def _roots(job: Job, given: Retry, pinned: Pipeline | None) -> tuple[set[str], set[str]]:
    """The phases from which on work is done again, and those of them that keep none of their items.

    That are those asked for and those defined anew (which keep none), and those that went wrong.
    """
    pipeline = given.pipeline
    anew = {p.name for p in pipeline.phases if not (pinned and pinned.has(p.name)) or p.name not in job.phases}
    if pinned is not None and pinned.version != pipeline.version:
        anew |= {p.name for p in pipeline.phases if pinned.has(p.name) and not p.does_the_same(pinned.phase(p.name))}
    if given.from_phase == Retry.START:
        anew |= {phase.name for phase in pipeline.phases if not phase.needs}
    elif given.from_phase == Retry.DEGRADED:
        anew |= {name for name, state in job.phases.items() if pipeline.has(name) and state.stood_in}
    elif given.from_phase is not None:
        anew.add(given.from_phase)
    wrong = {name for name, state in job.phases.items() if pipeline.has(name) and not state.is_done}
    if given.from_phase is None:
        wrong |= {
            name
            for name, state in job.phases.items()
            if pipeline.has(name) and (state.gave_up or any(unit.gave_up for unit in state.items.values()))
        }
    return wrong | anew, anew


def _again(job: Job, pipeline: Pipeline, roots: set[str], anew: set[str]) -> dict[str, bool]:
    """The phases that are done again: all of them (True), or only their items that went wrong (False)."""
    again: dict[str, bool] = {}
    for phase in pipeline.in_order:
        name = phase.name
        above = [again[need] or not pipeline.follows(name, need) for need in phase.needs if need in again]
        if name in roots or above:
            state = job.phases.get(name)
            keeps = state is not None and any(unit.status is Status.SUCCEEDED for unit in state.items.values())
            again[name] = name in anew or any(above) or not keeps
    return again


def _some_items_anew(state: PhaseState, force: bool) -> PhaseState:
    """Items that went wrong begin anew. What succeeded has mates that did, so those are not done again either."""
    items = {
        id_: unit if unit.status is Status.SUCCEEDED else unit.again(force=force) for id_, unit in state.items.items()
    }
    anew = {"status": Status.RUNNING, "ended_at": None, "code": None, "detail": None, "degraded": False}
    return replace(state, **anew, items=items, made_by=None)
