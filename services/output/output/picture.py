"""The picture of a job, and how each event changes it. Pure: rows in, rows out.

Whatever the order in which a job's events come, the last picture is the same. Every change says
whether it was news: an event that is late (an older `revision` than the row has seen) or repeats
what is known changes nothing and is not told again. What only one event tells is taken however late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from contracts import jobs
from contracts.channel import Channel
from contracts.errors import error
from contracts.jobs import JobDead, JobFailed, JobPhaseChanged, JobStarted, JobSucceeded, Status
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived

Row = dict[str, Any]


@dataclass(slots=True)
class Picture:
    """One job's row, None before its first event, and its phases' rows by name."""

    job: Row | None = None
    phases: dict[str, Row] = field(default_factory=dict)

    def apply(self, subject: str, event: Any, trace_id: str | None) -> bool:
        """Take an event in. Returns whether it was news.

        Raises:
            SafelightError: INTERNAL when the event is ahead of its job's first one: it will be delivered again.
        """
        if self.job is None and isinstance(event, PhaseProgressed):
            return False  # a hint, worth no second delivery
        if self.job is None and not isinstance(event, UploadReceived | JobStarted):
            raise error("INTERNAL", "the event is ahead of its job's first one")
        return _CHANGES[subject](self, event, trace_id)


def _upload_received(picture: Picture, event: UploadReceived, trace_id: str | None) -> bool:
    if picture.job is None:
        picture.job = _new_job(event, event.received_at, trace_id)
    if picture.job["original"] is not None:
        return False
    picture.job.update(original=event.original.model_dump(mode="json"), created_at=event.received_at)
    return True


def _started(picture: Picture, event: JobStarted, trace_id: str | None) -> bool:
    if picture.job is None:
        picture.job = _new_job(event, event.at, trace_id)
    known = {"pipeline_version": event.pipeline_version, "phase_names": event.phases, "started_at": event.at}
    first = picture.job["started_at"] is None
    if first:
        picture.job.update(known)
    return _newer(picture.job, event.revision, status=Status.RUNNING, **known) or first


def _phase_changed(picture: Picture, event: JobPhaseChanged, _trace_id: str | None) -> bool:
    row = picture.phases.setdefault(event.phase, {"name": event.phase, "revision": 0})
    return _newer(
        row,
        event.revision,
        status=event.status,
        attempt=event.attempt,
        progress=1.0 if event.status is Status.SUCCEEDED else None,
        state=event.model_dump(mode="json", exclude={"job_id", "tenant", "revision", "at"}),
    )


def _progressed(picture: Picture, event: PhaseProgressed, _trace_id: str | None) -> bool:
    row = picture.phases.get(event.phase, {})
    same = row.get("status") == Status.RUNNING and row["attempt"] == event.attempt
    if not same or event.fraction <= (row["progress"] or 0.0):
        return False
    row["progress"] = event.fraction
    return True


def _succeeded(picture: Picture, event: JobSucceeded, _trace_id: str | None) -> bool:
    ending = {"ended_at": event.at, "degraded": event.degraded, "error": None}
    return _newer(_job(picture), event.revision, status=Status.SUCCEEDED, **ending)


def _failed(picture: Picture, event: JobFailed | JobDead, _trace_id: str | None) -> bool:
    status = Status.FAILED if isinstance(event, JobFailed) else Status.DEAD
    problem = {"code": event.code, "detail": event.detail, "phase": event.phase}
    return _newer(_job(picture), event.revision, status=status, ended_at=event.at, error=problem)


def _new_job(event: UploadReceived | JobStarted, created_at: Any, trace_id: str | None) -> Row:
    return {
        "id": event.job_id,
        "tenant": event.tenant,
        "upload_id": event.upload_id,
        "pipeline": event.pipeline,
        "pipeline_version": None,
        "status": Status.QUEUED,
        "degraded": False,
        "revision": 0,
        "trace_id": trace_id,
        "original": None,
        "phase_names": [],
        "error": None,
        "created_at": created_at,
        "started_at": None,
        "ended_at": None,
    }


def _newer(row: Row, revision: int, *, status: Status, **values: Any) -> bool:
    """Update the row unless it has seen a newer decision. Of what one decision says about it, its end is the last."""
    seen = row["revision"], "status" in row and Status(row["status"]).is_terminal
    if (revision, status.is_terminal) < seen:
        return False
    row.update(values, status=status, revision=revision)
    return True


def _job(picture: Picture) -> Row:
    assert picture.job is not None, "apply has refused the event"
    return picture.job


_TABLE: Final[tuple[tuple[Channel[Any], Callable[[Picture, Any, str | None], bool]], ...]] = (
    (UPLOAD_RECEIVED, _upload_received),
    (jobs.JOB_STARTED, _started),
    (jobs.JOB_PHASE_CHANGED, _phase_changed),
    (PHASE_PROGRESSED, _progressed),
    (jobs.JOB_SUCCEEDED, _succeeded),
    (jobs.JOB_FAILED, _failed),
    (jobs.JOB_DEAD, _failed),
)
CHANNELS: Final = {channel.subject: channel for channel, _ in _TABLE}
_CHANGES: Final = {channel.subject: change for channel, change in _TABLE}
