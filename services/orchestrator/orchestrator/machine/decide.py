"""The law of a job: `decide(job, input) -> Decision`.

- Pure: no I/O, no clock; the same job and input give the same decision.
- Total: a late, duplicate or foreign input is ignored with its reason, never an exception.
- An ended job changes no more, but for a retry, which reopens it. An outcome counts only for the
  attempt that is out; an attempt that loses its claim while it is out is asked to stop.
- A command goes out only where there is room. What finds none is ready, and waits to be admitted.
- A paused job gives no commands and its clock stands still; what is out goes on and is heard.
- Every non-terminal job has a `wake_at`, so that none waits for ever.
- A decision is told by one event. (A job that ends as it begins or reopens is told by two, a lease
  that is renewed by none, and what a new version takes over by as many as it needs.)

How phases move is in `job.TRANSITIONS`; this file says when. Beside it: `step` (a decision in the
making), `following` (what follows from what is over), `reading` (what commands read), `reopening`
(retries and replays), `editing` (what a new version takes over), `telling` (the event).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from contracts.errors import ERRORS, Fixer
from contracts.jobs import Status
from contracts.phases import PhaseSucceeded
from orchestrator.machine import editing, reopening
from orchestrator.machine.effects import Effect
from orchestrator.machine.following import advance, give_up
from orchestrator.machine.inputs import (
    Admitted,
    Begin,
    Cancel,
    Deferred,
    Failed,
    Input,
    Outcome,
    Pause,
    Progressed,
    Resume,
    Retry,
    Succeeded,
    TimeReached,
)
from orchestrator.machine.job import Job, PhaseState, Try
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.machine.step import NO_LIMITS, TRIES_KEPT, Room, Rooms, Step
from orchestrator.machine.telling import told

RESULT_BYTES_MAX: Final = 64 * 1024  # of one success: an event carries it, and commands carry up to six of them
DETAIL_CHARS_MAX: Final = 300
DEFERRED_LEAST_S: Final = 1.0  # so that a provider that says "now" is not asked in a circle
LEASE_SLACK: Final = 0.25  # a lease lasts this much longer, and is renewed no more often than that

__all__ = ["NO_LIMITS", "Decision", "Room", "Rooms", "decide"]


class Decision(Struct, frozen=True):
    """The job after the input, and what the shell must carry out. `ignored` says why nothing changed."""

    job: Job | None
    effects: tuple[Effect, ...] = ()
    ignored: str | None = None


def decide(
    job: Job | None, revision: int, pipeline: Pipeline | None, given: Input, rooms: Rooms = NO_LIMITS
) -> Decision:
    """One step. `pipeline` is the one that the job pins; `revision` is the number that this decision will have."""
    if isinstance(given, Begin):
        return Decision(job, ignored="the job has begun already") if job else _begin(given, revision, rooms)
    if job is None:
        return Decision(None, ignored="there is no such job")
    if isinstance(given, Retry):
        return _reopen(job, revision, pipeline, given, rooms)
    if job.is_over:
        return Decision(job, ignored=f"the job is {job.status}")
    step = Step(job, job, revision, pipeline or _unknown(job.pipeline, job.pipeline_version), given.at, rooms)
    if pipeline is None:
        step.fail(None, None, "PIPELINE_CHANGED")
    elif ignored := _TAKE[type(given)](step, given):
        return Decision(job, ignored=ignored)
    else:
        advance(step)
    return _decision(step)


def _decision(step: Step) -> Decision:
    job = step.finished()
    if step.before is not None and not step.moved and not step.effects and job == step.before:
        return Decision(step.before, ignored="nothing is due")
    return Decision(job, (*step.effects, *told(step, job)))


def _unknown(name: str, version: int) -> Pipeline:
    """In place of a definition that nobody has."""
    return Pipeline(name, version, (), 0, (), 0)


def _begin(given: Begin, revision: int, rooms: Rooms) -> Decision:
    upload = given.upload
    pipeline = given.pipeline or _unknown(upload.pipeline, 0)
    job = Job(
        id=upload.job_id,
        tenant=upload.tenant,
        upload_id=upload.upload_id,
        pipeline=upload.pipeline,
        pipeline_version=pipeline.version,
        original=upload.original,
        attachments=upload.attachments,
        options=upload.options,
        status=Status.QUEUED,
        created_at=given.at,
        deadline=given.at + timedelta(seconds=pipeline.deadline_s),
        expires_at=given.at + timedelta(seconds=pipeline.expires_s),
        phases={phase.name: PhaseState() for phase in pipeline.phases},
        lane=upload.lane or ("bulk" if upload.batch_id else pipeline.lane),
        batch_id=upload.batch_id,
        traceparent=given.traceparent,
        edit_of=upload.edit_of,
        version=upload.version,
    )
    if given.base is not None:
        job = replace(job, phases=editing.phases(job, pipeline, given.base))
    step = Step(None, job, revision, pipeline, given.at, rooms)
    if given.pipeline is None:
        step.fail(None, None, "PIPELINE_UNKNOWN")
    elif upload.original.media_type not in pipeline.accepts:
        step.fail(None, None, "MEDIA_TYPE_UNSUPPORTED", f"{pipeline.name} does not take {upload.original.media_type}")
    else:
        advance(step)
    return _decision(step)


def _reopen(job: Job, revision: int, pinned: Pipeline | None, given: Retry, rooms: Rooms) -> Decision:
    if not job.is_over:
        return Decision(job, ignored=f"the job is {job.status}")
    plan = reopening.plan(job, given, pinned)
    if isinstance(plan, str):
        return Decision(job, ignored=plan)
    pipeline = given.pipeline
    reopened = replace(
        job,
        status=Status.QUEUED,
        pipeline_version=pipeline.version,
        deadline=given.at + timedelta(seconds=pipeline.deadline_s),
        expires_at=given.at + timedelta(seconds=pipeline.expires_s),
        ended_at=None,
        phases=plan.phases,
        spent=plan.spent,
    )
    step = Step(job, reopened, revision, pipeline, given.at, rooms)
    step.moved.update(dict.fromkeys(plan.moved))
    advance(step)
    return _decision(step)


# -- outcomes -------------------------------------------------------------------------------------


def _stale(step: Step, given: Outcome) -> str | None:
    outcome = given.outcome
    state = step.phases.get(outcome.phase)
    if state is None:
        return "the job has no such phase"
    if outcome.item is not None:
        state = state.items.get(outcome.item)
        if state is None:
            return "the phase has no such item"
    if state.deadline is None:
        return f"the phase is {state.stand} and has no attempt out"
    if state.attempt != outcome.attempt:
        return f"attempt {outcome.attempt} is not out, {state.attempt} is"
    return None


def _succeeded(step: Step, given: Succeeded) -> str | None:
    if stale := _stale(step, given):
        return stale
    done = given.outcome
    state = step.unit(done.phase, done.item)
    if size := _too_large(done):
        phase = step.pipeline.phase(done.phase)
        detail = f"facts and artifacts have {size} bytes, {RESULT_BYTES_MAX} are allowed"
        _attempt_failed(step, phase, done.item, "FACT_INVALID", detail, done.started_at, done.ended_at)
        return None
    ended = PhaseState(
        status=Status.SUCCEEDED,
        attempt=state.attempt,
        engine=done.engine[:DETAIL_CHARS_MAX],
        degraded=done.degraded or state.engine_only is not None,
        engine_only=state.engine_only,
        started_at=done.started_at,
        ended_at=done.ended_at,
        artifacts=tuple(done.artifacts),
        facts=done.facts,
        overrides=state.overrides,
        tries=state.tries,
    )
    step.put(done.phase, done.item, ended)
    return None


def _too_large(done: PhaseSucceeded) -> int | None:
    """Its size when it is more than an event can carry."""
    if not done.facts and len(done.artifacts) <= 10:
        return None
    size = len(done.__pydantic_serializer__.to_json(done))
    return size if size > RESULT_BYTES_MAX else None


def _failed(step: Step, given: Failed) -> str | None:
    if stale := _stale(step, given):
        return stale
    bad = given.outcome
    phase = step.pipeline.phase(bad.phase)
    _attempt_failed(step, phase, bad.item, bad.code, bad.detail, bad.started_at, bad.ended_at)
    return None


def _attempt_failed(
    step: Step,
    phase: Phase,
    item: str | None,
    code: str,
    detail: str,
    started_at: datetime | None,
    ended_at: datetime,
) -> None:
    """Try again by the policy for this code, then with the fallback; then give up."""
    state = step.unit(phase.name, item)
    row = ERRORS.get(code, ERRORS["INTERNAL"])
    detail = (detail or row.title)[:DETAIL_CHARS_MAX]
    tried = Try(state.attempt, started_at or state.started_at, ended_at, row.code, detail, state.engine_only)
    state = replace(
        state,
        deadline=None,
        lease_until=None,
        code=row.code,
        detail=detail,
        failures=state.failures + 1,
        tries=(*state.tries, tried)[-TRIES_KEPT:],
    )
    waits = phase.waits(row)
    if state.failures <= len(waits):
        retry_at = step.at + timedelta(seconds=waits[state.failures - 1])
        step.put(phase.name, item, replace(state, retry_at=retry_at))
    elif phase.fallback and state.engine_only is None and row.fixer is not Fixer.CALLER:
        step.command(phase, item, replace(state, engine_only=phase.fallback, failures=0))
    else:
        give_up(step, phase, item, state, row, detail)


def _deferred(step: Step, given: Deferred) -> str | None:
    """Wait for the provider, or take the fallback at once: nothing was tried, so nothing has failed."""
    if stale := _stale(step, given):
        return stale
    put_off = given.outcome
    phase, item = step.pipeline.phase(put_off.phase), put_off.item
    row = ERRORS.get(put_off.code, ERRORS["PROVIDER_UNAVAILABLE"])
    state = replace(
        step.unit(phase.name, item),
        deadline=None,
        lease_until=None,
        deferred_by=put_off.provider[:DETAIL_CHARS_MAX],
        code=row.code,
        detail=row.title,
    )
    if phase.unavailable == "fallback" and phase.fallback and state.engine_only is None:
        step.command(phase, item, replace(state, deferred_by=None, engine_only=phase.fallback, failures=0))
        return None
    until = put_off.until if put_off.until.tzinfo else put_off.until.replace(tzinfo=step.at.tzinfo)
    step.put(phase.name, item, replace(state, retry_at=max(until, step.at + timedelta(seconds=DEFERRED_LEAST_S))))
    return None


def _progressed(step: Step, given: Progressed) -> str | None:
    if stale := _stale(step, given):
        return stale
    name, item = given.outcome.phase, given.outcome.item
    stall_s = step.pipeline.phase(name).stall_s
    if stall_s is None:
        return "the phase has no lease"
    state = step.unit(name, item)
    until = step.at + timedelta(seconds=stall_s * (1 + LEASE_SLACK))
    if state.lease_until and until - state.lease_until < timedelta(seconds=stall_s * LEASE_SLACK):
        return "the lease is young"
    step.keep(name, item, replace(state, lease_until=until))
    return None


# -- time and room --------------------------------------------------------------------------------


def _time_reached(step: Step, _given: TimeReached) -> str | None:
    job, at = step.job, step.at
    if job.paused_until is not None:
        if job.paused_until <= at:
            _go_on(step)
    elif job.expires_at <= at:
        step.fail(None, None, "JOB_DEADLINE", "The job waited until it expired.")
    elif job.deadline <= at:
        if step.waits():
            step.renew()
        else:
            step.fail(None, None, "JOB_DEADLINE")
    paused = step.job.paused_until is not None
    for name, item, state in job.units():
        if step.over:
            return None
        if state.deadline is not None:
            if state.deadline <= at:
                _take_back(step, name, item, state, "PHASE_DEADLINE")
            elif state.lease_until is not None and state.lease_until <= at:
                _take_back(step, name, item, state, "PHASE_STALLED")
        elif not paused and (state.ready_at is not None or (state.retry_at is not None and state.retry_at <= at)):
            step.command(step.pipeline.phase(name), item, state)
    return None


def _take_back(step: Step, name: str, item: str | None, state: PhaseState, code: str) -> None:
    step.stop(name, item, state)
    _attempt_failed(step, step.pipeline.phase(name), item, code, "", None, step.at)


def _admitted(step: Step, given: Admitted) -> str | None:
    if step.job.paused_until is not None:
        return "the job is paused"
    for name, item in given.units:
        whole = step.phases.get(name)
        state = whole.items.get(item) if whole and item else whole
        if state and state.ready_at:
            step.command(step.pipeline.phase(name), item, state)
    return None if step.moved else "no unit of these is ready, or there is no room"


# -- what people ask for --------------------------------------------------------------------------


def _cancel(step: Step, _given: Cancel) -> str | None:
    step.end(Status.CANCELLED)
    return None


def _pause(step: Step, given: Pause) -> str | None:
    if step.job.paused_until is not None:
        return "the job is paused already"
    step.job = replace(step.job, paused_at=step.at, paused_until=given.until, paused_by=given.by)
    for name, item, state in step.job.units():
        if state.ready_at:
            step.put(name, item, replace(state, ready_at=None, ahead=0))
    return None


def _resume(step: Step, _given: Resume) -> str | None:
    if step.job.paused_until is None:
        return "the job is not paused"
    _go_on(step)
    for name, item, state in step.job.units():
        if state.retry_at and state.retry_at <= step.at:
            step.command(step.pipeline.phase(name), item, state)
    return None


def _go_on(step: Step) -> None:
    job = step.job
    stood_still = max(step.at - (job.paused_at or step.at), timedelta())  # another process's clock may be behind
    step.job = replace(
        job,
        deadline=job.deadline + stood_still,
        expires_at=job.expires_at + stood_still,
        paused_at=None,
        paused_until=None,
        paused_by=None,
    )


_TAKE: Final[Mapping[type, Callable[[Step, Any], str | None]]] = {
    Succeeded: _succeeded,
    Failed: _failed,
    Deferred: _deferred,
    Progressed: _progressed,
    TimeReached: _time_reached,
    Admitted: _admitted,
    Cancel: _cancel,
    Pause: _pause,
    Resume: _resume,
}
