"""What the API answers, as far as a product needs it. Fields that a newer service adds are kept (`model_extra`)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict

ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "dead"})


class Error(Exception):
    """The API refused, or nobody answered. `code` is stable; `status` is None when there was no answer."""

    def __init__(self, code: str, detail: str, status: int | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail, self.status = code, detail, status


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class Upload(_Read):
    """What came in, and the job that works on it."""

    upload_id: UUID
    job_id: UUID


class Artifact(_Read):
    """A stored output; size is in bytes. `url` is a path of the API."""

    name: str
    phase: str
    item: str | None = None
    sha256: str
    size: int
    media_type: str
    url: str
    width: int | None = None
    height: int | None = None


class Phase(_Read):
    """One phase of a job. `progress` is 0..1 while it runs and says so."""

    name: str
    status: str
    attempt: int = 0
    engine: str | None = None
    degraded: bool = False
    progress: float | None = None
    seconds: float | None = None
    facts: dict[str, Any] = {}


class Job(_Read):
    """A job with its phases and artifacts."""

    id: UUID
    upload_id: UUID
    batch_id: UUID | None = None
    pipeline: str
    status: str
    degraded: bool = False
    options: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    waiting_on: str | None = None
    created_at: datetime
    ended_at: datetime | None = None
    phases: list[Phase] = []
    artifacts: list[Artifact] = []

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.status in ENDED

    def artifact(self, name: str) -> Artifact:
        """The artifact of this name (`web.jpg`, or `variants.web.jpg` where phases share one). Raises KeyError."""
        found = [one for one in self.artifacts if name in (one.name, f"{one.phase}.{one.name}")]
        if len(found) != 1:
            raise KeyError(name)
        return found[0]


class Batch(_Read):
    """A batch, and how far it is."""

    id: UUID
    name: str
    jobs: dict[str, int]
    fraction: float
    eta_s: float | None = None
    ended_at: datetime | None = None


class Grant(_Read):
    """A token for a page that uploads by itself."""

    token: str


class Event(_Read):
    """Something that happened to a job. `id` is where to go on after it."""

    id: str
    type: str
    data: dict[str, Any]


class Erasure(_Read):
    """An erasure; the receipt is there once `state` is succeeded."""

    id: UUID
    state: str
    receipt: dict[str, Any] | None = None
    signature: str | None = None
