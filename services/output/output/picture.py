"""The picture of a job, and how each event changes it. Pure: rows in, rows out.

Whatever the order in which a job's events come, and however often, the last picture is the same:

    what                                    is as told by
    status, waiting_on, deadline, ending    the job's newest decision
    version and names of its phases         the newest of the decisions that began or reopened it
    a phase, an item                        the newest decision that moved it
    who sent what, when it began            the one event that tells it, however late it comes

A job that ends as it begins or reopens is told by two events of one decision: its end is the last. A phase
of which nothing is over when its job reopens begins anew: what older decisions told of its items does not
count any more (`reset_revision`), though their rows are there. How far a phase is is a hint and may be lost
on the way; it only grows while one attempt runs. So may be what a phase tells and shows while it runs: the next
decision about it, its end above all, takes the place of that.

Every change says whether it was news: an event that tells nothing new is not told again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from contracts import jobs
from contracts.channel import Channel
from contracts.errors import error
from contracts.jobs import (
    JobCancelled,
    JobChanged,
    JobDead,
    JobFailed,
    JobReopened,
    JobStarted,
    JobSucceeded,
    PhaseChange,
    Status,
)
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived

Key = tuple[str, str]  # (phase, item); the item of the phase itself is ""
NO_HINT: Final = "null"
AS_STORED: Final = "null"  # the JSON of a state that has not changed


@dataclass(slots=True)
class JobRow:
    """A row of `jobs`, in the order of its columns. JSON columns are text."""

    id: UUID
    tenant: str
    upload_id: UUID
    pipeline: str
    pipeline_version: int | None
    status: str
    degraded: bool
    revision: int
    trace_id: str | None
    original: str | None
    phase_names: str
    error: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    pinned_revision: int
    waiting_on: str | None
    deadline: datetime | None
    batch_id: UUID | None
    options: str | None
    edit_of: UUID | None
    version: int
    grant_id: UUID | None


@dataclass(slots=True)
class PhaseRow:
    """A row of `phases` without its job. `state` is JSON, AS_STORED where no event has told a newer one.

    `hint` is JSON of what the attempt has told of itself before its end: `facts`, and `artifacts` that it has shown.
    """

    name: str
    item: str
    revision: int = 0
    status: str = Status.QUEUED
    attempt: int = 0
    progress: float | None = None
    reset_revision: int = 0
    hint: str = NO_HINT
    state: str = AS_STORED


@dataclass(slots=True)
class Picture:
    """One job's row, None before its first event, and those rows of its phases that events are about.

    `moved` are the keys of the rows that have changed.
    """

    job: JobRow | None = None
    phases: dict[Key, PhaseRow] = field(default_factory=dict)
    moved: set[Key] = field(default_factory=set)

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


def keys_of(event: Any) -> Iterable[Key]:
    """The phases and items that the event is about."""
    if isinstance(event, PhaseProgressed):
        return ((event.phase, event.item or ""),)
    return ((change.phase, change.item or "") for change in getattr(event, "changes", ()))


# -- what a job's events tell of it ----------------------------------------------------------


def _upload_received(picture: Picture, event: UploadReceived, trace_id: str | None) -> bool:
    job = picture.job = picture.job or _new_job(event, event.received_at, trace_id)
    if job.original is not None:
        return False
    job.original, job.created_at = event.original.model_dump_json(), event.received_at
    job.options, job.grant_id = json.dumps(event.options), event.grant_id
    job.batch_id = event.batch_id or job.batch_id
    return True


def _started(picture: Picture, event: JobStarted, trace_id: str | None) -> bool:
    job = picture.job = picture.job or _new_job(event, event.at, trace_id)
    first = job.started_at is None
    job.started_at, job.batch_id = event.at, event.batch_id or job.batch_id
    runs = any(change.status is Status.RUNNING for change in event.changes)
    pinned = _pinned(job, event)
    moved = _moved(job, event, Status.RUNNING if runs else Status.QUEUED, deadline=event.deadline)
    return _phases_changed(picture, event) or moved or pinned or first


def _changed(picture: Picture, event: JobChanged, _trace_id: str | None) -> bool:
    moved = _moved(_job(picture), event, event.status, deadline=event.deadline)
    return _phases_changed(picture, event) or moved


def _reopened(picture: Picture, event: JobReopened, _trace_id: str | None) -> bool:
    pinned = _pinned(_job(picture), event)
    moved = _moved(_job(picture), event, event.status, deadline=event.deadline)
    reset = [_reset(picture, change, event.revision) for change in event.changes]
    return _phases_changed(picture, event) or any(reset) or moved or pinned


def _succeeded(picture: Picture, event: JobSucceeded, _trace_id: str | None) -> bool:
    moved = _moved(_job(picture), event, Status.SUCCEEDED, ended_at=event.at, degraded=event.degraded)
    return _phases_changed(picture, event) or moved


def _given_up(picture: Picture, event: JobFailed | JobDead, _trace_id: str | None) -> bool:
    status = Status.FAILED if isinstance(event, JobFailed) else Status.DEAD
    problem = json.dumps({"code": event.code, "detail": event.detail, "phase": event.phase})
    moved = _moved(_job(picture), event, status, ended_at=event.at, problem=problem)
    return _phases_changed(picture, event) or moved


def _cancelled(picture: Picture, event: JobCancelled, _trace_id: str | None) -> bool:
    moved = _moved(_job(picture), event, Status.CANCELLED, ended_at=event.at)
    return _phases_changed(picture, event) or moved


def _new_job(event: UploadReceived | JobStarted, created_at: datetime, trace_id: str | None) -> JobRow:
    return JobRow(
        id=event.job_id,
        tenant=event.tenant,
        upload_id=event.upload_id,
        pipeline=event.pipeline,
        pipeline_version=None,
        status=Status.QUEUED,
        degraded=False,
        revision=0,
        trace_id=trace_id,
        original=None,
        phase_names="[]",
        error=None,
        created_at=created_at,
        started_at=None,
        ended_at=None,
        pinned_revision=0,
        waiting_on=None,
        deadline=None,
        batch_id=None,
        options=None,
        edit_of=event.edit_of,
        version=event.version,
        grant_id=None,
    )


def _moved(
    job: JobRow,
    event: Any,
    status: Status,
    *,
    ended_at: datetime | None = None,
    degraded: bool = False,
    problem: str | None = None,
    deadline: datetime | None = None,
) -> bool:
    """Everything that the newest decision alone says. What it does not say, it takes back: the ending, above all."""
    if (event.revision, status.is_terminal) <= (job.revision, Status(job.status).is_terminal):
        return False
    job.revision, job.status, job.waiting_on = event.revision, status, event.waiting_on
    job.ended_at, job.degraded, job.error, job.deadline = ended_at, degraded, problem, deadline
    return True


def _pinned(job: JobRow, event: JobStarted | JobReopened) -> bool:
    if event.revision <= job.pinned_revision:
        return False
    job.pinned_revision, job.pipeline_version = event.revision, event.pipeline_version
    job.phase_names = json.dumps(event.phases)
    return True


# -- what they tell of its phases ------------------------------------------------------------


def _phases_changed(picture: Picture, event: Any) -> bool:
    news = [_phase_changed(picture, change, event.revision) for change in event.changes]
    return any(news)


def _phase_changed(picture: Picture, change: PhaseChange, revision: int) -> bool:
    row = _row(picture, change)
    if revision <= row.revision:
        return False
    row.revision, row.status, row.attempt = revision, change.status, change.attempt
    row.progress, row.state, row.hint = _progress(change), change.model_dump_json(), NO_HINT
    picture.moved.add((row.name, row.item))
    return True


def _reset(picture: Picture, change: PhaseChange, revision: int) -> bool:
    row = _row(picture, change)
    if change.item or (change.items and change.items.ended) or revision <= row.reset_revision:
        return False
    row.reset_revision = revision
    picture.moved.add((row.name, row.item))
    return True


def _row(picture: Picture, change: PhaseChange) -> PhaseRow:
    key = change.phase, change.item or ""
    row = picture.phases.get(key)
    if row is None:
        row = picture.phases[key] = PhaseRow(*key)
    return row


def _progress(change: PhaseChange) -> float | None:
    if change.items and change.items.total:
        return change.items.ended / change.items.total
    return 1.0 if change.status is Status.SUCCEEDED else None


def _progressed(picture: Picture, event: PhaseProgressed, _trace_id: str | None) -> bool:
    row = picture.phases.get(key := (event.phase, event.item or ""))
    if row is None or row.status != Status.RUNNING or row.attempt != event.attempt:
        return False
    if event.fraction <= (row.progress or 0.0):
        return False
    row.progress = event.fraction
    row.hint = event.model_dump_json(include={"facts", "artifacts"})
    picture.moved.add(key)
    return True


def _job(picture: Picture) -> JobRow:
    assert picture.job is not None, "apply has refused the event"
    return picture.job


_TABLE: Final[tuple[tuple[Channel[Any], Callable[[Picture, Any, str | None], bool]], ...]] = (
    (UPLOAD_RECEIVED, _upload_received),
    (jobs.JOB_STARTED, _started),
    (jobs.JOB_CHANGED, _changed),
    (jobs.JOB_REOPENED, _reopened),
    (jobs.JOB_SUCCEEDED, _succeeded),
    (jobs.JOB_FAILED, _given_up),
    (jobs.JOB_DEAD, _given_up),
    (jobs.JOB_CANCELLED, _cancelled),
    (PHASE_PROGRESSED, _progressed),
)
CHANNELS: Final = {channel.subject: channel for channel, _ in _TABLE}
_CHANGES: Final = {channel.subject: change for channel, change in _TABLE}
