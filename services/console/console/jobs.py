"""A job as the API tells it, and how its events change it.

A reader asks for the job once and then follows its events: `after(job, event)` is the job after
that event. Of the job, and of each phase, the newest decision (`revision`) wins, so events may be read
again from the first one, and one that comes late does no harm. The page does the same (events.js).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from contracts.jobs import (
    JobCancelled,
    JobChanged,
    JobDead,
    JobFailed,
    JobReopened,
    JobStarted,
    JobSucceeded,
    Status,
)
from contracts.phases import PhaseProgressed


class Read(BaseModel):
    """What the API tells. What a newer service tells beyond this is kept, so that --json shows all of it."""

    model_config = ConfigDict(frozen=True, extra="allow")


class Error(Read):
    """Why something failed: a stable code and a sentence."""

    code: str
    detail: str = ""
    phase: str | None = None


class Stored(Read):
    """Stored bytes. `url` leads to them from the base URL; `size` is in bytes."""

    sha256: str
    size: int
    media_type: str
    url: str


class Artifact(Stored):
    """A stored output of a phase."""

    name: str
    phase: str
    item: str | None = None
    width: int | None = None
    height: int | None = None


class ItemCounts(Read):
    """How the items of a phase that fans out stand. `ended` counts every ending, `gave_up` those without a result."""

    total: int
    ended: int
    gave_up: int


class Item(Read):
    """One item of a phase that fans out, and what it made."""

    item: str
    status: Status
    artifacts: tuple[Artifact, ...] = ()


class Phase(Read):
    """One phase. `progress` is 0..1 while it runs and says so; `seconds` is how long the work took.

    `facts` are what it found out; while it runs, numbers to follow it by.
    """

    name: str
    status: Status = Status.QUEUED
    revision: int = 0
    attempt: int = 0
    engine: str | None = None
    degraded: bool = False
    progress: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: float | None = None
    retry_at: datetime | None = None
    error: Error | None = None
    items: ItemCounts | None = None
    facts: Mapping[str, Any] = {}


class Job(Read):
    """A job with its phases in the pipeline's order. `waiting_on` says in words why nothing of it runs now."""

    id: UUID
    pipeline: str
    options: Mapping[str, Any] = {}
    status: Status
    revision: int = 0
    batch_id: UUID | None = None
    waiting_on: str | None = None
    degraded: bool = False
    trace_id: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: Error | None = None
    phases: tuple[Phase, ...] = ()
    artifacts: tuple[Artifact, ...] = ()


class Submitted(Read):
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
    runs = any(change["status"] == Status.RUNNING for change in data["changes"])
    job = _with(_phases_named(job, data), started_at=datetime.fromisoformat(data["at"]))
    return _moved(job, data, Status.RUNNING if runs else Status.QUEUED)


def _changed(job: Job, data: Mapping[str, Any]) -> Job:
    return _moved(job, data, Status(data["status"]))


def _reopened(job: Job, data: Mapping[str, Any]) -> Job:
    return _moved(_phases_named(job, data), data, Status(data["status"]))


def _ended(status: Status) -> Callable[[Job, Mapping[str, Any]], Job]:
    def ended(job: Job, data: Mapping[str, Any]) -> Job:
        at = datetime.fromisoformat(data["at"])
        return _moved(job, data, status, ended_at=at, degraded=data.get("degraded", False), error=_error(data))

    return ended


def _progressed(job: Job, data: Mapping[str, Any]) -> Job:
    def moved(phase: Phase) -> Phase:
        same_try = phase.attempt == data["attempt"] and phase.status is Status.RUNNING
        return _with(phase, progress=data["fraction"], facts=data.get("facts") or {}) if same_try else phase

    return job if data.get("item") else _phase(job, data["phase"], moved)


_CHANGES: Final[dict[str, Callable[[Job, Mapping[str, Any]], Job]]] = {
    JobStarted.TYPE:      _started,
    JobChanged.TYPE:      _changed,
    JobReopened.TYPE:     _reopened,
    JobSucceeded.TYPE:    _ended(Status.SUCCEEDED),
    JobFailed.TYPE:       _ended(Status.FAILED),
    JobDead.TYPE:         _ended(Status.DEAD),
    JobCancelled.TYPE:    _ended(Status.CANCELLED),
    PhaseProgressed.TYPE: _progressed,
}  # fmt: skip


def _moved(
    job: Job,
    data: Mapping[str, Any],
    status: Status,
    *,
    ended_at: datetime | None = None,
    degraded: bool = False,
    error: Error | None = None,
) -> Job:
    """The job with its phases moved, and all that the newest decision alone says: what it does not, it takes back."""
    for change in data["changes"]:
        if change.get("item") is None:
            job = _phase_changed(job, change, data["revision"])
    if (data["revision"], status.is_terminal) <= (job.revision, job.status.is_terminal):
        return job
    return _with(
        job,
        status=status,
        revision=data["revision"],
        waiting_on=data.get("waiting_on"),
        ended_at=ended_at,
        degraded=degraded,
        error=error,
    )


def _phases_named(job: Job, data: Mapping[str, Any]) -> Job:
    if job.phases and data["revision"] <= job.revision:
        return job
    known = {phase.name: phase for phase in job.phases}
    return _with(job, phases=tuple(known.get(name, Phase(name=name)) for name in data["phases"]))


def _phase_changed(job: Job, change: Mapping[str, Any], revision: int) -> Job:
    def moved(phase: Phase) -> Phase:
        if revision <= phase.revision:
            return phase
        known = {name: value for name, value in change.items() if name in Phase.model_fields}
        told = Phase.model_validate({**known, "name": phase.name, "revision": revision, "error": _error(change)})
        return _with(told, progress=_progress(told), seconds=_seconds(told))

    return _phase(job, change["phase"], moved)


def _progress(phase: Phase) -> float | None:
    if phase.items and phase.items.total:
        return phase.items.ended / phase.items.total
    return 1.0 if phase.status is Status.SUCCEEDED else None


def _seconds(phase: Phase) -> float | None:
    if not phase.started_at or not phase.ended_at or phase.status is Status.SKIPPED:
        return None
    return round((phase.ended_at - phase.started_at).total_seconds(), 3)


def _phase(job: Job, name: str, change: Callable[[Phase], Phase]) -> Job:
    return _with(job, phases=tuple(change(phase) if phase.name == name else phase for phase in job.phases))


def _error(data: Mapping[str, Any]) -> Error | None:
    code = data.get("code")
    return Error(code=code, detail=data.get("detail") or "", phase=data.get("phase")) if code else None


_R = TypeVar("_R", bound=Read)


def _with(read: _R, **changes: Any) -> _R:
    return read.model_copy(update=changes)
