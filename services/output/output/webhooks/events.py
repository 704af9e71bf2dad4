"""What endpoints can be told, and in which words. Pure.

A body is small: ids, a status, names of artifacts and where our API has them. No text of a user, no link that
works without a key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid5

from contracts import batches, jobs
from contracts.channel import Channel
from contracts.message import Message

ARTIFACTS_MOST: Final = 40  # 40 x 300 bytes: the specification asks for bodies under 20 kB
_IDS: Final = UUID("7d9d7a2c-53a1-5f0e-9a4f-3a1c0c6d2b11")  # the namespace of message ids


class EventType(StrEnum):
    """What an endpoint may ask to be told."""

    JOB_STARTED = "job.started"  # told to those alone who ask for it: most want to hear of endings
    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_DEAD = "job.dead"
    JOB_CANCELLED = "job.cancelled"
    BATCH_CLOSED = "batch.closed"
    BATCH_ENDED = "batch.ended"


DEFAULT: Final = tuple(kind for kind in EventType if kind is not EventType.JOB_STARTED)
PING: Final = "webhook.ping"  # a test that somebody asked for: no endpoint subscribes to it

# Which of the broker's events are told.
TOLD: Final[Mapping[str, EventType]] = {
    jobs.JOB_STARTED.subject: EventType.JOB_STARTED,
    jobs.JOB_SUCCEEDED.subject: EventType.JOB_SUCCEEDED,
    jobs.JOB_FAILED.subject: EventType.JOB_FAILED,
    jobs.JOB_DEAD.subject: EventType.JOB_DEAD,
    jobs.JOB_CANCELLED.subject: EventType.JOB_CANCELLED,
}
BATCHES: Final[Mapping[str, Channel[Any]]] = {
    one.subject: one for one in (batches.BATCH_CREATED, batches.BATCH_CLOSED, batches.BATCH_ENDED)
}
TOLD_OF_BATCHES: Final[Mapping[str, EventType]] = {
    batches.BATCH_CLOSED.subject: EventType.BATCH_CLOSED,
    batches.BATCH_ENDED.subject: EventType.BATCH_ENDED,
}
_STATUS: Final = {
    EventType.JOB_STARTED: jobs.Status.RUNNING,
    EventType.JOB_SUCCEEDED: jobs.Status.SUCCEEDED,
    EventType.JOB_FAILED: jobs.Status.FAILED,
    EventType.JOB_DEAD: jobs.Status.DEAD,
    EventType.JOB_CANCELLED: jobs.Status.CANCELLED,
}


def message_id(told_by: str) -> str:
    """The webhook-id of what one message of ours tells: the same for every endpoint, every try, every replay."""
    return f"msg_{uuid5(_IDS, told_by).hex}"  # without a dot: it stands in what is signed


def body(kind: str, at: datetime, data: Mapping[str, Any]) -> str:
    """The bytes that are signed and sent, as text: made once, for a blank more would be another signature."""
    told = {"type": str(kind), "timestamp": at.isoformat().replace("+00:00", "Z"), "data": data}
    return json.dumps(told, separators=(",", ":"))


def of_job(
    kind: EventType,
    event: Any,
    job: Any,
    made: Sequence[tuple[str, Mapping[str, Any]]],
    base_url: str,
) -> dict[str, Any]:
    """What is told of a job: `event` is its message, `job` its row, `made` its artifacts with their phases."""
    link = f"{base_url}/v1/jobs/{event.job_id}"
    data: dict[str, Any] = {
        "job_id": str(event.job_id),
        "upload_id": str(job.upload_id),
        "batch_id": str(job.batch_id) if job.batch_id else None,
        "pipeline": job.pipeline,
        "status": _STATUS[kind],
        "revision": event.revision,  # of two that come in the wrong order, the greater one is the newer one
        "url": link,
    }
    if kind is EventType.JOB_SUCCEEDED:
        data["degraded"] = event.degraded
    if kind in (EventType.JOB_FAILED, EventType.JOB_DEAD):
        data["error"] = {"code": event.code, "phase": event.phase}
    if kind is not EventType.JOB_STARTED:
        data["artifacts"] = [_artifact(phase, one, link) for phase, one in made[:ARTIFACTS_MOST]]
        data["artifacts_total"] = len(made)
    return data


def _artifact(phase: str, made: Mapping[str, Any], link: str) -> dict[str, Any]:
    name = f"{phase}.{made['name']}"
    known = {field: made.get(field) for field in ("media_type", "size", "sha256", "width", "height")}
    return {"name": name, **known, "url": f"{link}/artifacts/{name}"}


def of_batch(event: Message, base_url: str) -> dict[str, Any]:
    """What is told of a batch: all that its event says but whose it is and where that is to be told."""
    told = event.model_dump(mode="json", exclude={"tenant", "webhook", "at"})
    return told | {"url": f"{base_url}/v1/batches/{told['batch_id']}"}
