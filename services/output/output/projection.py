"""Events become rows: the picture of a job that the API reads.

Events may come twice (the inbox refuses them) or late (the picture ignores them). A batch is one
transaction of a few set-based statements; readers that wait are told by NOTIFY when it commits.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import error
from contracts.message import Message
from output.picture import CHANNELS, Picture, Row
from output.tables import INBOX, JOBS, PHASES
from runtime import inbox, telemetry
from runtime.settle import Delivery

NOTIFY: Final = "output_events"  # payload: the job's id
UNTOLD: Final = {"tenant", "original", "attachments"}  # what a client has no use for


@dataclass(frozen=True, slots=True)
class Projection:
    """Consumes batches of events."""

    engine: AsyncEngine

    async def events(self, deliveries: Sequence[Delivery]) -> None:
        """Project a batch. Raises ValidationError for a body that does not fit its subject."""
        read = [(delivery, _read(delivery)) for delivery in deliveries]
        async with self.engine.begin() as conn:
            fresh = await inbox.insert_new(conn, INBOX, [delivery.message_id for delivery, _ in read])
            pictures = await _load(conn, {event.job_id for _, event in read})
            news: list[Any] = []
            for delivery, event in read:
                if delivery.message_id not in fresh:
                    continue
                fresh.discard(delivery.message_id)  # twice in one batch is still once
                trace_id = telemetry.trace_id(delivery.traceparent)
                if pictures[event.job_id].apply(delivery.subject, event, trace_id):
                    news.append(event)
            changed = {event.job_id: pictures[event.job_id] for event in news}
            await _save_jobs(conn, [picture.job for picture in changed.values() if picture.job])
            await _save_phases(conn, changed)
            await _tell(conn, news)


def _read(delivery: Delivery) -> Any:
    channel = CHANNELS.get(delivery.subject)
    if channel is None:
        raise error("MESSAGE_INVALID", f"no event comes on {delivery.subject}")
    event: Message = channel.message.model_validate_json(delivery.body)
    return event


async def _load(conn: AsyncConnection, ids: set[UUID]) -> defaultdict[UUID, Picture]:
    """The jobs' pictures, locked in the order of their ids; a job that is not there has an empty one."""
    pictures: defaultdict[UUID, Picture] = defaultdict(Picture)
    locked = select(JOBS).where(JOBS.c.id.in_(ids)).order_by(JOBS.c.id).with_for_update()
    for row in (await conn.execute(locked)).mappings():
        pictures[row["id"]].job = dict(row)
    for row in (await conn.execute(select(PHASES).where(PHASES.c.job_id.in_(list(pictures))))).mappings():
        pictures[row["job_id"]].phases[row["name"]] = dict(row)
    return pictures


async def _save_jobs(conn: AsyncConnection, rows: Sequence[Row]) -> None:
    if rows:
        await conn.exec_driver_sql(
            "INSERT INTO output.jobs SELECT * FROM jsonb_populate_recordset(null::output.jobs, $1::text::jsonb) "
            "ON CONFLICT (id) DO UPDATE SET pipeline_version = excluded.pipeline_version, status = excluded.status, "
            "degraded = excluded.degraded, revision = excluded.revision, original = excluded.original, "
            "created_at = excluded.created_at, "
            "phase_names = excluded.phase_names, error = excluded.error, started_at = excluded.started_at, "
            "ended_at = excluded.ended_at WHERE jobs.revision <= excluded.revision",
            (_json(rows),),
        )


async def _save_phases(conn: AsyncConnection, pictures: Mapping[UUID, Picture]) -> None:
    rows = [{"job_id": id_, **row} for id_, picture in pictures.items() for row in picture.phases.values()]
    if rows:
        await conn.exec_driver_sql(
            "INSERT INTO output.phases SELECT * FROM jsonb_populate_recordset(null::output.phases, $1::text::jsonb) "
            "ON CONFLICT (job_id, name) DO UPDATE SET revision = excluded.revision, status = excluded.status, "
            "attempt = excluded.attempt, progress = excluded.progress, state = excluded.state "
            "WHERE phases.revision <= excluded.revision",
            (_json(rows),),
        )


def _json(rows: Sequence[Row]) -> str:
    return json.dumps(rows, default=str)  # ids and times as text, which the record's own types read back


async def _tell(conn: AsyncConnection, news: Sequence[Any]) -> None:
    if not news:
        return
    await conn.exec_driver_sql(
        "INSERT INTO output.events (job_id, type, data) SELECT job_id, type, data::jsonb "
        "FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS rows (job_id, type, data, n) ORDER BY n",
        (
            [event.job_id for event in news],
            [event.TYPE for event in news],
            [event.model_dump_json(exclude=UNTOLD) for event in news],
        ),
    )
    await conn.exec_driver_sql(
        "SELECT pg_notify($1, job) FROM unnest($2::text[]) AS job",
        (NOTIFY, sorted({str(event.job_id) for event in news})),
    )
