"""What the orchestrator says about jobs: events for whoever serves or follows their status."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from pydantic import Field

from contracts.artifacts import Artifact
from contracts.channel import Channel
from contracts.message import Message
from contracts.phases import Facts
from contracts.topology import EVENTS


class Status(StrEnum):
    """The status of a job and of each of its phases. Other ledgers reuse the endings."""

    QUEUED = "queued"  # accepted; nothing of it runs yet
    RUNNING = "running"  # at least one command is out, or a retry waits for its time
    SUCCEEDED = "succeeded"  # ended well; its artifacts are final
    SKIPPED = "skipped"  # a phase whose condition did not hold (never a job's status)
    FAILED = "failed"  # ended: its input or its parameters cannot be worked with
    CANCELLED = "cancelled"  # ended because someone asked for it
    DEAD = "dead"  # ended by us: retries exhausted or a deadline passed; can be replayed

    @property
    def is_terminal(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


class _JobEvent(Message):
    """`revision` counts the job's decisions: a reader keeps the newest and ignores what comes late."""

    job_id: UUID
    tenant: str
    revision: int
    at: datetime


class JobStarted(_JobEvent):
    """A job exists and pins its pipeline. `phases` are in the order of the table."""

    TYPE: ClassVar[str] = "job.v1.started"

    upload_id: UUID
    pipeline: str
    pipeline_version: int
    phases: list[str]
    deadline: datetime


class JobPhaseChanged(_JobEvent):
    """One phase of the job moved; the event holds all that is known of the phase now.

    `attempt` counts the tries of this phase, from 1 (0 for a skipped phase).
    `retry_at` is set while it waits for its next try, `code` when the last try failed.
    """

    TYPE: ClassVar[str] = "job.v1.phasechanged"

    phase: str
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


class JobSucceeded(_JobEvent):
    """Every phase succeeded or was skipped. `degraded`: at least one ran on a lesser engine."""

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


JOB_STARTED: Final = Channel("evt.job.v1.started", JobStarted, EVENTS.name)
JOB_PHASE_CHANGED: Final = Channel("evt.job.v1.phasechanged", JobPhaseChanged, EVENTS.name)
JOB_SUCCEEDED: Final = Channel("evt.job.v1.succeeded", JobSucceeded, EVENTS.name)
JOB_FAILED: Final = Channel("evt.job.v1.failed", JobFailed, EVENTS.name)
JOB_DEAD: Final = Channel("evt.job.v1.dead", JobDead, EVENTS.name)
