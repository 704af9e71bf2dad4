"""Reads of output's rows, always within one tenant."""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import error
from contracts.jobs import Status
from output.tables import EVENTS, JOBS, PHASES
from output.views import JobPage, JobView, job_view

ORIGINAL: Final = "original"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One line of a job's event stream."""

    id: int
    type: str
    data: dict[str, Any]


async def job(conn: AsyncConnection, tenant: str, job_id: UUID) -> JobView | None:
    """The job, or None when there is none that this tenant may see."""
    row = (
        (await conn.execute(select(JOBS).where(JOBS.c.id == job_id, JOBS.c.tenant == tenant))).mappings().one_or_none()
    )
    return (await _with_phases(conn, [row]))[0] if row else None


async def page(
    conn: AsyncConnection, tenant: str, *, status: Status | None, pipeline: str | None, limit: int, cursor: str | None
) -> JobPage:
    """One page, newest first. Raises REQUEST_INVALID for a cursor that we did not make."""
    query = select(JOBS).where(JOBS.c.tenant == tenant)
    if status:
        query = query.where(JOBS.c.status == status)
    if pipeline:
        query = query.where(JOBS.c.pipeline == pipeline)
    if cursor:
        query = query.where(tuple_(JOBS.c.created_at, JOBS.c.id) < tuple_(*_read_cursor(cursor)))
    query = query.order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc()).limit(limit + 1)
    rows = (await conn.execute(query)).mappings().all()
    shown = rows[:limit]
    more = _cursor(shown[-1]["created_at"], shown[-1]["id"]) if len(rows) > limit else None
    return JobPage(items=await _with_phases(conn, shown), next_cursor=more)


async def _with_phases(conn: AsyncConnection, rows: Sequence[Any]) -> list[JobView]:
    found = await conn.execute(select(PHASES).where(PHASES.c.job_id.in_([row["id"] for row in rows])))
    phases: defaultdict[UUID, list[Mapping[str, Any]]] = defaultdict(list)
    for phase in found.mappings():
        phases[phase["job_id"]].append(dict(phase))
    return [job_view(row, phases[row["id"]]) for row in rows]


async def artifact_key(conn: AsyncConnection, tenant: str, job_id: UUID, name: str) -> tuple[str, str] | None:
    """(object key, file name) of an artifact, named `phase.artifact`, or `artifact` when one phase alone has it.

    `original` is the upload itself.
    """
    job = (
        await conn.execute(select(JOBS.c.original).where(JOBS.c.id == job_id, JOBS.c.tenant == tenant))
    ).one_or_none()
    if job is None:
        return None
    if name == ORIGINAL:
        return (job.original["key"], ORIGINAL) if job.original else None
    rows = await conn.execute(select(PHASES.c.name, PHASES.c.state).where(PHASES.c.job_id == job_id))
    all_of_them = [(phase, artifact) for phase, state in rows for artifact in state["artifacts"]]
    found = [a for phase, a in all_of_them if name == f"{phase}.{a['name']}"] or [
        a for _, a in all_of_them if name == a["name"]
    ]
    return (found[0]["key"], found[0]["name"]) if len(found) == 1 else None


async def has_ended(conn: AsyncConnection, job_id: UUID) -> bool:
    """Whether no more events of the job are to be expected, but for those that come late."""
    status = (await conn.execute(select(JOBS.c.status).where(JOBS.c.id == job_id))).scalar_one()
    return Status(status).is_terminal


async def events_after(conn: AsyncConnection, job_id: UUID, after: int, most: int) -> list[StoredEvent]:
    """A job's events with a greater id, oldest first."""
    rows = await conn.execute(
        select(EVENTS.c.id, EVENTS.c.type, EVENTS.c.data)
        .where(EVENTS.c.job_id == job_id, EVENTS.c.id > after)
        .order_by(EVENTS.c.id)
        .limit(most)
    )
    return [StoredEvent(row.id, row.type, row.data) for row in rows]


def _cursor(created_at: datetime, job_id: UUID) -> str:
    return base64.urlsafe_b64encode(json.dumps([created_at.isoformat(), str(job_id)]).encode()).decode()


def _read_cursor(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, job_id = json.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromisoformat(created_at).astimezone(UTC), UUID(job_id)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as problem:
        raise error("REQUEST_INVALID", "the cursor is none that this service gave out") from problem
