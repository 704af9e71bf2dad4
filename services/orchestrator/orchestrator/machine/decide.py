"""The law of a job: `decide(job, input) -> Decision`.

- Pure: no I/O, no clock; the same job and input give the same decision.
- Total: a late, duplicate or foreign input is ignored with its reason, never an exception.
- A terminal job changes no more. An outcome counts only for the attempt that is out.
- Every non-terminal job has a `wake_at`, so that none waits for ever.

    a phase      queued -> running -> succeeded          | skipped (its condition does not hold)
                             |  ^
                             v  |  transient error or deadline, attempts left: after its backoff
                           waiting
    its job      running -> succeeded                    every phase succeeded or was skipped
                         -> failed                       a permanent error that the caller can fix
                         -> dead                         any other end: an operator can replay it
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydantic import JsonValue

from contracts.errors import ERRORS, Fixer
from contracts.jobs import (
    JOB_DEAD,
    JOB_FAILED,
    JOB_PHASE_CHANGED,
    JOB_STARTED,
    JOB_SUCCEEDED,
    JobDead,
    JobFailed,
    JobPhaseChanged,
    JobStarted,
    JobSucceeded,
    Status,
)
from contracts.phases import RunPhase
from orchestrator.machine.effects import Command, Effect, Event
from orchestrator.machine.inputs import Begin, Failed, Input, Succeeded, TimeReached
from orchestrator.machine.job import Job, PhaseState
from orchestrator.machine.pipeline import OPTIONS, Phase, Pipeline

IMAGE = "image"  # the role under which an artifact replaces the original for the phases after it


@dataclass(frozen=True, slots=True)
class Decision:
    """The job after the input, and what the shell must carry out. `ignored` says why nothing changed."""

    job: Job | None
    effects: tuple[Effect, ...] = ()
    ignored: str | None = None


def decide(job: Job | None, revision: int, pipeline: Pipeline | None, given: Input) -> Decision:
    """One step. `pipeline` is the one that the job pins; `revision` is the number that this decision will have."""
    match given:
        case Begin():
            if job is not None:
                return Decision(job, ignored="the job has begun already")
            return _begin(given, revision)
        case Succeeded() | Failed() | TimeReached() if job is None or pipeline is None:
            return Decision(job, ignored="there is no such job")
        case Succeeded() | Failed() | TimeReached() if job.status.is_terminal:
            return Decision(job, ignored=f"the job is {job.status}")
        case Succeeded() | Failed():
            if why := _stale(job, given):
                return Decision(job, ignored=why)
            step = _Step(job, revision, pipeline, given.at)
            step.succeeded(given) if isinstance(given, Succeeded) else step.failed(
                given.outcome.phase, given.outcome.code, given.outcome.detail
            )
            return step.decision()
        case TimeReached():
            step = _Step(job, revision, pipeline, given.at)
            step.time_reached()
            return step.decision()


def _stale(job: Job, given: Succeeded | Failed) -> str | None:
    state = job.phases.get(given.outcome.phase)
    if state is None:
        return "the job has no such phase"
    if state.status is not Status.RUNNING or state.deadline is None:
        return f"the phase is {state.status} and has no attempt out"
    if state.attempt != given.outcome.attempt:
        return f"attempt {given.outcome.attempt} is not out, {state.attempt} is"
    return None


def _begin(given: Begin, revision: int) -> Decision:
    upload, pipeline = given.upload, given.pipeline
    job = Job(
        id=upload.job_id,
        tenant=upload.tenant,
        upload_id=upload.upload_id,
        pipeline=upload.pipeline,
        pipeline_version=pipeline.version if pipeline else 0,
        original=upload.original,
        attachments=upload.attachments,
        options=upload.options,
        status=Status.RUNNING,
        created_at=given.at,
        deadline=given.at + timedelta(seconds=pipeline.deadline_s if pipeline else 0),
        phases={phase.name: PhaseState() for phase in pipeline.phases} if pipeline else {},
        traceparent=given.traceparent,
    )
    step = _Step(job, revision, pipeline or Pipeline(upload.pipeline, 0, (), 0, ()), given.at)
    step.started()
    if pipeline is None:
        step.end(None, "PIPELINE_UNKNOWN", "")
    elif upload.original.media_type not in pipeline.accepts:
        step.end(None, "MEDIA_TYPE_UNSUPPORTED", f"{pipeline.name} does not take {upload.original.media_type}")
    else:
        step.advance()
    return step.decision()


class _Step:
    """One decision in the making: the job so far and the effects so far."""

    def __init__(self, job: Job, revision: int, pipeline: Pipeline, at: datetime) -> None:
        self._job = job
        self._revision = revision
        self._pipeline = pipeline
        self._at = at
        self._effects: list[Effect] = []
        self._before = job

    def decision(self) -> Decision:
        if self._job == self._before and not self._effects:
            return Decision(self._job, ignored="nothing is due")
        return Decision(self._job, tuple(self._effects))

    # -- what happened ------------------------------------------------------------------------

    def started(self) -> None:
        job = self._job
        message = JobStarted(
            **self._about(),
            upload_id=job.upload_id,
            pipeline=job.pipeline,
            pipeline_version=job.pipeline_version,
            phases=list(job.phases),
            deadline=job.deadline,
        )
        self._effects.append(Event(JOB_STARTED, message))

    def succeeded(self, given: Succeeded) -> None:
        outcome = given.outcome
        self._move(
            outcome.phase,
            replace(
                self._job.phases[outcome.phase],
                status=Status.SUCCEEDED,
                deadline=None,
                code=None,
                detail=None,
                engine=outcome.engine,
                degraded=outcome.degraded,
                started_at=outcome.started_at,
                ended_at=outcome.ended_at,
                artifacts=tuple(outcome.artifacts),
                facts=outcome.facts,
            ),
        )
        self.advance()

    def failed(self, phase: str, code: str, detail: str) -> None:
        state = self._job.phases[phase]
        row = ERRORS.get(code, ERRORS["INTERNAL"])
        waits = self._pipeline.phase(phase).backoff_s
        state = replace(state, deadline=None, code=row.code, detail=detail or row.title)
        if row.transient and state.attempt <= len(waits):
            retry_at = self._at + timedelta(seconds=waits[state.attempt - 1])
            self._move(phase, replace(state, retry_at=retry_at))
            return
        ending = _ending(row.code)
        self._move(phase, replace(state, status=ending, ended_at=self._at))
        self.end(phase, row.code, detail)

    def time_reached(self) -> None:
        if self._at >= self._job.deadline:
            self.end(None, "JOB_DEADLINE", "")
            return
        for name, state in self._job.phases.items():
            if self._job.status.is_terminal:
                return
            if state.retry_at and state.retry_at <= self._at:
                self._command(self._pipeline.phase(name))
            elif state.deadline and state.deadline <= self._at:
                self.failed(name, "PHASE_DEADLINE", "")

    def advance(self) -> None:
        """Start or skip every phase whose needs are done; end the job when all are."""
        moved = True
        while moved:
            moved = False
            for phase in self._pipeline.phases:
                phases = self._job.phases
                ready = phases[phase.name].status is Status.QUEUED and all(phases[n].is_done for n in phase.needs)
                if not ready:
                    continue
                moved = True
                if phase.when and not self._value(phase.when):
                    self._move(phase.name, replace(phases[phase.name], status=Status.SKIPPED, ended_at=self._at))
                else:
                    self._command(phase)
        if all(state.is_done for state in self._job.phases.values()):
            self._job = replace(self._job, status=Status.SUCCEEDED, ended_at=self._at)
            degraded = any(state.degraded for state in self._job.phases.values())
            self._effects.append(Event(JOB_SUCCEEDED, JobSucceeded(**self._about(), degraded=degraded)))

    def end(self, phase: str | None, code: str, detail: str) -> None:
        """End the job badly. Phases that are still out lose their claim: their outcomes will be ignored."""
        self._job = replace(self._job, status=_ending(code), ended_at=self._at)
        for name, state in self._job.phases.items():
            if not state.status.is_terminal:
                self._move(
                    name, replace(state, status=Status.CANCELLED, deadline=None, retry_at=None, ended_at=self._at)
                )
        told = {**self._about(), "phase": phase, "code": code, "detail": detail or ERRORS[code].title}
        if self._job.status is Status.FAILED:
            self._effects.append(Event(JOB_FAILED, JobFailed(**told)))
        else:
            self._effects.append(Event(JOB_DEAD, JobDead(**told)))

    # -- what follows -------------------------------------------------------------------------

    def _command(self, phase: Phase) -> None:
        attempt = self._job.phases[phase.name].attempt + 1
        deadline = min(self._at + timedelta(seconds=phase.deadline_s), self._job.deadline)
        state = replace(
            self._job.phases[phase.name],
            status=Status.RUNNING,
            attempt=attempt,
            deadline=deadline,
            retry_at=None,
            started_at=self._at,
        )
        self._move(phase.name, state)
        parameters = {name: self._value(path) for name, path in phase.parameters.items()}
        command = RunPhase(
            job_id=self._job.id,
            phase=phase.name,
            attempt=attempt,
            tenant=self._job.tenant,
            inputs=self._inputs(phase),
            parameters={name: value for name, value in parameters.items() if value is not None},
            deadline=deadline,
        )
        self._effects.append(Command(phase.channel, command))

    def _inputs(self, phase: Phase) -> dict[str, object]:
        job = self._job
        image = job.original
        for name in self._pipeline.ancestors(phase.name):
            found = [artifact for artifact in job.phases[name].artifacts if artifact.name.startswith(f"{IMAGE}.")]
            if found:
                image = found[0]
                break
        attached = {role: job.attachments[role] for role in phase.attachments if role in job.attachments}
        return {"original": job.original, IMAGE: image, **attached}

    def _value(self, path: str) -> JsonValue:
        root, _, leaf = path.partition(".")
        return (self._job.options if root == OPTIONS else self._job.phases[root].facts).get(leaf)

    def _move(self, phase: str, state: PhaseState) -> None:
        self._job = replace(self._job, phases={**self._job.phases, phase: state})
        message = JobPhaseChanged(
            **self._about(),
            phase=phase,
            status=state.status,
            attempt=state.attempt,
            deadline=state.deadline,
            retry_at=state.retry_at,
            code=state.code,
            detail=state.detail,
            engine=state.engine,
            degraded=state.degraded,
            started_at=state.started_at,
            ended_at=state.ended_at,
            artifacts=list(state.artifacts),
            facts=dict(state.facts),
        )
        self._effects.append(Event(JOB_PHASE_CHANGED, message))

    def _about(self) -> dict[str, object]:
        return {"job_id": self._job.id, "tenant": self._job.tenant, "revision": self._revision, "at": self._at}


def _ending(code: str) -> Status:
    row = ERRORS[code]
    return Status.FAILED if not row.transient and row.fixer is Fixer.CALLER else Status.DEAD
