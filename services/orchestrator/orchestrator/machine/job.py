"""A job as the machine sees it: frozen, with its pipeline pinned beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from pydantic import JsonValue

from contracts.artifacts import Artifact, ObjectRef
from contracts.jobs import Status


@dataclass(frozen=True, slots=True)
class PhaseState:
    """Where one phase stands. `attempt` is the number of commands given for it.

    A running phase either has a command out (`deadline` is set) or waits to be tried again
    (`retry_at` is set), never both and never neither.
    """

    status: Status = Status.QUEUED
    attempt: int = 0
    deadline: datetime | None = None
    retry_at: datetime | None = None
    code: str | None = None
    detail: str | None = None
    engine: str | None = None
    degraded: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    artifacts: tuple[Artifact, ...] = ()
    facts: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the phases that need it may go on."""
        return self.status in (Status.SUCCEEDED, Status.SKIPPED)


@dataclass(frozen=True, slots=True)
class Job:
    """One upload's way through one pipeline version. `phases` has a row for each declared phase, in their order."""

    id: UUID
    tenant: str
    upload_id: UUID
    pipeline: str
    pipeline_version: int
    original: ObjectRef
    attachments: Mapping[str, ObjectRef]
    options: Mapping[str, JsonValue]
    status: Status
    created_at: datetime
    deadline: datetime
    phases: Mapping[str, PhaseState]
    ended_at: datetime | None = None
    traceparent: str | None = None

    @property
    def wake_at(self) -> datetime | None:
        """When something is due if nothing comes before: a retry, a phase's deadline, the job's. None once ended."""
        if self.status.is_terminal:
            return None
        due = [self.deadline]
        for phase in self.phases.values():
            due += [moment for moment in (phase.deadline, phase.retry_at) if moment]
        return min(due)
