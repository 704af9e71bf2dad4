"""The orchestrator's rows on the hot path. A batch of jobs costs the same two statements as one.

Everything here runs in the caller's transaction, on asyncpg itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Pipeline
from orchestrator.tables import PIPELINES
from runtime import clock
from runtime.outbox import Outgoing, insert_parcel, parcel

_PIPELINE: Final = TypeAdapter(Pipeline)


def _model(kind: type[Any], value: Any) -> Any:
    return kind.__pydantic_validator__.validate_python(value)  # without the way through a model's own classmethod


_READ: Final = msgspec.json.Decoder(Job, dec_hook=_model)
_WRITE: Final = msgspec.json.Encoder(enc_hook=lambda model: model.__dict__)


class Stored(Struct, frozen=True):
    """A job and the number of decisions that made it."""

    job: Job
    revision: int


class Step(Struct, frozen=True):
    """One line of a job's history."""

    job_id: UUID
    revision: int
    at: datetime
    input: str
    effects: Sequence[str]


Place = tuple[str, str, str]  # pipeline, phase, tenant: what is counted
Counted = Mapping[Place, int]
Turn = tuple[UUID, str, str, str, str, str, datetime]  # a row of `waiting`


@dataclass(slots=True)
class Changes:
    """What one transaction writes down: pairs of a job's revision before (0: there was none) and the job after."""

    jobs: Sequence[tuple[int, Stored]] = ()
    steps: Sequence[Step] = ()
    messages: Sequence[Outgoing] = ()
    running: Counted = field(default_factory=dict)  # by how much the counts change


class RevisionConflict(Exception):
    """Another process changed a job that this one holds: a defect of locking, so nothing is committed."""


async def take(
    conn: asyncpg.Connection, message_ids: Iterable[str], job_ids: Iterable[UUID]
) -> tuple[set[str], dict[UUID, Stored]]:
    """Take messages in, and lock and read their jobs. Returns the ids that were new, and the jobs that there are.

    Ids are sorted, so that two batches never wait for each other in a circle.
    """
    rows = await conn.fetch(
        "WITH fresh AS (INSERT INTO orchestrator.inbox (message_id) SELECT * FROM unnest($1::text[]) "
        "ON CONFLICT DO NOTHING RETURNING message_id), "
        "held AS (SELECT id, revision, state::text FROM orchestrator.jobs WHERE id = ANY($2::uuid[]) "
        "ORDER BY id FOR UPDATE) "
        "SELECT message_id, NULL::uuid AS id, NULL::int AS revision, NULL AS state FROM fresh "
        "UNION ALL SELECT NULL, id, revision, state FROM held",
        sorted(set(message_ids)),
        sorted(set(job_ids)),
    )
    fresh = {row[0] for row in rows if row[0] is not None}
    return fresh, {row[1]: _stored(row[2], row[3]) for row in rows if row[1] is not None}


_ERASING: Final = "hashtextextended('orchestrator.erasures', 0)"


async def erased(conn: asyncpg.Connection, uploads: Iterable[UUID]) -> set[UUID]:
    """Those of the uploads of which there is an erasure. None of another begins before the transaction is over."""
    await conn.execute(f"SELECT pg_advisory_xact_lock_shared({_ERASING})")
    known = await conn.fetch(
        "SELECT upload FROM unnest($1::uuid[]) AS upload "
        "WHERE EXISTS (SELECT FROM orchestrator.erasures WHERE uploads @> ARRAY[upload])",
        list(uploads),
    )
    return {row[0] for row in known}


async def begin_erasing(conn: asyncpg.Connection) -> None:
    """Wait until nobody is between `erased` and its commit. Until the commit: the jobs that there are now are all."""
    await conn.execute(f"SELECT pg_advisory_xact_lock({_ERASING})")


async def lock_due(conn: asyncpg.Connection, now: datetime, most: int) -> dict[UUID, Stored]:
    """Lock and read jobs whose row's `wake_at` has come, passing over those that somebody else is at.

    It may come before the job's own (see `write`): then nothing is due yet.
    """
    rows = await conn.fetch(
        "SELECT id, revision, state::text FROM orchestrator.jobs WHERE wake_at <= $1 "
        "ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED",
        now,
        most,
    )
    return {id_: _stored(revision, state) for id_, revision, state in rows}


