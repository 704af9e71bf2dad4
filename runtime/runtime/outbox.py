"""How messages leave: committed with the state that caused them, then published and confirmed.

`add` inserts in the caller's transaction. After the commit `flush` publishes with
`Nats-Msg-Id` and deletes what the broker confirmed; whatever a crash or an outage left
behind, the sweep publishes. Publishing twice is harmless: the reader's inbox refuses it.
Measured fastest of four relays in the messaging design notes (inline + sweeper).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from nats.errors import Error as NatsError
from sqlalchemy import Column, DateTime, Index, LargeBinary, MetaData, Table, Text, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.channel import Channel, M
from contracts.errors import error
from contracts.message import (
    HEADER_ID,
    HEADER_MESSAGE_ID,
    HEADER_SOURCE,
    HEADER_SPEC_VERSION,
    HEADER_SUBJECT,
    HEADER_TRACE,
    HEADER_TYPE,
    SPEC_VERSION,
)
from contracts.topology import BODY_BYTES_MAX
from runtime import logs, telemetry

if TYPE_CHECKING:
    from nats.js import JetStreamContext

SWEEP_EVERY_S = 5.0
SWEEP_AGE_S = 5.0  # younger rows are still in the hands of the process that committed them
SWEEP_ROWS = 200
PUBACK_WAIT_S = 5.0
log = logs.get()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way out: where to, under which id, with which headers and body."""

    message_id: str
    subject: str
    headers: dict[str, str]
    body: bytes


def outgoing(channel: Channel[M], message: M, *, message_id: str, key: str, source: str) -> Outgoing:
    """Dress a message for its channel. `key` names the work (`job`, `job.phase.attempt`); the current span rides along.

    Raises:
        SafelightError: MESSAGE_INVALID when the body is larger than a stream takes.
    """
    body = message.model_dump_json().encode()
    if len(body) > BODY_BYTES_MAX:
        raise error("MESSAGE_INVALID", f"{message.TYPE} has {len(body)} bytes, {BODY_BYTES_MAX} are allowed")
    headers = {
        HEADER_MESSAGE_ID: message_id,
        HEADER_ID: message_id,
        HEADER_SPEC_VERSION: SPEC_VERSION,
        HEADER_TYPE: message.TYPE,
        HEADER_SOURCE: f"safelight/{source}",
        HEADER_SUBJECT: key,
        "content-type": "application/json",
    }
    if parent := telemetry.traceparent():
        headers[HEADER_TRACE] = parent
    return Outgoing(message_id, channel.subject, headers, body)


async def publish(js: JetStreamContext, messages: Sequence[Outgoing]) -> None:
    """Publish and wait until the broker has stored each.

    Raises:
        SafelightError: BROKER_UNAVAILABLE when a confirmation did not come. The message may be stored all the same.
    """
    try:
        async with asyncio.timeout(PUBACK_WAIT_S):
            acks = [await js.publish_async(m.subject, m.body, headers=dict(m.headers)) for m in messages]
            await asyncio.gather(*acks)
    except (NatsError, TimeoutError, OSError) as problem:
        raise error("BROKER_UNAVAILABLE") from problem


def outbox_table(metadata: MetaData) -> Table:
    """The outbox of one service's schema."""
    return Table(
        "outbox",
        metadata,
        Column("message_id", Text, primary_key=True),
        Column("subject", Text, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Index(None, "created_at"),
    )


class Outbox:
    """One service's outbox table and the broker that it drains to."""

    def __init__(self, engine: AsyncEngine, table: Table, js: JetStreamContext) -> None:
        self._engine = engine
        self._table = table
        self._js = js

    async def add(self, conn: AsyncConnection, messages: Sequence[Outgoing]) -> None:
        """Insert in the caller's transaction. A message id that is already there is the same message: kept once."""
        if not messages:
            return
        await conn.exec_driver_sql(
            f"INSERT INTO {self._table.fullname} (message_id, subject, headers, body) "
            "SELECT id, subject, headers::jsonb, body "
            "FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS rows (id, subject, headers, body) "
            "ON CONFLICT DO NOTHING",
            (
                [m.message_id for m in messages],
                [m.subject for m in messages],
                [json.dumps(m.headers) for m in messages],
                [m.body for m in messages],
            ),
        )

    async def flush(self, messages: Sequence[Outgoing]) -> None:
        """After the commit: publish these and forget them. Raises BROKER_UNAVAILABLE; the sweep then publishes them."""
        if not messages:
            return
        await publish(self._js, messages)
        async with self._engine.begin() as conn:
            await self._forget(conn, [m.message_id for m in messages])

    async def sweep(self, age_s: float = SWEEP_AGE_S, message_id: str | None = None) -> int:
        """Publish rows that their process left behind (or one of them). Replicas share them (SKIP LOCKED).

        Returns how many. Raises BROKER_UNAVAILABLE.
        """
        async with self._engine.begin() as conn:
            columns = self._table.c
            which = columns.created_at <= func.now() - timedelta(seconds=age_s)
            if message_id is not None:
                which = columns.message_id == message_id
            rows = await conn.execute(
                select(columns.message_id, columns.subject, columns.headers, columns.body)
                .where(which)
                .order_by(columns.created_at)
                .limit(SWEEP_ROWS)
                .with_for_update(skip_locked=True)
            )
            left = [Outgoing(*row) for row in rows.all()]
            if left:
                await publish(self._js, left)
                await self._forget(conn, [m.message_id for m in left])
        return len(left)

    async def sweep_forever(self) -> None:
        """Sweep at the start (a crash left everything it had) and then at a calm pace, until cancelled."""
        age_s = 0.0
        while True:
            try:
                swept = await self.sweep(age_s)
                if swept:
                    log.info("outbox.swept", messages=swept)
                age_s = SWEEP_AGE_S
                if swept == SWEEP_ROWS:
                    continue
            except Exception as problem:
                log.warning("outbox.sweep_failed", error=type(problem).__name__)
            await asyncio.sleep(SWEEP_EVERY_S)

    async def _forget(self, conn: AsyncConnection, message_ids: list[str]) -> None:
        await conn.exec_driver_sql(
            f"DELETE FROM {self._table.fullname} WHERE message_id = ANY($1::text[])",
            (message_ids,),
        )
