"""Dead letters: whatever could not be done, kept until somebody replays or discards it.

source          means                                                        job
permanent       the same work would fail again                               its phase gave up
exhausted       every attempt failed, or a deadline passed                   its phase gave up
unsettled       each process that took the command died before settling it   its phase gave up
undeliverable   a message that no handler could take (an event, a stop)      goes on without it
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid5

import asyncpg

from contracts.errors import ERRORS
from orchestrator.machine.effects import Bury
from orchestrator.machine.job import Job
from orchestrator.pipelines import COMMANDS
from orchestrator.store import as_json
from runtime import telemetry

_NAMES: Final = UUID("0b8c2d5e-3f1a-5a77-8f4e-5a4f0a1c9d21")  # a letter's id follows from what it is about


@dataclass(frozen=True, slots=True)
class Letter:
    """One row of `dead_letters` as it is first written."""

    id: UUID
    source: str
    job_id: UUID | None
    tenant: str | None
    pipeline: str | None
    pipeline_version: int | None
    phase: str | None
    item: str | None
    code: str
    detail: str
    subject: str | None
    headers: str | None
    command: str | None
    attempts: str
    artifacts: str
    trace_id: str | None
    created_at: datetime


def letter(job: Job, revision: int, bury: Bury, at: datetime) -> Letter:
    """What a decision buried."""
    row = ERRORS.get(bury.code)
    source = "unsettled" if bury.code == "WORKER_LOST" else "exhausted" if _may_pass(bury.code) else "permanent"
    return Letter(
        id=uuid5(_NAMES, f"{job.id}.{revision}.{bury.phase}.{bury.item}"),
        source=source,
        job_id=job.id,
        tenant=job.tenant,
        pipeline=job.pipeline,
        pipeline_version=job.pipeline_version,
        phase=bury.phase,
        item=bury.item,
        code=row.code if row else "INTERNAL",
        detail=_storable(bury.detail),
        subject=COMMANDS[bury.command.name].channel.subject if bury.command else None,
        headers=None,
        command=as_json(bury.command.message) if bury.command else None,
        attempts=as_json([{"phase": phase, "item": item, **_tried(one)} for phase, item, one in bury.tries]),
        artifacts=as_json([{"phase": phase, **artifact.model_dump(mode="json")} for phase, artifact in bury.artifacts]),
        trace_id=telemetry.trace_id(job.traceparent),
        created_at=at,
    )


def undeliverable(
    message_id: str,
    subject: str,
    headers: Mapping[str, str],
    body: bytes,
    code: str,
    detail: str,
    job_id: UUID | None,
    job: Job | None,
    trace_id: str | None,
    at: datetime,
) -> Letter:
    """A message that a consumer could not take. `message_id` is the dead letter's own; `job` is the one it is about."""
    return Letter(
        id=uuid5(_NAMES, message_id),
        source="undeliverable",
        job_id=job_id,
        tenant=job.tenant if job else None,
        pipeline=job.pipeline if job else None,
        pipeline_version=job.pipeline_version if job else None,
        phase=None,
        item=None,
        code=code,
        detail=_storable(detail),
        subject=subject,
        headers=as_json(dict(headers)),
        command=as_json({"base64": base64.b64encode(body).decode()}),
        attempts="[]",
        artifacts="[]",
        trace_id=trace_id,
        created_at=at,
    )


def _storable(detail: str) -> str:
    """Words of a worker or a stranger: the database takes every character but this one."""
    return detail.replace("\x00", "")


def _may_pass(code: str) -> bool:
    row = ERRORS.get(code)
    return row is None or row.transient or code == "JOB_DEADLINE"


def _tried(one: Any) -> dict[str, Any]:
    return {field: getattr(one, field) for field in one.__struct_fields__}


_COLUMNS: Final = tuple(Letter.__dataclass_fields__)


async def bury(conn: asyncpg.Connection, letters: Sequence[Letter]) -> None:
    """Write letters down; one that is there already is the same."""
    places = ", ".join(f"${n}" for n in range(1, len(_COLUMNS) + 1))
    await conn.executemany(
        f"INSERT INTO orchestrator.dead_letters ({', '.join(_COLUMNS)}) VALUES ({places}) ON CONFLICT DO NOTHING",
        [tuple(getattr(one, column) for column in _COLUMNS) for one in letters],
    )


