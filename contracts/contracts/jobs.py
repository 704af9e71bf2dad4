"""What the orchestrator says about jobs: events for whoever serves or follows their status."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.artifacts import Artifact
from contracts.channel import Channel
from contracts.message import Message
from contracts.phases import Facts
from contracts.topology import EVENTS


class Status(StrEnum):
    """The status of a job and of each of its phases. Other ledgers reuse the endings."""

    QUEUED = "queued"  # accepted; nothing of it runs yet
    RUNNING = "running"  # at least one command is out or was, and what follows waits for its time
    SUCCEEDED = "succeeded"  # ended well; its artifacts are final
    SKIPPED = "skipped"  # a phase whose condition did not hold, or an optional one that gave up (never a job's)
    FAILED = "failed"  # ended: its input or its parameters cannot be worked with
    CANCELLED = "cancelled"  # ended because someone asked for it
    DEAD = "dead"  # ended by us: retries exhausted or a deadline passed; can be replayed

    @property
    def is_terminal(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


class ItemCounts(BaseModel):
    """How the items of a phase that fans out stand. `ended` counts every ending, `gave_up` those without a result."""

    model_config = ConfigDict(frozen=True)

    total: int
    ended: int
    gave_up: int


class PhaseChange(BaseModel):
    """A phase, or one item of it, moved; all that is known of it now.

    `attempt` counts the tries, from 1 (0 for a skipped phase, and for one that an earlier version's job
    has done: `made_by`). `retry_at` is set while it waits for
    its next try, `code` when the last try failed. A skipped phase with a code is an optional one
    that could not be done. `items` counts the items of a phase that fans out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    phase: str
    item: str | None = None
    status: Status
    attempt: int
    deadline: datetime | None = None
    retry_at: datetime | None = None
    code: str | None = None
    detail: str | None = None
    engine: str | None = None
    degraded: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    artifacts: list[Artifact] = Field(default_factory=list)
    facts: Facts = Field(default_factory=dict)
    items: ItemCounts | None = None
    made_by: UUID | None = None


class _JobEvent(Message):
    """One decision about a job, told once. `revision` counts the decisions: a reader keeps the newest.

    `changes` are the phases that it moved. `waiting_on` says in words why nothing of the job runs
    now; None while something does, and at the end.
    """

    job_id: UUID
    tenant: str
    revision: int
    at: datetime
    changes: list[PhaseChange] = Field(default_factory=list)
    waiting_on: str | None = None


class JobStarted(_JobEvent):
    """A job exists and pins its pipeline. `phases` are in the order of the table.

    What a new version (`edit_of` another job) takes over from that one is told by `job.v1.changed` of
    the same revision.
    """

    TYPE: ClassVar[str] = "job.v1.started"

    upload_id: UUID
    batch_id: UUID | None = None
    pipeline: str
    pipeline_version: int
    phases: list[str]
    deadline: datetime
    edit_of: UUID | None = None
    version: int = 1


class JobChanged(_JobEvent):
    """Phases of the job moved, or what it waits for changed. `status` is queued or running."""

    TYPE: ClassVar[str] = "job.v1.changed"

    status: Status
    deadline: datetime


class JobReopened(_JobEvent):
    """An ended job is at work again, from a phase on: somebody retried or replayed it."""

    TYPE: ClassVar[str] = "job.v1.reopened"

    status: Status
    pipeline_version: int
    phases: list[str]
    deadline: datetime


class JobSucceeded(_JobEvent):
    """Every phase succeeded or was skipped. `degraded`: at least one ran on a lesser engine, or could not be done."""

    TYPE: ClassVar[str] = "job.v1.succeeded"

    degraded: bool = False


class JobFailed(_JobEvent):
    """The job ended because its input cannot be worked with: the caller can fix it."""

    TYPE: ClassVar[str] = "job.v1.failed"

    phase: str | None = None
    code: str
    detail: str = ""


class JobDead(_JobEvent):
    """The job ended because we could not finish it: an operator can replay it."""

    TYPE: ClassVar[str] = "job.v1.dead"

    phase: str | None = None
    code: str
    detail: str = ""


class JobCancelled(_JobEvent):
    """The job ended because somebody asked for it. Who and why is in the audit."""

    TYPE: ClassVar[str] = "job.v1.cancelled"


JOB_STARTED: Final = Channel("evt.job.v1.started", JobStarted, EVENTS.name)
JOB_CHANGED: Final = Channel("evt.job.v1.changed", JobChanged, EVENTS.name)
JOB_REOPENED: Final = Channel("evt.job.v1.reopened", JobReopened, EVENTS.name)
JOB_SUCCEEDED: Final = Channel("evt.job.v1.succeeded", JobSucceeded, EVENTS.name)
JOB_FAILED: Final = Channel("evt.job.v1.failed", JobFailed, EVENTS.name)
JOB_DEAD: Final = Channel("evt.job.v1.dead", JobDead, EVENTS.name)
JOB_CANCELLED: Final = Channel("evt.job.v1.cancelled", JobCancelled, EVENTS.name)
