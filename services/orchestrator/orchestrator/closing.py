"""The life of a batch itself: made, changed while it is open, closed, and ended, each told by one event.

A batch has ended when it is closed and each of its jobs has. That is told once, in the transaction that
writes it down: jobs that work again later, or come in late, are run and counted, and change nothing of it.

Whoever has heard that an upload was taken in, and then closes, finds it in the batch: its event lay in the
stream before the close, at or before `closed_seq`. So a batch does not end before the inputs have been read
that far, in their order; only then are its jobs all there to be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import asyncpg
from nats.errors import Error as NatsError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts import topology
from contracts.batches import (
    BATCH_CLOSED,
    BATCH_CREATED,
    BATCH_ENDED,
    BatchClosed,
    BatchCreated,
    BatchEnded,
    Duplicates,
)
from contracts.channel import Channel
from contracts.errors import error
from contracts.jobs import Status
from orchestrator import store
from orchestrator.audit import Actor, note
from orchestrator.shell import SOURCE
from runtime import clock, logs, postgres
from runtime.outbox import Outbox, Outgoing, outgoing

if TYPE_CHECKING:
    from nats.js import JetStreamContext

ENDED_MAX: Final = 100  # batches in one transaction
log = logs.get()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants a new batch to be. `options` are those that differ from what holds without a batch."""

    name: str = ""
    pipeline: str | None = None
    options: Mapping[str, Any] | None = None
    webhook: str | None = None
    duplicates: Duplicates = "keep"


