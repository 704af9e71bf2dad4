"""What the orchestrator asks when somebody's data is to be gone everywhere, and what each room answers.

A room erases its rows and its objects, and remembers the jobs for as long as late messages may name them. Doing it
twice is the same as doing it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from pydantic import Field

from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import EVENTS

ROOMS: Final = ("gpu-bridge", "ingest", "output")  # who answers; the orchestrator erases what is its own itself
JOBS_MAX: Final = 200  # of one request: larger erasures have several parts


class ErasureRequested(Message):
    """Everything of these jobs and of the uploads that they worked on is to be gone, and of the batch, if that is."""

    TYPE: ClassVar[str] = "erasure.v1.requested"

    erasure_id: UUID
    part: int
    tenant: str
    jobs: list[UUID] = Field(max_length=JOBS_MAX)
    uploads: list[UUID]
    batch: UUID | None = None

    @property
    def ids(self) -> list[UUID]:
        """What a room remembers as erased."""
        return [*self.jobs, *([self.batch] if self.batch else [])]


class ErasureDone(Message):
    """A room has nothing of them any more. `erased` counts by kind: `rows.jobs`, `objects`.

    `kept` counts what is another's too, or what a tenant keeps on purpose: it goes with its last owner.
    """

    TYPE: ClassVar[str] = "erasure.v1.done"

    erasure_id: UUID
    part: int
    room: str
    erased: dict[str, int]
    kept: dict[str, int] = Field(default_factory=dict)
    at: datetime


ERASURE_REQUESTED: Final = Channel("evt.erasure.v1.requested", ErasureRequested, EVENTS.name)
ERASURE_DONE: Final = Channel("evt.erasure.v1.done", ErasureDone, EVENTS.name)


def done(
    request: ErasureRequested, room: str, erased: Mapping[str, int], kept: Mapping[str, int], at: datetime
) -> tuple[str, ErasureDone]:
    """A room's answer and its message id: an answer that is told twice is one. Nothing that was kept is not told."""
    counts = {kind: count for kind, count in kept.items() if count}
    answer = ErasureDone(
        erasure_id=request.erasure_id, part=request.part, room=room, erased=dict(erased), kept=counts, at=at
    )
    return f"{request.erasure_id}.{request.part}.{room}", answer
