"""Reads of output's rows: within one tenant, or (tenant None) in the name of an operator, who sees every tenant's."""

from __future__ import annotations

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Row, Select, exists, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.batches import BatchEnded
from contracts.errors import error
from contracts.jobs import Status
from contracts.phases import ItemId
from output import costs
from output.pace import HISTORY, Pace, Took, pace
from output.tables import EVENTS, JOBS, PHASES
from output.views import ItemPage, JobPage, JobView, VersionsView, item_view, job_view, made_by, version_view
from runtime import clock

ORIGINAL: Final = "original"
PHOTOS_MOST: Final = 20_000  # of a batch: comparing them takes seconds, and no shoot has as many
T = TypeVar("T")


async def job(conn: AsyncConnection, tenant: str | None, job_id: UUID, grant: str | None = None) -> JobView | None:
    """The job, or None when there is none that this tenant, or this upload grant of its, may see."""
    row = (await conn.execute(select(JOBS).where(*_mine(tenant, job_id, grant)))).mappings().one_or_none()
    return (await _with_phases(conn, [row]))[0] if row else None


async def versions(conn: AsyncConnection, tenant: str | None, job_id: UUID) -> VersionsView | None:
    """All versions of the job's upload. None when there is no such job that this tenant may see."""
    upload_id = (await conn.execute(select(JOBS.c.upload_id).where(*_mine(tenant, job_id)))).scalar_one_or_none()
    if upload_id is None:
        return None
    rows = await conn.execute(select(JOBS).where(JOBS.c.upload_id == upload_id).order_by(JOBS.c.version))
    return VersionsView(upload_id=upload_id, versions=[version_view(dict(row)) for row in rows.mappings()])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs of a list; what is None or empty excludes nothing."""

    status: Sequence[Status] = ()
    pipeline: str | None = None
    batch: UUID | None = None
    upload: UUID | None = None
    degraded: bool | None = None
    code: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        equal = (
            (JOBS.c.pipeline, self.pipeline),
            (JOBS.c.batch_id, self.batch),
            (JOBS.c.upload_id, self.upload),
            (JOBS.c.degraded, self.degraded),
            (JOBS.c.error["code"].astext, self.code),
        )
        found: list[ColumnElement[bool]] = [column == value for column, value in equal if value is not None]
        if self.status:
            found.append(JOBS.c.status.in_(self.status))
        if self.created_from:
            found.append(JOBS.c.created_at >= self.created_from)
        if self.created_before:
            found.append(JOBS.c.created_at < self.created_before)
        return found


async def page(
    conn: AsyncConnection,
    tenant: str,
    *,
    wanted: Wanted,
    limit: int,
    cursor: str | None,
) -> JobPage:
    """One page, newest first. Raises REQUEST_INVALID for a cursor that we did not make."""
    query = select(JOBS).where(JOBS.c.tenant == tenant, *wanted.conditions())
    if cursor:
        created_at, job_id = read_cursor(cursor, read_place)
        query = query.where(tuple_(JOBS.c.created_at, JOBS.c.id) < tuple_(created_at, job_id))
    query = query.order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc()).limit(limit + 1)
    rows = (await conn.execute(query)).mappings().all()
    shown = rows[:limit]
    more = cursor_of(shown[-1]["created_at"].isoformat(), str(shown[-1]["id"])) if len(rows) > limit else None
    return JobPage(items=await _with_phases(conn, shown), next_cursor=more)


async def items(
    conn: AsyncConnection, tenant: str | None, job_id: UUID, phase: str, *, limit: int, cursor: str | None
) -> ItemPage | None:
    """One page of a phase's items. None when this tenant has no job with such a phase.

    Raises REQUEST_INVALID for a cursor that we did not make.
    """
    names = (await conn.execute(select(JOBS.c.phase_names).where(*_mine(tenant, job_id)))).scalar_one_or_none()
    if names is None or phase not in names:
        return None
    query = _counting(job_id).where(PHASES.c.name == phase)
    if cursor:
        query = query.where(PHASES.c.item > read_cursor(cursor, _read_item))
    rows = (await conn.execute(query.order_by(PHASES.c.item).limit(limit + 1))).mappings().all()
    shown = rows[:limit]
    more = cursor_of(shown[-1]["item"]) if len(rows) > limit else None
    return ItemPage(items=[item_view(row) for row in shown], next_cursor=more)


def _mine(tenant: str | None, job_id: UUID, grant: str | None = None) -> tuple[ColumnElement[bool], ...]:
    whose = (JOBS.c.tenant == tenant,) if tenant is not None else ()
    with_it = (JOBS.c.grant_id == UUID(grant),) if grant is not None else ()
    return (JOBS.c.id == job_id, *whose, *with_it)


def _counting(job_id: UUID) -> Select[Any]:
    """The items that count: of phases that have any, told since the phase began anew."""
    whole = PHASES.alias()
    return (
        select(PHASES)
        .join(whole, (whole.c.job_id == PHASES.c.job_id) & (whole.c.name == PHASES.c.name) & (whole.c.item == ""))
        .where(PHASES.c.job_id == job_id, PHASES.c.item != "", PHASES.c.revision >= whole.c.reset_revision)
        .where(func.jsonb_typeof(whole.c.state["items"]) == "object")
    )


async def _with_phases(conn: AsyncConnection, rows: Sequence[Any]) -> list[JobView]:
    ids = [row["id"] for row in rows]
    found = await conn.execute(select(PHASES).where(PHASES.c.job_id.in_(ids), PHASES.c.item == ""))
    phases: defaultdict[UUID, list[Mapping[str, Any]]] = defaultdict(list)
    for phase in found.mappings():
        phases[phase["job_id"]].append(dict(phase))
    at_work = {row["pipeline"] for row in rows if not Status(row["status"]).is_terminal}
    known = await paces(conn, at_work) if at_work else {}
    bought, now = await costs.of_jobs(conn, ids), clock.now()
    return [
        job_view(row, phases[row["id"]], known.get(row["pipeline"]), now, bought.get(row["id"], {})) for row in rows
    ]


class Found(NamedTuple):
    """An object that a job has, and what to call it. `sealed`: who follows a link to storage cannot read it."""

    key: str
    name: str
    size: int
    media_type: str
    sealed: bool


async def artifact(conn: AsyncConnection, tenant: str, job_id: UUID, name: str) -> Found | None:
    """The object of an artifact.

    It is named `phase.artifact`, `phase.item.artifact`, or `artifact` when one phase alone has it;
    `original` is the upload itself.
    """
    job = (await conn.execute(select(JOBS.c.original, JOBS.c.phase_names).where(*_mine(tenant, job_id)))).one_or_none()
    if job is None:
        return None
    sealed = bool((job.original or {}).get("sealed"))  # then all that is made of it is
    if name == ORIGINAL:
        return _found({**job.original, "name": ORIGINAL}, sealed) if job.original else None
    rows = (await conn.execute(select(PHASES).where(PHASES.c.job_id == job_id, PHASES.c.item == ""))).mappings()
    phases = [dict(row) for row in rows if row["name"] in job.phase_names]
    whole = [(phase["name"], made) for phase in phases for made in made_by(phase)]
    found = (
        [made for phase, made in whole if name == f"{phase}.{made['name']}"]
        or await _of_item(conn, job_id, name)
        or [made for _, made in whole if name == made["name"]]
    )
    return _found(found[0], sealed) if len(found) == 1 else None


def _found(made: Mapping[str, Any], sealed: bool) -> Found:
    return Found(made["key"], made["name"], made["size"], made["media_type"], sealed)


async def _of_item(conn: AsyncConnection, job_id: UUID, name: str) -> list[dict[str, Any]]:
    phase, _, rest = name.partition(".")
    item, _, artifact = rest.partition(".")
    if not artifact:
        return []
    query = _counting(job_id).where(PHASES.c.name == phase, PHASES.c.item == item)
    row = (await conn.execute(query)).mappings().one_or_none()
    return [made for made in made_by(dict(row)) if made["name"] == artifact] if row else []


async def photos(conn: AsyncConnection, tenant: str, batch_id: UUID) -> list[Row[Any]]:
    """The photos of a tenant's batch: (job id, phash, captured_at, cull score), the last three as text."""
    facts = PHASES.c.state["facts"]
    query = (
        select(
            PHASES.c.job_id,
            facts["phash"].astext.label("phash"),
            facts["captured_at"].astext.label("captured_at"),
            facts["cull"]["score"].astext.label("cull"),
        )
        .join(JOBS, JOBS.c.id == PHASES.c.job_id)
        .where(JOBS.c.tenant == tenant, JOBS.c.batch_id == batch_id, PHASES.c.item == "")
        .where(func.jsonb_typeof(facts["phash"]) == "string")
        .order_by(JOBS.c.created_at, JOBS.c.id)
        .limit(PHOTOS_MOST)
    )
    return list(await conn.execute(query))