async def sleep_on(conn: asyncpg.Connection, early: Sequence[Stored]) -> None:
    """Let jobs whose row was to wake them before anything is due sleep until then."""
    await conn.execute(
        "UPDATE orchestrator.jobs SET wake_at = to_timestamp(r.wake) FROM unnest($1::uuid[], $2::float8[]) "
        "AS r (id, wake) WHERE jobs.id = r.id",
        [stored.job.id for stored in early],
        [_seconds(stored.job.wake_at) for stored in early],
    )


async def lock_next(
    conn: asyncpg.Connection, pipeline: str, phase: str, lane: str, tenant: str, most: int
) -> tuple[dict[UUID, Stored], dict[UUID, list[str]]]:
    """Lock and read the jobs whose units have waited longest in this line, and the items of each ("" for none)."""
    rows = await conn.fetch(
        "SELECT w.item, j.id, j.revision, j.state::text FROM orchestrator.waiting w "
        "JOIN orchestrator.jobs j ON j.id = w.job_id "
        "WHERE w.pipeline = $1 AND w.phase = $2 AND w.lane = $3 AND w.tenant = $4 "
        "ORDER BY w.ready_at LIMIT $5 FOR UPDATE OF j SKIP LOCKED",  # whoever holds a job changes its turns
        pipeline,
        phase,
        lane,
        tenant,
        most,
    )
    held: dict[UUID, Stored] = {}
    items: dict[UUID, list[str]] = {}
    for item, id_, revision, state in rows:
        if id_ not in held:
            held[id_] = _stored(revision, state)
        items.setdefault(id_, []).append(item)
    return held, items


async def read(conn: asyncpg.Connection, id_: UUID) -> Stored | None:
    """A job as it is now, without a lock."""
    return (await read_many(conn, [id_])).get(id_)


async def read_many(conn: asyncpg.Connection, ids: Sequence[UUID]) -> dict[UUID, Stored]:
    """Jobs as they are now, without a lock; those that there are."""
    rows = await conn.fetch("SELECT id, revision, state::text FROM orchestrator.jobs WHERE id = ANY($1::uuid[])", ids)
    return {id_: _stored(revision, state) for id_, revision, state in rows}


async def newest_succeeded(conn: asyncpg.Connection, pipeline: str, most: int) -> list[Job]:
    """The jobs of a pipeline that succeeded last, whatever its version."""
    rows = await conn.fetch(
        "SELECT revision, state::text FROM orchestrator.jobs WHERE pipeline = $1 AND status = 'succeeded' "
        "ORDER BY ended_at DESC LIMIT $2",
        pipeline,
        most,
    )
    return [_stored(revision, state).job for revision, state in rows]


def _stored(revision: int, state: str) -> Stored:
    return Stored(_READ.decode(state), revision)


_NEW: Final = "id, tenant, pipeline, pipeline_version, batch_id, status, degraded, revision, created_at"
# Times are seconds since 1970 and whatever most rows share is said once: the driver takes 0.3 to 2 µs for each element.
_WRITE_ALL: Final = f"""
WITH begun AS (
    INSERT INTO orchestrator.jobs ({_NEW}, state, wake_at, ended_at, upload_id, subject)
    SELECT {_NEW}, state::json, to_timestamp(wake), to_timestamp(ended),
        (state::json->>'upload_id')::uuid, state::json->'options'->>'subject'
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::uuid[], $6::text[], $7::bool[], $8::int[],
        $9::timestamptz[], $10::text[], $11::float8[], $12::float8[]) AS r ({_NEW}, state, wake, ended)
), kinds AS (
    SELECT * FROM unnest($13::int[], $14::text[], $15::bool[], $16::float8[])
    WITH ORDINALITY AS k (version, status, degraded, ended, kind)
), changed AS (
    UPDATE orchestrator.jobs SET pipeline_version = k.version, status = k.status, degraded = k.degraded,
        revision = r.revision, state = r.state::json, ended_at = to_timestamp(k.ended), wake_at = CASE
            WHEN jobs.wake_at > $34 AND jobs.wake_at < to_timestamp(r.wake) THEN jobs.wake_at
            ELSE to_timestamp(r.wake) END
    FROM unnest($17::int[], $18::uuid[], $19::int[], $20::text[], $21::float8[], $22::int[])
        AS r (before, id, revision, state, wake, kind) JOIN kinds k USING (kind)
    WHERE jobs.id = r.id AND jobs.revision = r.before RETURNING 1
), told AS (
    INSERT INTO orchestrator.history (job_id, revision, at, input, effects)
    SELECT job_id, revision, to_timestamp(at), input, effects::json
    FROM unnest($23::uuid[], $24::int[], $25::float8[], $26::text[], $27::text[])
    AS s (job_id, revision, at, input, effects)
), sent AS (
    {insert_parcel("orchestrator.outbox", 28)}
), more AS (
    SELECT * FROM unnest($30::text[], $31::text[], $32::text[], $33::int[]) AS d (pipeline, phase, tenant, delta)
), locked AS (
    SELECT pipeline, phase, tenant, delta FROM orchestrator.running JOIN more USING (pipeline, phase, tenant)
    ORDER BY 1, 2, 3 FOR UPDATE OF running
), counted AS (
    UPDATE orchestrator.running SET count = running.count + l.delta FROM locked l
    WHERE (running.pipeline, running.phase, running.tenant) = (l.pipeline, l.phase, l.tenant)
    RETURNING running.pipeline, running.phase, running.tenant, running.count
)
SELECT NULL, NULL, NULL, count(*)::int FROM changed UNION ALL SELECT * FROM counted
"""


