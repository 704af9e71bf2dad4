"""Events become rows: the picture of a job that the API reads.

Events may come twice (the inbox refuses them) or late (an older `revision` changes nothing).
A batch is one transaction; readers that wait are told by NOTIFY when it commits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts import jobs
from contracts.channel import Channel
from contracts.errors import error
from contracts.jobs import JobDead, JobFailed, JobPhaseChanged, JobStarted, JobSucceeded, Status
from contracts.message import Message
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from output.tables import EVENTS, INBOX, JOBS, PHASES
from runtime import inbox, telemetry
from runtime.settle import Delivery

NOTIFY: Final = "output_events"  # payload: the job's id

Apply = Callable[[AsyncConnection, Any, Delivery], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Projection:
    """Consumes batches of events."""

    engine: AsyncEngine

    async def events(self, deliveries: Sequence[Delivery]) -> None:
        """Project a batch. Raises ValidationError for a body that does not fit its subject."""
        read = [(delivery, _read(delivery)) for delivery in deliveries]
        async with self.engine.begin() as conn:
            fresh = await inbox.insert_new(conn, INBOX, [delivery.message_id for delivery, _ in read])
            for delivery, event in read:
                if delivery.message_id not in fresh:
                    continue
                fresh.discard(delivery.message_id)
                if await _APPLY[delivery.subject](conn, event, delivery):
                    await _tell(conn, event)


def _read(delivery: Delivery) -> Message:
    channel = _CHANNELS.get(delivery.subject)
    if channel is None:
        raise error("MESSAGE_INVALID", f"no event comes on {delivery.subject}")
    event: Message = channel.message.model_validate_json(delivery.body)
    return event


async def _tell(conn: AsyncConnection, event: Any) -> None:
    data = event.model_dump(mode="json", exclude={"tenant", "original", "attachments"})
    await conn.execute(insert(EVENTS).values(job_id=event.job_id, type=event.TYPE, data=data))
    await conn.execute(select(func.pg_notify(NOTIFY, str(event.job_id))))


# Each returns whether it changed anything: what is late or a repetition is not told again.


async def _upload_received(conn: AsyncConnection, event: UploadReceived, delivery: Delivery) -> bool:
    done = await conn.execute(
        insert(JOBS)
        .values(
            id=event.job_id,
            tenant=event.tenant,
            upload_id=event.upload_id,
            pipeline=event.pipeline,
            status=Status.QUEUED,
            revision=0,
            trace_id=telemetry.trace_id(delivery.traceparent),
            phase_names=[],
            created_at=event.received_at,
        )
        .on_conflict_do_nothing()
    )
    return done.rowcount == 1


async def _started(conn: AsyncConnection, event: JobStarted, delivery: Delivery) -> bool:
    known = {
        "pipeline_version": event.pipeline_version,
        "phase_names": event.phases,
        "started_at": event.at,
    }
    done = await conn.execute(
        insert(JOBS)
        .values(
            id=event.job_id,
            tenant=event.tenant,
            upload_id=event.upload_id,
            pipeline=event.pipeline,
            status=Status.RUNNING,
            revision=event.revision,
            trace_id=telemetry.trace_id(delivery.traceparent),
            created_at=event.at,
            **known,
        )
        .on_conflict_do_update(
            index_elements=[JOBS.c.id],
            set_={**known, "status": Status.RUNNING, "revision": event.revision},
            where=JOBS.c.revision < event.revision,
        )
    )
    return done.rowcount == 1


async def _phase_changed(conn: AsyncConnection, event: JobPhaseChanged, _delivery: Delivery) -> bool:
    now = {
        "revision": event.revision,
        "status": event.status,
        "attempt": event.attempt,
        "progress": 1.0 if event.status is Status.SUCCEEDED else None,
        "state": event.model_dump(mode="json", exclude={"job_id", "tenant", "revision", "at"}),
    }
    done = await conn.execute(
        insert(PHASES)
        .values(job_id=event.job_id, name=event.phase, **now)
        .on_conflict_do_update(
            index_elements=[PHASES.c.job_id, PHASES.c.name], set_=now, where=PHASES.c.revision <= event.revision
        )
    )
    return done.rowcount == 1


async def _progressed(conn: AsyncConnection, event: PhaseProgressed, _delivery: Delivery) -> bool:
    done = await conn.execute(
        update(PHASES)
        .where(
            PHASES.c.job_id == event.job_id,
            PHASES.c.name == event.phase,
            PHASES.c.attempt == event.attempt,
            PHASES.c.status == Status.RUNNING,
            func.coalesce(PHASES.c.progress, 0.0) < event.fraction,
        )
        .values(progress=event.fraction)
    )
    return done.rowcount == 1


async def _ended(conn: AsyncConnection, event: Any, values: Mapping[str, Any]) -> bool:
    done = await conn.execute(
        update(JOBS)
        .where(JOBS.c.id == event.job_id, JOBS.c.revision <= event.revision)
        .values(revision=event.revision, ended_at=event.at, **values)
    )
    return done.rowcount == 1


async def _succeeded(conn: AsyncConnection, event: JobSucceeded, _delivery: Delivery) -> bool:
    return await _ended(conn, event, {"status": Status.SUCCEEDED, "degraded": event.degraded, "error": None})


async def _failed(conn: AsyncConnection, event: JobFailed | JobDead, _delivery: Delivery) -> bool:
    status = Status.FAILED if isinstance(event, JobFailed) else Status.DEAD
    problem = {"code": event.code, "detail": event.detail, "phase": event.phase}
    return await _ended(conn, event, {"status": status, "error": problem})


_TABLE: Final[tuple[tuple[Channel[Any], Apply], ...]] = (
    (UPLOAD_RECEIVED, _upload_received),
    (jobs.JOB_STARTED, _started),
    (jobs.JOB_PHASE_CHANGED, _phase_changed),
    (PHASE_PROGRESSED, _progressed),
    (jobs.JOB_SUCCEEDED, _succeeded),
    (jobs.JOB_FAILED, _failed),
    (jobs.JOB_DEAD, _failed),
)
_CHANNELS: Final = {channel.subject: channel for channel, _ in _TABLE}
_APPLY: Final = {channel.subject: apply for channel, apply in _TABLE}