async def has_jobs(conn: AsyncConnection, tenant: str, batch_id: UUID) -> bool:
    """Whether a tenant's batch has any job."""
    found = select(exists().where(JOBS.c.tenant == tenant, JOBS.c.batch_id == batch_id))
    return bool((await conn.execute(found)).scalar_one())


async def made_in_batch(conn: AsyncConnection, tenant: str, batch_id: UUID) -> list[dict[str, Any]]:
    """What the jobs of a tenant's batch made, without what their items made: (job_id, phase, last, made).

    In the order in which the jobs came and that of their phases; `last` is the last phase that made something.
    """
    query = (
        select(PHASES.c.job_id, PHASES.c.name.label("phase"), PHASES.c.state, JOBS.c.phase_names)
        .join(JOBS, JOBS.c.id == PHASES.c.job_id)
        .where(JOBS.c.tenant == tenant, JOBS.c.batch_id == batch_id, PHASES.c.item == "")
        .where(PHASES.c.status == Status.SUCCEEDED)
        .where(func.jsonb_array_length(PHASES.c.state["artifacts"]) > 0)
        .order_by(JOBS.c.created_at, JOBS.c.id)
        .limit(PHOTOS_MOST * 4)
    )
    jobs: dict[UUID, list[Any]] = {}
    for row in await conn.execute(query):
        if row.phase in row.phase_names:
            jobs.setdefault(row.job_id, []).append(row)
    found: list[dict[str, Any]] = []
    for job_id, rows in jobs.items():
        rows.sort(key=lambda row: row.phase_names.index(row.phase))
        last = rows[-1].phase
        found += [{"job_id": job_id, "phase": row.phase, "last": last, "made": row.state["artifacts"]} for row in rows]
    return found