@dataclass(frozen=True, slots=True)
class Closing:
    """The use cases."""

    engine: AsyncEngine
    outbox: Outbox
    js: JetStreamContext

    async def make(self, actor: Actor, tenant: str, wanted: Wanted) -> UUID:
        """A new, open batch. Returns its id."""
        id_, now = uuid4(), clock.now()
        created = BatchCreated(batch_id=id_, tenant=tenant, at=now, webhook=wanted.webhook)
        message = _told(BATCH_CREATED, created, "created")
        async with postgres.transaction(self.engine) as conn:
            await conn.execute(
                "INSERT INTO orchestrator.batches "
                "(tenant, id, name, pipeline, options, webhook, duplicates, created_at) "
                "VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8)",
                tenant,
                id_,
                wanted.name,
                wanted.pipeline,
                store.as_json(dict(wanted.options or {})),
                wanted.webhook,
                wanted.duplicates,
                now,
            )
            await store.send(conn, [message])
            await note(conn, actor, "batch.make", str(id_), tenant=tenant)
        await self._publish([message])
        return id_

    async def change(self, actor: Actor, tenant: str, id_: UUID, changes: Mapping[str, str | None]) -> None:
        """Give an open batch another `name` or `webhook`. Raises BATCH_CLOSED."""
        async with postgres.transaction(self.engine) as conn:
            done = await conn.fetchval(
                "UPDATE orchestrator.batches SET name = CASE WHEN $3 THEN $4 ELSE name END, "
                "webhook = CASE WHEN $5 THEN $6 ELSE webhook END "
                "WHERE tenant = $1 AND id = $2 AND closed_at IS NULL RETURNING id",
                tenant,
                id_,
                "name" in changes,
                changes.get("name") or "",
                "webhook" in changes,
                changes.get("webhook"),
            )
            if done is None:
                raise error("BATCH_CLOSED")
            await note(conn, actor, "batch.change", str(id_), {"changed": sorted(changes)}, tenant)

    async def close(self, actor: Actor, tenant: str, id_: UUID) -> None:
        """Take no more uploads into the batch; closed again, it stays as it was. Raises BROKER_UNAVAILABLE."""
        seq, now = await self._last_seq(), clock.now()
        async with postgres.transaction(self.engine) as conn:
            row = await conn.fetchrow(
                "UPDATE orchestrator.batches SET closed_at = $3, closed_seq = $4 "
                "WHERE tenant = $1 AND id = $2 AND closed_at IS NULL RETURNING webhook",
                tenant,
                id_,
                now,
                seq,
            )
            if row is None:
                return
            closed = BatchClosed(batch_id=id_, tenant=tenant, at=now, webhook=row["webhook"])
            message = _told(BATCH_CLOSED, closed, "closed")
            await store.send(conn, [message])
            await note(conn, actor, "batch.close", str(id_), tenant=tenant)
        await self._publish([message])

    async def end_due(self) -> int:
        """Tell of each closed batch whose jobs have all ended. Returns how many those were."""
        async with postgres.transaction(self.engine) as conn:
            if not await conn.fetchval(f"SELECT EXISTS (SELECT 1 FROM orchestrator.batches WHERE {_CLOSING})"):
                return 0
        read_to, now = await self._read_to(), clock.now()  # before the jobs are looked at, never after
        messages = []
        async with postgres.transaction(self.engine) as conn:
            rows = await conn.fetch(
                f"SELECT tenant, id, webhook FROM orchestrator.batches b WHERE {_CLOSING} "
                "AND ($1::bigint IS NULL OR closed_seq <= $1) AND NOT EXISTS (SELECT 1 FROM orchestrator.jobs j "
                "WHERE j.tenant = b.tenant AND j.batch_id = b.id AND j.status IN ('queued', 'running')) "
                "ORDER BY closed_at LIMIT $2 FOR UPDATE SKIP LOCKED",
                read_to,
                ENDED_MAX,
            )
            for row in rows:
                messages.append(await self._ended(conn, row["tenant"], row["id"], row["webhook"], now))
            if messages:
                await store.send(conn, messages)
        await self._publish(messages)
        return len(messages)

    async def _ended(
        self, conn: asyncpg.Connection, tenant: str, id_: UUID, webhook: str | None, now: datetime
    ) -> Outgoing:
        await conn.execute(
            "UPDATE orchestrator.batches SET ended_at = $3 WHERE tenant = $1 AND id = $2", tenant, id_, now
        )
        counts = await conn.fetch(
            "SELECT status, count(*) AS jobs, count(*) FILTER (WHERE degraded) AS degraded FROM orchestrator.jobs "
            "WHERE tenant = $1 AND batch_id = $2 GROUP BY status",
            tenant,
            id_,
        )
        jobs = {Status(row["status"]).value: row["jobs"] for row in counts}
        degraded = sum(row["degraded"] for row in counts)
        ended = BatchEnded(batch_id=id_, tenant=tenant, at=now, webhook=webhook, jobs=jobs, degraded=degraded)
        log.info("batch.ended", batch=str(id_), **jobs)
        return _told(BATCH_ENDED, ended, "ended")

    async def _last_seq(self) -> int:
        try:
            return (await self.js.stream_info(topology.EVENTS.name)).state.last_seq
        except (NatsError, TimeoutError, OSError) as problem:
            raise error("BROKER_UNAVAILABLE") from problem

    async def _read_to(self) -> int | None:
        """Up to which place in the stream the inputs have been read and committed; None: all there are."""
        try:
            info = await self.js.consumer_info(topology.EVENTS.name, topology.consumer("orchestrator-inputs").name)
        except (NatsError, TimeoutError, OSError) as problem:
            raise error("BROKER_UNAVAILABLE") from problem
        if not info.num_pending and not info.num_ack_pending:
            return None
        return int(info.ack_floor.stream_seq) if info.ack_floor else 0

    async def _publish(self, messages: list[Outgoing]) -> None:
        await self.outbox.flush_or_leave(messages)


_CLOSING: Final = "closed_at IS NOT NULL AND ended_at IS NULL"


def _told(channel: Channel[Any], event: BatchCreated | BatchClosed | BatchEnded, what: str) -> Outgoing:
    batch_id, tenant = event.batch_id, event.tenant  # two tenants may name the same id
    return outgoing(channel, event, message_id=f"{tenant}.{batch_id}.{what}", key=str(batch_id), source=SOURCE)
