"""Batches: jobs that were submitted together, and how far they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from contracts.batches import BatchSettings, Duplicates
from contracts.jobs import Status

COUNTED: Final = tuple(str(s) for s in Status if s is not Status.SKIPPED)
RECENT: Final = timedelta(minutes=5)  # the pace of the last minutes tells more than that of the whole night


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands. `fraction` is of its jobs; `eta_s` is None while nothing has ended or all has."""

    id: UUID
    name: str
    tenant: str
    created_at: datetime
    state: Literal["open", "closed"]
    closed_at: datetime | None
    pipeline: str | None
    options: dict[str, Any]
    webhook: str | None
    duplicates: Duplicates
    jobs: dict[str, int]
    fraction: float
    eta_s: float | None
    ended_at: datetime | None


_OF_IT: Final = "id, name, tenant, created_at, closed_at, pipeline, options::text, webhook, duplicates"


async def _counted(conn: asyncpg.Connection, now: datetime, which: str, *arguments: Any) -> list[Batch]:
    """The batches that `which` (SQL; its arguments begin with $2) finds, newest first, with how their jobs stand."""
    counts = ", ".join(f"count(*) FILTER (WHERE status = '{status}') AS {status}" for status in COUNTED)
    rows = await conn.fetch(
        f"SELECT b.*, j.* FROM (SELECT {_OF_IT} FROM orchestrator.batches {which}) AS b, "
        f"LATERAL (SELECT {counts}, count(*) AS total, count(*) FILTER (WHERE degraded) AS degraded, "
        "min(created_at) AS began_at, max(ended_at) AS last_ended_at, "
        "count(*) FILTER (WHERE ended_at > $1) AS ended_lately "
        "FROM orchestrator.jobs WHERE tenant = b.tenant AND batch_id = b.id) AS j "
        "ORDER BY b.created_at DESC, b.id DESC",
        now - RECENT,
        *arguments,
    )
    return [_batch(row, now) for row in rows]


async def read(conn: asyncpg.Connection, tenant: str | None, id_: UUID, now: datetime) -> Batch | None:
    """One batch, or None when there is none that this tenant (None: anybody) may see."""
    # Another tenant may name the same id in its uploads: the batch of an operator is the one that was there first.
    which = "WHERE id = $2 AND ($3::text IS NULL OR tenant = $3) ORDER BY created_at LIMIT 1"
    return next(iter(await _counted(conn, now, which, id_, tenant)), None)


async def page(
    conn: asyncpg.Connection, tenant: str | None, limit: int, before: tuple[datetime, UUID] | None, now: datetime
) -> list[Batch]:
    """Batches, newest first, after a place in that order."""
    return await _counted(
        conn,
        now,
        "WHERE ($2::text IS NULL OR tenant = $2) AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid)) "
        f"ORDER BY created_at DESC, id DESC LIMIT {limit}",
        tenant,
        *(before or (None, None)),
    )


async def settings(conn: asyncpg.Connection, tenant: str, id_: UUID) -> BatchSettings | None:
    """What holds for the uploads of a batch; None when the tenant has no such batch."""
    row = await conn.fetchrow(
        "SELECT closed_at, pipeline, options::text, duplicates FROM orchestrator.batches WHERE tenant = $1 AND id = $2",
        tenant,
        id_,
    )
    if row is None:
        return None
    return BatchSettings(
        state="closed" if row["closed_at"] else "open",
        pipeline=row["pipeline"],
        options=json.loads(row["options"]),
        duplicates=row["duplicates"],
    )


async def jobs_of(conn: asyncpg.Connection, batch: Batch, *statuses: Status) -> list[tuple[UUID, str, int]]:
    """The batch's jobs that have one of these statuses, with the pipelines and versions that they pin."""
    rows = await conn.fetch(
        "SELECT id, pipeline, pipeline_version FROM orchestrator.jobs "
        "WHERE tenant = $1 AND batch_id = $2 AND status = ANY($3::text[]) ORDER BY id",
        batch.tenant,
        batch.id,
        [str(status) for status in statuses],
    )
    return [(row["id"], row["pipeline"], row["pipeline_version"]) for row in rows]


def _batch(row: Any, now: datetime) -> Batch:
    total = row["total"]
    ended = sum(row[str(s)] for s in Status if s.is_terminal and s is not Status.SKIPPED)
    over = total > 0 and ended == total
    return Batch(
        id=row["id"],
        name=row["name"],
        tenant=row["tenant"],
        created_at=row["created_at"],
        state="closed" if row["closed_at"] else "open",
        closed_at=row["closed_at"],
        pipeline=row["pipeline"],
        options=json.loads(row["options"]),
        webhook=row["webhook"],
        duplicates=row["duplicates"],
        jobs={"total": total, **{status: row[status] for status in COUNTED}, "degraded": row["degraded"]},
        fraction=ended / total if total else 0.0,
        eta_s=None if over else eta_s(total - ended, ended, row["ended_lately"], row["began_at"], now),
        ended_at=row["last_ended_at"] if over else None,
    )


def eta_s(left: int, ended: int, ended_lately: int, began_at: datetime | None, now: datetime) -> float | None:
    """Seconds until the rest has ended at the pace of the last minutes (of all its time, when it is younger)."""
    if not ended or began_at is None:
        return None
    age = max((now - began_at).total_seconds(), 1e-3)
    window = min(age, RECENT.total_seconds())
    count = ended_lately or ended
    window = window if ended_lately else age
    return round(left * window / count, 1)
