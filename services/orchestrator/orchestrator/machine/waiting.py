"""Why a job waits: every non-terminal job has at least one row, with an owner and a time at which it moves on.

A blocked phase waits for others of its job, and a spread one for its items: those rows say why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from orchestrator.machine.job import Job, PhaseState, Stand
from orchestrator.machine.pipeline import Pipeline

ADMISSION: Final = "orchestrator: admission"
TIMER: Final = "orchestrator: timer"

# fmt: off
OWNERS: Final[dict[str, tuple[str, str]]] = {
    # stands       owner                             moves on at the latest
    Stand.READY:   (ADMISSION,                       "when its job expires"),
    Stand.OUT:     ("worker: who takes its command", "at its deadline, or when the lease ends that progress gave it"),
    Stand.BACKOFF: (TIMER,                           "at the time of its next attempt"),
    "paused":      ("who paused the job",            "at the end of the pause"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Wait:
    """One reason. `phase` is None when it is about the whole job."""

    phase: str | None
    item: str | None
    owner: str
    until: datetime
    why: str


def waits(job: Job, pipeline: Pipeline | None) -> list[Wait]:
    """Every reason, empty for a job that has ended."""
    if job.is_over:
        return []
    found = []
    if job.paused_until is not None:
        found.append(Wait(None, None, job.paused_by or "operator", job.paused_until, _paused(job)))
    for phase, item, state in job.units():
        named = f"{phase} {item}" if item else phase
        if state.deadline is not None:
            worker = pipeline.phase(phase).command if pipeline and pipeline.has(phase) else phase
            until = min(state.deadline, state.lease_until or state.deadline)
            why = f"{named} is at work (attempt {state.attempt})"
            found.append(Wait(phase, item, f"worker: {worker}", until, why))
        elif state.ready_at is not None:
            found.append(Wait(phase, item, ADMISSION, job.expires_at, _queued(job, named, state)))
        elif state.retry_at is not None and job.paused_until is None:
            found.append(Wait(phase, item, TIMER, state.retry_at, _backoff(named, state)))
    return found


def waiting_on(job: Job) -> str | None:
    """Why nothing of the job runs, in a sentence; None when something does, or when it has ended."""
    if job.is_over:
        return None
    first: tuple[str, str | None, PhaseState] | None = None
    for unit in job.units():
        state = unit[2]
        if state.deadline is not None:
            return None
        if first is None and (state.ready_at is not None or state.retry_at is not None):
            first = unit
    if job.paused_until is not None:
        return _paused(job)
    if first is None:
        return None
    phase, item, state = first
    named = f"{phase} {item}" if item else phase
    return _queued(job, named, state) if state.ready_at is not None else _backoff(named, state)


def _paused(job: Job) -> str:
    return f"paused by {job.paused_by}, until {_clock(job.paused_until)} at the latest"


def _queued(job: Job, named: str, state: PhaseState) -> str:
    if state.ahead:
        return f"{named} is queued behind {state.ahead} jobs of tenant {job.tenant}"
    return f"{named} is queued until there is room"


def _backoff(named: str, state: PhaseState) -> str:
    if state.deferred_by:
        why = "rate-limited" if state.code == "PROVIDER_RATE_LIMITED" else "unavailable"
        return f"{named}: provider {state.deferred_by} {why} until {_clock(state.retry_at)}"
    return f"{named} is tried again at {_clock(state.retry_at)} after {state.code} (attempt {state.attempt})"


def _clock(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "?"
