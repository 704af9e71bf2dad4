"""Legal holds: what is under one is not erased, by nobody and by no retention, until an operator releases it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from contracts.errors import error
from orchestrator.audit import Actor, note


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold on everything of a tenant, or on one of its batches or uploads."""

    id: UUID
    tenant: str
    batch_id: UUID | None
    upload_id: UUID | None
    reason: str
    by: str
    at: datetime
    released_by: str | None
    released_at: datetime | None


async def place(
    conn: asyncpg.Connection, actor: Actor, tenant: str, batch_id: UUID | None, upload_id: UUID | None
) -> Hold:
    """Put a hold on it, in the caller's transaction. What is being erased already is not brought back."""
    row = await conn.fetchrow(
        "INSERT INTO orchestrator.holds (id, tenant, batch_id, upload_id, reason, by) VALUES ($1, $2, $3, $4, $5, $6) "
        "RETURNING *",
        uuid4(),
        tenant,
        batch_id,
        upload_id,
        actor.why,
        actor.who,
    )
    assert row is not None
    about = {"batch": _text(batch_id), "upload": _text(upload_id)}
    await note(conn, actor, "hold.place", str(row["id"]), about, tenant)
    return Hold(**row)


async def release(conn: asyncpg.Connection, actor: Actor, id_: UUID) -> Hold:
    """Lift a hold, in the caller's transaction. Raises NOT_FOUND, STATE_CONFLICT."""
    row = await conn.fetchrow("SELECT * FROM orchestrator.holds WHERE id = $1 FOR UPDATE", id_)
    if row is None:
        raise error("NOT_FOUND")
    if row["released_at"]:
        raise error("STATE_CONFLICT", "the hold is released already")
    row = await conn.fetchrow(
        "UPDATE orchestrator.holds SET released_by = $2, released_at = now() WHERE id = $1 RETURNING *", id_, actor.who
    )
    assert row is not None
    await note(conn, actor, "hold.release", str(id_), None, row["tenant"])
    return Hold(**row)


async def page(conn: asyncpg.Connection, tenant: str | None, active: bool) -> list[Hold]:
    """Holds, newest first, only those that hold if `active`."""
    rows = await conn.fetch(
        "SELECT * FROM orchestrator.holds WHERE ($1::text IS NULL OR tenant = $1) "
        "AND (NOT $2 OR released_at IS NULL) ORDER BY at DESC LIMIT 1000",
        tenant,
        active,
    )
    return [Hold(**row) for row in rows]


async def any_of(conn: asyncpg.Connection, tenant: str, jobs: Sequence[Any]) -> bool:
    """Whether one of these rows of `jobs` is under a hold."""
    found: bool = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM orchestrator.holds WHERE tenant = $1 AND released_at IS NULL "
        "AND (batch_id IS NULL OR batch_id = ANY($2::uuid[])) AND (upload_id IS NULL OR upload_id = ANY($3::uuid[])))",
        tenant,
        [row["batch_id"] for row in jobs if row["batch_id"]],
        [row["upload_id"] for row in jobs],
    )
    return found


def _text(id_: UUID | None) -> str | None:
    return str(id_) if id_ else None
