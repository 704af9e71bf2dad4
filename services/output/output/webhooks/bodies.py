"""The shape of what endpoints are told, for whoever generates types from it; `events.py` makes what is sent.

A test holds the two together.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, create_model

from contracts.jobs import Status
from output.webhooks.events import PING, EventType


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ToldArtifact(_Told):
    """Something that a job made. `url` wants your key; size is in bytes, width and height in pixels."""

    name: str
    media_type: str
    size: int
    sha256: str
    width: int | None
    height: int | None
    url: str


class ToldError(_Told):
    """Why a job ended without success: a stable code, and where."""

    code: str
    phase: str | None


class ToldJob(_Told):
    """A job. Of two that come in the wrong order, the greater `revision` is the newer one."""

    job_id: UUID
    upload_id: UUID
    batch_id: UUID | None
    pipeline: str
    status: Status
    revision: int
    url: str


class ToldEnding(ToldJob):
    """A job that has ended; the first 40 of its `artifacts_total` artifacts."""

    artifacts: list[ToldArtifact]
    artifacts_total: int


class ToldSuccess(ToldEnding):
    """A job that has succeeded. `degraded`: at least one phase ran on a lesser engine."""

    degraded: bool


class ToldFailure(ToldEnding):
    """A job that has ended without success."""

    error: ToldError


class ToldBatch(_Told):
    """A batch that takes no more uploads."""

    batch_id: UUID
    url: str


class ToldBatchEnding(ToldBatch):
    """A batch of which every job has ended; `jobs` counts them by status."""

    jobs: dict[str, int]
    degraded: int


class ToldPing(_Told):
    """A test that somebody asked for."""

    webhook_id: UUID


DATA: Final[dict[str, type[BaseModel]]] = {
    EventType.JOB_STARTED: ToldJob,
    EventType.JOB_SUCCEEDED: ToldSuccess,
    EventType.JOB_FAILED: ToldFailure,
    EventType.JOB_DEAD: ToldFailure,
    EventType.JOB_CANCELLED: ToldEnding,
    EventType.BATCH_CLOSED: ToldBatch,
    EventType.BATCH_ENDED: ToldBatchEnding,
    PING: ToldPing,
}


def body_of(kind: str) -> type[BaseModel]:
    """The whole body of a type: what a verified request holds."""
    name = "".join(word.title() for word in kind.split(".")) + "Webhook"
    fields: dict[str, Any] = {
        "type": (Literal[str(kind)], ...),
        "timestamp": (datetime, ...),
        "data": (DATA[kind], ...),
    }
    made: type[BaseModel] = create_model(name, __base__=_Told, **fields)
    return made
