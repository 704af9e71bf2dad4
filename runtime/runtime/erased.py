"""What was erased, jobs and batches: a room remembers the ids, so that what comes late brings nothing of them back.

An erasure marks its ids first, then deletes. Who is late finds the mark, or is found:

    writes rows       asks in its own transaction (`among`). That keeps the door until it commits, so that ids are
                      marked before it asks, or after all that it wrote can be seen
    writes objects    asks once they are written (`has`), and deletes them again itself: what was there before the
                      mark, the erasure finds
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
from sqlalchemy import Column, DateTime, MetaData, Table, Uuid, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


def erased_table(metadata: MetaData) -> Table:
    """The ids that one service's schema remembers."""
    return Table(
        "erased",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )


async def remember(engine: AsyncEngine, table: Table, ids: Sequence[UUID]) -> None:
    """Mark them as erased, when nobody is between `among` and its commit. Doing it again changes nothing."""
    async with engine.begin() as conn:
        await alone(conn, table)
        await conn.execute(insert(table).on_conflict_do_nothing(), [{"id": id_} for id_ in ids])


async def alone(conn: AsyncConnection, table: Table) -> None:
    """Wait until nobody is between `among` and its commit; nobody comes there until the caller has committed."""
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(table.fullname, 0))))


async def among(conn: AsyncConnection | asyncpg.Connection, table: Table, ids: Sequence[UUID]) -> set[UUID]:
    """Those of them that were erased. No other one is marked before the caller's transaction is over."""
    door = f"SELECT pg_advisory_xact_lock_shared(hashtextextended('{table.fullname}', 0))"
    which = f"SELECT id FROM {table.fullname} WHERE id = ANY($1::uuid[])"
    if isinstance(conn, AsyncConnection):
        await conn.exec_driver_sql(door)
        return {row[0] for row in await conn.exec_driver_sql(which, (list(ids),))}
    await conn.execute(door)
    return {row[0] for row in await conn.fetch(which, list(ids))}


async def has(engine: AsyncEngine, table: Table, id_: UUID) -> bool:
    """Whether it was erased."""
    async with engine.connect() as conn:
        return bool((await conn.execute(select(exists().where(table.c.id == id_)))).scalar_one())
