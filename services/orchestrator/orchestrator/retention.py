"""Retention: how many days a tenant keeps its uploads and what was made of them. Then they are erased like by hand.

An upload's time is up so long after the last of its versions has ended. What is under a hold stays, and so does what
makes a style: a style lives until somebody erases it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import store
from orchestrator.audit import Actor, note
from orchestrator.erasures import Erasures
from runtime import clock, logs, postgres

AT_ONCE: Final = 200  # uploads of a tenant in one erasure
KEPT: Final = ("style-training", "style-import")
log = logs.get()

_DUE: Final = """
    SELECT id, upload_id, batch_id, created_at FROM orchestrator.jobs AS j
    WHERE tenant = $1 AND upload_id IN (
        SELECT upload_id FROM orchestrator.jobs AS old
        WHERE tenant = $1 AND ended_at < $2 AND NOT pipeline = ANY($3::text[])
        AND NOT EXISTS (SELECT FROM orchestrator.jobs AS more WHERE more.tenant = $1
                        AND more.upload_id = old.upload_id AND (more.ended_at IS NULL OR more.ended_at >= $2))
        AND NOT EXISTS (SELECT FROM orchestrator.holds WHERE tenant = $1 AND released_at IS NULL
                        AND (batch_id IS NULL OR batch_id = old.batch_id)
                        AND (upload_id IS NULL OR upload_id = old.upload_id))
        AND NOT EXISTS (SELECT FROM orchestrator.erasures WHERE tenant = $1 AND ended_at IS NULL
                        AND old.id = ANY(jobs))
        ORDER BY ended_at LIMIT $4)
"""


async def keep(conn: asyncpg.Connection, actor: Actor, tenant: str, days: int | None) -> None:
    """Say how long a tenant keeps its uploads (None: until somebody erases them), in the caller's transaction."""
    if days is None:
        await conn.execute("DELETE FROM orchestrator.retention WHERE tenant = $1", tenant)
    else:
        await conn.execute(
            "INSERT INTO orchestrator.retention (tenant, days, by) VALUES ($1, $2, $3) "
            "ON CONFLICT (tenant) DO UPDATE SET days = excluded.days, by = excluded.by, at = now()",
            tenant,
            days,
            actor.who,
        )
    await note(conn, actor, "retention.keep", tenant, {"days": days}, tenant)


async def kept(conn: asyncpg.Connection) -> dict[str, int]:
    """Days by tenant, of those that have any."""
    return {row["tenant"]: row["days"] for row in await conn.fetch("SELECT tenant, days FROM orchestrator.retention")}


async def enforce(engine: AsyncEngine, erasures: Erasures) -> int:
    """Let what is due be erased; returns how many erasures began. One replica does it at a time."""
    began = 0
    async with postgres.transaction(engine) as conn:
        if not await conn.fetchval("SELECT pg_try_advisory_xact_lock(hashtextextended('orchestrator.retention', 0))"):
            return 0
        await store.begin_erasing(conn)
        for tenant, days in (await kept(conn)).items():
            before = clock.now() - timedelta(days=days)
            by_batch: defaultdict[Any, list[Any]] = defaultdict(list)
            for row in await conn.fetch(_DUE, tenant, before, list(KEPT), AT_ONCE):
                by_batch[row["batch_id"]].append(row)
            actor = Actor("room:orchestrator", None, f"kept for {days} days")
            for rows in by_batch.values():
                await erasures.begin(conn, actor, tenant, "retention", str(days), rows)
                began += 1
    if began:
        log.info("retention.due", erasures=began)
    return began
