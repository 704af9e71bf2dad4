"""Everything that can happen to a job next: for tests that try it all, or any of it in any order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from contracts.phases import PhaseDeferred, PhaseFailed, PhaseProgressed, PhaseSucceeded
from orchestrator.machine.inputs import (
    Admitted,
    Cancel,
    Deferred,
    Failed,
    Input,
    Pause,
    Progressed,
    Resume,
    Retry,
    Succeeded,
    TimeReached,
)
from orchestrator.machine.job import Job, Unit
from orchestrator.machine.pipeline import Pipeline

FACTS: Sequence[dict[str, Any]] = ({}, {"go": True, "pages": ["p1", "p2"]}, {"pages": "none"})
CODES = ("CALL_LOST", "IMAGE_CORRUPT", "OBJECT_MISSING")  # transient, the caller's, the operator's


def possible(job: Job, pipelines: Sequence[Pipeline], facts: Sequence[dict[str, Any]] = FACTS) -> Iterator[Input]:
    """All inputs that could mean something to the job, each at the moment when it is due at the earliest.

    `pipelines` are the definitions that an ended job may go on with.
    """
    now = _newest(job)
    if job.is_over:
        for pipeline in pipelines:
            for start in (None, Retry.START, Retry.DEGRADED, *(phase.name for phase in pipeline.phases)):
                yield Retry(start, pipeline, now)
        return
    for phase, item, state in job.units():
        if state.deadline is None:
            continue
        about: dict[str, Any] = {"job_id": job.id, "phase": phase, "item": item, "attempt": state.attempt}
        for found in facts if item is None else ({},):
            done = PhaseSucceeded(**about, facts=found, engine="test@1", started_at=now, ended_at=now)
            yield Succeeded(done, now)
        for code in CODES:
            yield Failed(PhaseFailed(**about, code=code, ended_at=now), now)
        yield Progressed(PhaseProgressed(**about, fraction=0.5, at=now), now)
        until = now + timedelta(seconds=5)
        yield Deferred(PhaseDeferred(**about, provider="modal", code="PROVIDER_RATE_LIMITED", until=until, at=now), now)
    assert job.wake_at is not None
    yield TimeReached(max(now, job.wake_at))
    yield TimeReached(max(now, job.expires_at))
    yield Cancel(now)
    yield Resume(now) if job.paused_until else Pause("operator", now + timedelta(seconds=3), now)
    ready: tuple[Unit, ...] = tuple(job.standing.ready)
    if ready:
        yield Admitted(ready, now)


def _newest(job: Job) -> datetime:
    """A moment that is not before anything that has happened."""
    past = [job.created_at, *(moment for moment in (job.ended_at, job.paused_at) if moment)]
    for _, _, state in job.units():
        past += [moment for moment in (state.started_at, state.ended_at, state.ready_at) if moment]
    return max(past)