# -- reading and resolving ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters. None: whatever it is."""

    code: str | None = None
    phase: str | None = None
    tenant: str | None = None
    pipeline: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: str | None = None

    def where(self, first: int = 1) -> tuple[str, list[Any]]:
        """SQL and its arguments, numbered from `first`."""
        wanted = [
            ("code = ", self.code),
            ("phase = ", self.phase),
            ("tenant = ", self.tenant),
            ("pipeline = ", self.pipeline),
            ("created_at >= ", self.since),
            ("created_at < ", self.until),
            ("state = ", self.state),
        ]
        given = [(text, value) for text, value in wanted if value is not None]
        terms = [f"{text}${n}" for n, (text, _) in enumerate(given, first)]
        return " AND ".join(["true", *terms]), [value for _, value in given]


SUMMARY: Final = (
    "id, source, state, job_id, tenant, pipeline, pipeline_version, phase, item, code, detail, trace_id, created_at, "
    "subject"
)
_WHOLE: Final = (
    f"{SUMMARY}, headers::text, command::text, attempts::text, artifacts::text, refusal, resolved_at, resolved_by, "
    "resolved_why"
)


async def page(
    conn: asyncpg.Connection, which: Filter, limit: int, before: tuple[datetime, UUID] | None
) -> list[asyncpg.Record]:
    """Summaries, newest first, after a place in that order."""
    where, arguments = which.where()
    if before is not None:
        where += f" AND (created_at, id) < (${len(arguments) + 1}, ${len(arguments) + 2})"
        arguments += before
    return await conn.fetch(
        f"SELECT {SUMMARY} FROM orchestrator.dead_letters WHERE {where} "
        f"ORDER BY created_at DESC, id DESC LIMIT {limit}",
        *arguments,
    )


async def whole(conn: asyncpg.Connection, id_: UUID, *, lock: bool = False) -> asyncpg.Record | None:
    """One letter with everything, or None."""
    return await conn.fetchrow(
        f"SELECT {_WHOLE} FROM orchestrator.dead_letters WHERE id = $1{' FOR UPDATE' if lock else ''}", id_
    )


async def resolve(conn: asyncpg.Connection, id_: UUID, state: str, who: str, why: str) -> bool:
    """Close an open letter. Whether it was open."""
    done = await conn.execute(
        "UPDATE orchestrator.dead_letters SET state = $2, resolved_at = now(), resolved_by = $3, resolved_why = $4 "
        "WHERE id = $1 AND state = 'open'",
        id_,
        state,
        who,
        why,
    )
    return done == "UPDATE 1"


async def resolve_of_jobs(
    conn: asyncpg.Connection, jobs: Sequence[Job], who: str, why: str, this: UUID | None = None
) -> set[UUID]:
    """Close the open letters about what these jobs, which were reopened just now, do again, and `this` one.

    Returns the ids of those that it closed.
    """
    again = [(job.id, name) for job in jobs for name, state in job.phases.items() if not state.is_done]
    rows = await conn.fetch(
        # In the order of their ids, so that two who close many never wait for each other in a circle.
        "WITH mine AS (SELECT l.id FROM orchestrator.dead_letters l "
        "WHERE l.job_id = ANY($1::uuid[]) AND l.state = 'open' AND l.source <> 'undeliverable' AND "
        "(l.id = $6 OR l.phase IS NULL OR (l.job_id, l.phase) IN (SELECT * FROM unnest($2::uuid[], $3::text[]))) "
        "ORDER BY l.id FOR UPDATE) "
        "UPDATE orchestrator.dead_letters l SET state = 'replayed', resolved_at = now(), resolved_by = $4, "
        "resolved_why = $5 FROM mine WHERE l.id = mine.id RETURNING l.id",
        [job.id for job in jobs],
        [id_ for id_, _ in again],
        [name for _, name in again],
        who,
        why,
        this,
    )
    return {row["id"] for row in rows}
