"""A job as the API tells it, and how its events change it.

A reader asks for the job once and then follows its events: `after(job, event)` is the job after
that event. Events may be read again from the first one, since the last of each phase wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.jobs import JobDead, JobFailed, JobPhaseChanged, JobStarted, JobSucceeded, Status
from contracts.phases import PhaseProgressed


class _Read(BaseModel):
    # What a newer service tells beyond this is kept, so that --json shows all of it.
    model_config = ConfigDict(frozen=True, extra="allow")


class Error(_Read):
    """Why something failed: a stable code and a sentence."""

    code: str
    detail: str = ""
    phase: str | None = None


class Artifact(_Read):
    """A stored output. `url` leads to it from the base URL; `size` is in bytes."""

    name: str
    phase: str
    sha256: str
    size: int
    media_type: str
    url: str
    width: int | None = None
    height: int | None = None


class Phase(_Read):
    """One phase. `progress` is 0..1 while it runs and says so; `seconds` is how long the work took."""

    name: str
    status: Status = Status.QUEUED
    attempt: int = 0
    engine: str | None = None
    degraded: bool = False
    progress: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: float | None = None
    error: Error | None = None


class Job(_Read):
    """A job with its phases in the pipeline's order."""

    id: UUID
    pipeline: str
    status: Status
    degraded: bool = False
    trace_id: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: Error | None = None
    phases: tuple[Phase, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


class Submitted(_Read):
    """The answer to an upload: the job that works on it, and the trace that everything of it is in."""

    upload_id: UUID
    job_id: UUID
    trace_id: str | None
    status: Status


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job's stream. `id` grows; `data` is as its contract says."""

    id: str
    type: str
    data: Mapping[str, Any]


def after(job: Job, event: Event) -> Job:
    """The job after this event. An event that this reader does not know changes nothing."""
    change = _CHANGES.get(event.type)
    return change(job, event.data) if change else job


def _started(job: Job, data: Mapping[str, Any]) -> Job:
    known = {phase.name: phase for phase in job.phases}
    phases = tuple(known.get(name, Phase(name=name)) for name in data["phases"])
    return _with(job, status=Status.RUNNING, started_at=datetime.fromisoformat(data["at"]), phases=phases)


def _progressed(job: Job, data: Mapping[str, Any]) -> Job:
    def moved(phase: Phase) -> Phase:
        same_try = phase.attempt == data["attempt"] and phase.status is Status.RUNNING
        return _with(phase, progress=data["fraction"]) if same_try else phase

    return _phase(job, data["phase"], moved)


def _phase_changed(job: Job, data: Mapping[str, Any]) -> Job:
    known = {name: value for name, value in data.items() if name in Phase.model_fields}
    changed = Phase.model_validate({**known, "name": data["phase"], "error": _error(data)})
    if changed.started_at and changed.ended_at and changed.status is not Status.SKIPPED:
        seconds = (changed.ended_at - changed.started_at).total_seconds()
        changed = _with(changed, seconds=round(seconds, 3))
    return _phase(job, changed.name, lambda _: changed)


def _ended(status: Status) -> Callable[[Job, Mapping[str, Any]], Job]:
    def ended(job: Job, data: Mapping[str, Any]) -> Job:
        at = datetime.fromisoformat(data["at"])
        return _with(job, status=status, ended_at=at, degraded=data.get("degraded", False), error=_error(data))

    return ended


_CHANGES: Final[dict[str, Callable[[Job, Mapping[str, Any]], Job]]] = {
    JobStarted.TYPE:      _started,
    JobPhaseChanged.TYPE: _phase_changed,
    PhaseProgressed.TYPE: _progressed,
    JobSucceeded.TYPE:    _ended(Status.SUCCEEDED),
    JobFailed.TYPE:       _ended(Status.FAILED),
    JobDead.TYPE:         _ended(Status.DEAD),
}  # fmt: skip


def _phase(job: Job, name: str, change: Callable[[Phase], Phase]) -> Job:
    return _with(job, phases=tuple(change(phase) if phase.name == name else phase for phase in job.phases))


def _error(data: Mapping[str, Any]) -> Error | None:
    code = data.get("code")
    return Error(code=code, detail=data.get("detail") or "", phase=data.get("phase")) if code else None


_R = TypeVar("_R", bound=_Read)


def _with(read: _R, **changes: Any) -> _R:
    return read.model_copy(update=changes)
