"""The inbox: which messages this service has already taken in, committed with what they caused.

JetStream delivers at least once and forgets deduplication over restarts; this table is the
guarantee that a message acts once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Column, DateTime, Index, MetaData, Table, Text, func
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.topology import Stream
from runtime import clock, logs

PRUNE_EVERY_S: Final = 3600.0
log = logs.get()


def inbox_table(metadata: MetaData) -> Table:
    """The inbox of one service's schema."""
    return Table(
        "inbox",
        metadata,
        Column("message_id", Text, primary_key=True),
        Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
        Index(None, "received_at"),
    )


async def insert_new(conn: AsyncConnection, table: Table, message_ids: Sequence[str]) -> set[str]:
    """Take the ids in; returns those that were not there before. The caller's transaction decides."""
    rows = await conn.exec_driver_sql(
        f"INSERT INTO {table.fullname} (message_id) SELECT DISTINCT unnest($1::text[]) "
        "ON CONFLICT DO NOTHING RETURNING message_id",
        (list(message_ids),),
    )
    return {row[0] for row in rows}


async def prune(conn: AsyncConnection, table: Table, before: datetime) -> int:
    """Forget ids received before that time. Returns how many."""
    done = await conn.execute(table.delete().where(table.c.received_at < before))
    return done.rowcount


async def prune_forever(engine: AsyncEngine, table: Table, stream: Stream) -> None:
    """Hourly forget what the stream itself has forgotten for a day, until cancelled."""
    keeps = timedelta(seconds=stream.max_age_s) + timedelta(days=1)
    while True:
        await asyncio.sleep(PRUNE_EVERY_S)
        try:
            async with engine.begin() as conn:
                log.info("inbox.pruned", rows=await prune(conn, table, clock.now() - keeps))
        except Exception as problem:  # the database is away: the next hour will do
            log.warning("inbox.prune_failed", error=type(problem).__name__)
