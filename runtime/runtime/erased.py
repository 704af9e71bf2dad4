"""Jobs that were erased: a room remembers their ids, so that what comes late brings nothing of them back.

An erasure marks its jobs first, then deletes. Who is late finds the mark, or is found:

    writes rows       asks in its own transaction (`among`). That keeps the door until it commits, so that jobs are
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
    """The erased jobs that one service's schema remembers."""
    return Table(
        "erased",
        metadata,
        Column("job_id", Uuid, primary_key=True),
        Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    )


async def remember(engine: AsyncEngine, table: Table, jobs: Sequence[UUID]) -> None:
    """Mark jobs as erased, when nobody is between `among` and its commit. Doing it again changes nothing."""
    async with engine.begin() as conn:
        await alone(conn, table)
        rows = [{"job_id": job} for job in jobs]
        await conn.execute(insert(table).on_conflict_do_nothing(), rows)


async def alone(conn: AsyncConnection, table: Table) -> None:
    """Wait until nobody is between `among` and its commit; nobody comes there until the caller has committed."""
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(table.fullname, 0))))


async def among(conn: AsyncConnection | asyncpg.Connection, table: Table, jobs: Sequence[UUID]) -> set[UUID]:
    """Those of the jobs that were erased. No other one is marked before the caller's transaction is over."""
    door = f"SELECT pg_advisory_xact_lock_shared(hashtextextended('{table.fullname}', 0))"
    which = f"SELECT job_id FROM {table.fullname} WHERE job_id = ANY($1::uuid[])"
    if isinstance(conn, AsyncConnection):
        await conn.exec_driver_sql(door)
        return {row[0] for row in await conn.exec_driver_sql(which, (list(jobs),))}
    await conn.execute(door)
    return {row[0] for row in await conn.fetch(which, list(jobs))}


async def has(engine: AsyncEngine, table: Table, job: UUID) -> bool:
    """Whether a job was erased."""
    async with engine.connect() as conn:
        return bool((await conn.execute(select(exists().where(table.c.job_id == job)))).scalar_one())