async def write(conn: asyncpg.Connection, changes: Changes) -> dict[Place, int]:
    """Write a transaction's changes down in one statement. Returns the counts that it changed, as they are now.

    A place that was never counted must have a row: see `open_places`. A row that is to wake its job sooner than it has
    to stays so: as long as no index has to change, PostgreSQL writes a new version of a row beside the old one.

    Raises:
        RevisionConflict: at least one job has another revision than it was read with.
    """
    begun = [(stored.job, stored.revision) for before, stored in changes.jobs if not before]
    changed = [(before, stored.job, stored.revision) for before, stored in changes.jobs if before]
    kind_of = [
        (job.pipeline_version, job.status.value, _degraded(job), _seconds(job.ended_at)) for _, job, _ in changed
    ]
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(kind_of), 1)}  # from 1, as WITH ORDINALITY does
    steps = changes.steps
    rows = await conn.fetch(
        _WRITE_ALL,
        [job.id for job, _ in begun],
        [job.tenant for job, _ in begun],
        [job.pipeline for job, _ in begun],
        [job.pipeline_version for job, _ in begun],
        [job.batch_id for job, _ in begun],
        [job.status for job, _ in begun],
        [_degraded(job) for job, _ in begun],
        [revision for _, revision in begun],
        [job.created_at for job, _ in begun],
        [_WRITE.encode(job).decode() for job, _ in begun],
        [_seconds(job.wake_at) for job, _ in begun],
        [_seconds(job.ended_at) for job, _ in begun],
        *([kind[n] for kind in kinds] for n in range(4)),
        [before for before, _, _ in changed],
        [job.id for _, job, _ in changed],
        [revision for _, _, revision in changed],
        [_WRITE.encode(job).decode() for _, job, _ in changed],
        [_seconds(job.wake_at) for _, job, _ in changed],
        [kinds[kind] for kind in kind_of],
        [s.job_id for s in steps],
        [s.revision for s in steps],
        [s.at.timestamp() for s in steps],
        [s.input for s in steps],
        [_WRITE.encode(s.effects).decode() for s in steps],
        *parcel(changes.messages),
        [place[0] for place in changes.running],
        [place[1] for place in changes.running],
        [place[2] for place in changes.running],
        list(changes.running.values()),
        clock.now(),
    )
    if rows[0][3] != len(changed):
        raise RevisionConflict(f"{len(changed) - rows[0][3]} of {len(changed)} jobs were changed by somebody else")
    return {(row[0], row[1], row[2]): row[3] for row in rows[1:]}


def _degraded(job: Job) -> bool:
    return job.is_over and job.degraded


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


async def open_places(conn: asyncpg.Connection, places: Iterable[Place]) -> None:
    """Give places that were never counted a row."""
    await conn.executemany(
        "INSERT INTO orchestrator.running (pipeline, phase, tenant, count) VALUES ($1, $2, $3, 0) "
        "ON CONFLICT DO NOTHING",
        sorted(places),
    )


async def counts(conn: asyncpg.Connection) -> tuple[dict[Place, int], dict[tuple[str, str, str, str], int]]:
    """How many commands are out (pipeline, phase, tenant) and how many units wait (pipeline, phase, lane, tenant).

    What is not named is none.
    """
    running = await conn.fetch("SELECT pipeline, phase, tenant, count FROM orchestrator.running WHERE count <> 0")
    waiting = await conn.fetch(
        "SELECT pipeline, phase, lane, tenant, count FROM orchestrator.waiting_counts WHERE count > 0"
    )
    return {tuple(row[:3]): row[3] for row in running}, {tuple(row[:4]): row[4] for row in waiting}