async def paces(conn: AsyncConnection, pipelines: Collection[str]) -> dict[str, Pace]:
    """How long jobs of these pipelines took lately, of those of which enough have ended."""
    found = {}
    for pipeline in pipelines:
        ended = (
            select(JOBS.c.id, JOBS.c.created_at, JOBS.c.ended_at)
            .where(JOBS.c.pipeline == pipeline, JOBS.c.status == Status.SUCCEEDED)
            .order_by(JOBS.c.ended_at.desc())
            .limit(HISTORY)
            .subquery()
        )
        state = PHASES.c.state
        query = (
            select(ended.c.id, ended.c.created_at, ended.c.ended_at, PHASES.c.name, PHASES.c.status)
            .add_columns(state["started_at"].astext.label("began"), state["ended_at"].astext.label("over"))
            .join(PHASES, (PHASES.c.job_id == ended.c.id) & (PHASES.c.item == ""))
        )
        jobs: dict[UUID, Took] = {}
        for row in await conn.execute(query):
            whole = (row.ended_at - row.created_at).total_seconds()
            took = jobs.setdefault(row.id, Took(whole, {}))
            ran = row.status == Status.SUCCEEDED and row.began and row.over
            between = datetime.fromisoformat(row.over) - datetime.fromisoformat(row.began) if ran else None
            took.phases[row.name] = between.total_seconds() if between is not None else None
        if known := pace(list(jobs.values())):
            found[pipeline] = known
    return found


@dataclass(frozen=True, slots=True)
class Followed:
    """What somebody wants to follow. `over`: no more lines are to be expected; `lacks`: some are after their place."""

    over: bool
    lacks: bool


async def followed_job(
    conn: AsyncConnection, tenant: str | None, job_id: UUID, after: int, grant: str | None = None
) -> Followed | None:
    """A job as who follows it finds it. None when there is none that this tenant, or this grant of its, may see."""
    lacks = exists().where(EVENTS.c.job_id == JOBS.c.id, EVENTS.c.id > after)
    row = (await conn.execute(select(JOBS.c.status, lacks).where(*_mine(tenant, job_id, grant)))).one_or_none()
    return Followed(Status(row[0]).is_terminal, row[1]) if row else None


async def followed_batch(conn: AsyncConnection, tenant: str, batch_id: UUID, after: int) -> Followed | None:
    """A tenant's batch as who follows it finds it. None when nothing is known of it."""
    lines = (EVENTS.c.batch_id == batch_id, EVENTS.c.tenant == tenant)
    ended, lacks = exists().where(*lines, EVENTS.c.type == BatchEnded.TYPE), exists().where(*lines, EVENTS.c.id > after)
    known, *row = (await conn.execute(select(exists().where(*lines), ended, lacks))).one()
    return Followed(*row) if known else None


def cursor_of(*place: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def read_cursor(cursor: str, read: Callable[..., T]) -> T:
    try:
        return read(*json.loads(base64.urlsafe_b64decode(cursor)))
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as problem:
        raise error("REQUEST_INVALID", "the cursor is none that this service gave out") from problem


def read_place(created_at: str, job_id: str) -> tuple[datetime, UUID]:
    return datetime.fromisoformat(created_at).astimezone(UTC), UUID(job_id)


def _read_item(item: str) -> str:
    return _ITEM_ID.validate_python(item)


_ITEM_ID: Final = TypeAdapter(ItemId)
