"""What everybody is told: one event per decision, which carries everything that moved.

How large it can become: it tells of up to 1,000 items (`following.ITEMS_MAX`) and 50 phases
(`soundness.PHASES_MAX`), each in at most 430 bytes, since details are left out where many move at
once; and of the facts and artifacts of the one unit that has just succeeded, at most 64 KiB
(`decide.RESULT_BYTES_MAX`). 1,050 x 430 + 65,536 = 517,036 stays below the 524,288 of a message.

What a new version takes over may be more than one message holds: it is told by events of its own,
each of which has room for one unit more than `TAKEN_BYTES` when it is sent off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from contracts.jobs import (
    JOB_CANCELLED,
    JOB_CHANGED,
    JOB_DEAD,
    JOB_FAILED,
    JOB_REOPENED,
    JOB_STARTED,
    JOB_SUCCEEDED,
    PhaseChange,
    Status,
)
from orchestrator.machine.effects import Event
from orchestrator.machine.job import Job, PhaseState
from orchestrator.machine.step import Step
from orchestrator.machine.waiting import waiting_on

# So many units are told of with what went wrong in words: 100 of at most 300 letters, each of up to 6 bytes as JSON,
# are 180 kB. A dead letter has the words always.
DETAILED_MAX: Final = 100
TAKEN_BYTES: Final = 256 * 1024  # and one unit of 64 KiB: far below what a message may have


def told(step: Step, job: Job) -> list[Event]:
    """The event of a decision that leaves the job like this: none when nobody needs to know.

    A job that ends as it begins or reopens is told by two, of which the second carries the changes.
    """
    before, waits = step.before, waiting_on(job)
    detailed = len(step.moved) <= DETAILED_MAX
    changes = [_change(phase, item, step.unit(phase, item), detailed) for phase, item in step.moved]
    found = []
    if before is None or before.is_over:
        found.append(_opened(step, job, *(([], None) if job.is_over else (changes, waits))))
        if before is None:
            found += [Event(JOB_CHANGED, taken) for taken in _taken_over(step, job)]
    elif not job.is_over:
        clock = (before.deadline, before.paused_until) != (job.deadline, job.paused_until)
        if step.moved or clock or waits != waiting_on(before):
            status, deadline = job.status, job.deadline
            changed = {**_about(step, job, changes, waits), "status": status, "deadline": deadline}
            found.append(Event(JOB_CHANGED, changed))
    if job.is_over:
        found.append(_ended(step, job, _about(step, job, changes, waits)))
    return found


def _about(step: Step, job: Job, changes: list[dict[str, Any]], waits: str | None) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "tenant": job.tenant,
        "revision": step.revision,
        "at": step.at,
        "changes": changes,
        "waiting_on": waits,
    }


def _opened(step: Step, job: Job, changes: list[dict[str, Any]], waits: str | None) -> Event:
    about = _about(step, job, changes, waits)
    pinned = {"pipeline_version": job.pipeline_version, "phases": list(job.phases), "deadline": job.deadline}
    if step.before is not None:
        status = Status.RUNNING if job.is_over else job.status
        return Event(JOB_REOPENED, {**about, "status": status, **pinned})
    upload = {"upload_id": job.upload_id, "batch_id": job.batch_id, "pipeline": job.pipeline}
    return Event(JOB_STARTED, {**about, **upload, **pinned, "edit_of": job.edit_of, "version": job.version})


def _taken_over(step: Step, job: Job) -> Iterator[dict[str, Any]]:
    """What each event says of the units that a new version has from the job before it."""
    status, waits = Status.RUNNING if job.is_over else job.status, waiting_on(job)

    def said(changes: list[dict[str, Any]]) -> dict[str, Any]:
        return {**_about(step, job, changes, waits), "status": status, "deadline": job.deadline}

    changes: list[dict[str, Any]] = []
    size = 0
    for phase, item, state in job.units():
        if state.made_by is None:
            continue
        change = _change(phase, item, state, detailed=True)
        changes.append(change)
        size += len(PhaseChange(**change).model_dump_json())
        if size > TAKEN_BYTES:
            yield said(changes)
            changes, size = [], 0
    if changes:
        yield said(changes)


def _ended(step: Step, job: Job, about: dict[str, Any]) -> Event:
    match job.status:
        case Status.SUCCEEDED:
            return Event(JOB_SUCCEEDED, {**about, "degraded": job.degraded})
        case Status.CANCELLED:
            return Event(JOB_CANCELLED, about)
    phase, code, detail = step.why
    ending = JOB_FAILED if job.status is Status.FAILED else JOB_DEAD
    return Event(ending, {**about, "phase": phase, "code": code, "detail": detail})


def _change(phase: str, item: str | None, state: PhaseState, detailed: bool) -> dict[str, Any]:
    """The fields of a PhaseChange."""
    counts = None
    if state.items:
        statuses = [unit.status for unit in state.items.values()]
        ended = len(statuses) - statuses.count(Status.QUEUED) - statuses.count(Status.RUNNING)
        lost = ended - statuses.count(Status.SUCCEEDED)
        counts = {"total": len(statuses), "ended": ended, "gave_up": lost}
    return {
        "phase": phase,
        "item": item,
        "status": state.status,
        "attempt": state.attempt,
        "deadline": state.deadline,
        "retry_at": state.retry_at,
        "code": state.code,
        "detail": state.detail if detailed else None,
        "engine": state.engine,
        "degraded": state.degraded,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "artifacts": state.artifacts,
        "facts": state.facts,
        "items": counts,
        "made_by": state.made_by,
    }