async def change_waiting(conn: asyncpg.Connection, come: Sequence[Turn], gone: Sequence[Turn]) -> None:
    """Let units wait in their lines, and others leave them."""
    if not come and not gone:
        return
    lines: dict[tuple[str, str, str, str], int] = {}
    for turns, by in ((come, 1), (gone, -1)):
        for _, phase, _, pipeline, tenant, lane, _ in turns:
            line = (pipeline, phase, lane, tenant)
            lines[line] = lines.get(line, 0) + by
    await conn.executemany(
        "INSERT INTO orchestrator.waiting_counts AS c (pipeline, phase, lane, tenant, count) "
        "VALUES ($1, $2, $3, $4, GREATEST($5, 0)) ON CONFLICT (pipeline, phase, lane, tenant) "
        "DO UPDATE SET count = c.count + $5",
        [(*line, by) for line, by in sorted(lines.items())],
    )
    if gone:
        await conn.execute(
            "DELETE FROM orchestrator.waiting w "
            "USING unnest($1::uuid[], $2::text[], $3::text[]) AS g (job_id, phase, item) "
            "WHERE (w.job_id, w.phase, w.item) = (g.job_id, g.phase, g.item)",
            *([turn[n] for turn in gone] for n in range(3)),
        )
    if come:
        await conn.copy_records_to_table(
            "waiting",
            schema_name="orchestrator",
            columns=["job_id", "phase", "item", "pipeline", "tenant", "lane", "ready_at"],
            records=come,
        )


async def recount_line(conn: asyncpg.Connection, pipeline: str, phase: str, lane: str, tenant: str) -> None:
    """Let the count of a line be what it has rows. Whoever changes the rows holds the count's lock."""
    line = (pipeline, phase, lane, tenant)
    await conn.execute(
        "SELECT 1 FROM orchestrator.waiting_counts WHERE (pipeline, phase, lane, tenant) = ($1, $2, $3, $4) FOR UPDATE",
        *line,
    )
    await conn.execute(
        "UPDATE orchestrator.waiting_counts SET count = (SELECT count(*) FROM orchestrator.waiting "
        "WHERE (pipeline, phase, lane, tenant) = ($1, $2, $3, $4)) "
        "WHERE (pipeline, phase, lane, tenant) = ($1, $2, $3, $4)",
        *line,
    )


async def send(conn: asyncpg.Connection, messages: Sequence[Outgoing]) -> None:
    """Let messages leave with this transaction."""
    await conn.execute(insert_parcel("orchestrator.outbox"), *parcel(messages))


async def know_batches(conn: asyncpg.Connection, batches: Iterable[tuple[str, UUID]]) -> None:
    """Make batches (tenant, id) that jobs name and nobody has made."""
    await conn.executemany(
        "INSERT INTO orchestrator.batches (tenant, id) VALUES ($1, $2) ON CONFLICT DO NOTHING", sorted(batches)
    )


class PipelineChanged(Exception):
    """A pipeline's definition was changed without a new version: running jobs would change under way."""


async def declare_pipelines(conn: AsyncConnection, declared: Sequence[Pipeline]) -> list[Pipeline]:
    """Keep each version for ever; returns all that were ever declared.

    Raises:
        PipelineChanged: a version that is known has another definition now.
    """
    for pipeline in declared:
        definition = _PIPELINE.dump_python(pipeline, mode="json")
        await conn.execute(
            insert(PIPELINES)
            .values(name=pipeline.name, version=pipeline.version, definition=definition)
            .on_conflict_do_nothing()
        )
    known = await known_pipelines(conn)
    for pipeline in declared:
        kept = next(k for k in known if (k.name, k.version) == (pipeline.name, pipeline.version))
        if kept != pipeline:
            raise PipelineChanged(f"pipeline {pipeline.name}@{pipeline.version} was changed; give it a new version")
    return known


async def known_pipelines(conn: AsyncConnection) -> list[Pipeline]:
    """Every version that was ever declared, by any process."""
    rows = await conn.execute(select(PIPELINES.c.definition).order_by(PIPELINES.c.name, PIPELINES.c.version))
    return [_PIPELINE.validate_python(definition) for (definition,) in rows]


def as_json(value: Any) -> str:
    """JSON of pydantic models, structs, ids and times, as the columns of dead letters hold it."""
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(type(value).__name__)
