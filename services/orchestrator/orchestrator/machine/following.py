"""What follows from what is over: phases that begin or are skipped, items that spread, units that are given up.

One pass in the order of the needs is enough: whatever a phase waits for stands before it.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from contracts.errors import ERRORS, ErrorCode
from contracts.jobs import Status
from contracts.topology import BODY_BYTES_MAX
from orchestrator.machine.job import PhaseState
from orchestrator.machine.pipeline import Phase
from orchestrator.machine.step import Step, ending

ITEMS_MAX: Final = 1000  # of all phases of a job together: one event may have to tell of each of them, see `telling`
COMMAND_BYTES_MAX: Final = BODY_BYTES_MAX - 1024  # a later attempt has a longer number and may name an engine


def advance(step: Step) -> None:
    """Begin or skip whatever has nothing before it any more; end the job when all is over."""
    if step.over:
        return
    phases, done = step.phases, True
    for phase in step.pipeline.in_order:
        state = phases[phase.name]
        if state.is_done:
            continue
        if state.status is Status.QUEUED:
            if state.ready_at is None and _may_begin(step, phase):
                _begin(step, phase, state)
        elif state.items:
            _begin_items(step, phase)
        if step.over:
            return
        done = done and phases[phase.name].is_done
    if done:
        step.end(Status.SUCCEEDED)


def _may_begin(step: Step, phase: Phase) -> bool:
    phases = step.phases
    for name in step.pipeline.gates[phase.name]:
        if not phases[name].is_done:
            return False
    return all(phases[mate].status is not Status.QUEUED for mate in step.pipeline.mates[phase.name])


def _begin(step: Step, phase: Phase, state: PhaseState) -> None:
    if not step.reading.holds(phase):
        step.put(phase.name, None, replace(state, status=Status.SKIPPED, ended_at=step.at))
    elif phase.each is not None:
        _fan_out(step, phase, state)
    else:
        _begin_unit(step, phase, None, state)


def _fan_out(step: Step, phase: Phase, state: PhaseState) -> None:
    ids = step.reading.item_ids(phase)
    if ids is None:
        give_up(step, phase, None, state, ERRORS["FACT_INVALID"], f"{phase.each} is no list of distinct items")
        return
    count = len(ids) + sum(len(other.items) for other in step.phases.values())
    if count > ITEMS_MAX:
        detail = f"{phase.each} has {len(ids)} items; all phases together would have {count}, {ITEMS_MAX} are allowed"
        give_up(step, phase, None, state, ERRORS["TOO_MANY_ITEMS"], detail)
        return
    if not ids:
        step.put(phase.name, None, replace(state, status=Status.SKIPPED, ended_at=step.at))
        return
    # A key is never used twice, whatever the item.
    items = {id_: PhaseState(attempt=state.attempt, force=state.force) for id_ in ids}
    step.put(phase.name, None, replace(state, status=Status.RUNNING, started_at=step.at, items=items))
    for id_ in ids:
        step.moved[phase.name, id_] = None
    _begin_items(step, phase)


def _begin_items(step: Step, phase: Phase) -> None:
    """Begin the items whose mates are over; end the phase with its last item."""
    mates = [step.phases[name].items for name in step.pipeline.mates[phase.name]]
    for id_, unit in step.phases[phase.name].items.items():
        if unit.status is not Status.QUEUED or unit.ready_at is not None:
            continue
        before = [items[id_] for items in mates if id_ in items]
        if not all(mate.is_done for mate in before):
            continue
        lost = next((mate for mate in before if mate.gave_up), None)
        if lost is not None:  # without its page there is nothing to do
            ended = {"code": lost.code, "detail": lost.detail, "degraded": lost.degraded, "ended_at": step.at}
            step.put(phase.name, id_, replace(unit, status=Status.SKIPPED, **ended))
        elif not step.reading.holds(phase, id_):
            step.put(phase.name, id_, replace(unit, status=Status.SKIPPED, ended_at=step.at))
        else:
            _begin_unit(step, phase, id_, unit)
            if step.over:
                return
    items = step.phases[phase.name].items.values()
    if all(unit.is_done for unit in items):
        _end_of_items(step, phase, step.phases[phase.name])


def _end_of_items(step: Step, phase: Phase, state: PhaseState) -> None:
    units = state.items.values()
    good = any(unit.status is Status.SUCCEEDED for unit in units)
    lost = None if good else next((unit for unit in units if unit.gave_up), None)
    ended = replace(
        state,
        status=Status.SUCCEEDED if good else Status.SKIPPED,
        degraded=any(unit.degraded for unit in units),
        code=lost.code if lost else None,
        detail=lost.detail if lost else None,
        ended_at=step.at,
    )
    step.put(phase.name, None, ended)


def _begin_unit(step: Step, phase: Phase, item: str | None, state: PhaseState) -> None:
    """Give the first command of this round, unless no message could hold it."""
    if phase.name in step.pipeline.reads_items:
        command = step.reading.command(phase, item, state.attempt + 1, state, step.at)
        size = len(command.__pydantic_serializer__.to_json(command))
        if size > COMMAND_BYTES_MAX:
            detail = f"its command would have {size} bytes, {COMMAND_BYTES_MAX} are allowed"
            give_up(step, phase, item, state, ERRORS["TOO_MANY_ITEMS"], detail)
            return
    step.command(phase, item, state)


def give_up(step: Step, phase: Phase, item: str | None, state: PhaseState, row: ErrorCode, detail: str) -> None:
    """End a unit that cannot be done, and with it the job, unless the job can do without."""
    name = phase.name
    if phase.on_failure == "fail":
        lost = {"status": ending(row), "code": row.code, "detail": detail, "ended_at": step.at}
        step.put(name, item, replace(state, **lost))
        if item is not None:
            step.put(name, None, replace(step.phases[name], **lost))
        step.fail(name, item, row.code, detail)
        return
    skipped = {"status": Status.SKIPPED, "code": row.code, "detail": detail, "ended_at": step.at}
    step.put(name, item, replace(state, degraded=phase.on_failure == "degrade", **skipped))
    step.bury(name, item, row.code, detail)
