"""The orchestrator's rows. Set-based: a batch of jobs costs the same few statements as one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Pipeline
from orchestrator.tables import PIPELINES

_JOB: Final = TypeAdapter(Job)
_PIPELINE: Final = TypeAdapter(Pipeline)


@dataclass(frozen=True, slots=True)
class Stored:
    """A job and the number of decisions that made it."""

    job: Job
    revision: int


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a job's history."""

    job_id: UUID
    revision: int
    at: datetime
    input: str
    effects: Sequence[str]


class RevisionConflict(Exception):
    """Another process changed a job that this one holds: a defect of locking, so nothing is committed."""


async def load_for_update(conn: AsyncConnection, ids: Iterable[UUID]) -> dict[UUID, Stored]:
    """Lock and read jobs in the order of their ids, so that two batches never wait for each other in a circle."""
    rows = await conn.exec_driver_sql(
        "SELECT id, revision, state::text AS state FROM orchestrator.jobs WHERE id = ANY($1::uuid[]) "
        "ORDER BY id FOR UPDATE",
        (list(ids),),
    )
    return {row["id"]: Stored(_JOB.validate_json(row["state"]), row["revision"]) for row in rows.mappings()}


async def lock_due(conn: AsyncConnection, now: datetime, most: int) -> dict[UUID, Stored]:
    """Lock and read jobs whose `wake_at` has come, passing over those that somebody else is at."""
    rows = await conn.exec_driver_sql(
        "SELECT id, revision, state::text AS state FROM orchestrator.jobs WHERE wake_at <= $1 "
        "ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED",
        (now, most),
    )
    return {row["id"]: Stored(_JOB.validate_json(row["state"]), row["revision"]) for row in rows.mappings()}


async def insert_jobs(conn: AsyncConnection, stored: Sequence[Stored]) -> None:
    """Insert jobs that began in this transaction."""
    if not stored:
        return
    await conn.exec_driver_sql(
        "INSERT INTO orchestrator.jobs (id, tenant, pipeline, pipeline_version, status, revision, state, wake_at, "
        "created_at, ended_at) SELECT id, tenant, pipeline, pipeline_version, status, revision, state::jsonb, wake_at, "
        "created_at, ended_at FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::text[], $6::int[], "
        "$7::text[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[]) AS rows (id, tenant, pipeline, "
        "pipeline_version, status, revision, state, wake_at, created_at, ended_at)",
        (
            [s.job.id for s in stored],
            [s.job.tenant for s in stored],
            [s.job.pipeline for s in stored],
            [s.job.pipeline_version for s in stored],
            [str(s.job.status) for s in stored],
            [s.revision for s in stored],
            [_JOB.dump_json(s.job).decode() for s in stored],
            [s.job.wake_at for s in stored],
            [s.job.created_at for s in stored],
            [s.job.ended_at for s in stored],
        ),
    )


async def save_if_revision(conn: AsyncConnection, stored: Sequence[Stored], revisions_before: Sequence[int]) -> None:
    """Update jobs that still have the revision they were read with.

    Raises:
        RevisionConflict: at least one has another.
    """
    if not stored:
        return
    done = await conn.exec_driver_sql(
        "UPDATE orchestrator.jobs SET status = rows.status, revision = rows.revision, state = rows.state::jsonb, "
        "wake_at = rows.wake_at, ended_at = rows.ended_at FROM unnest($1::uuid[], $2::int[], $3::text[], $4::int[], "
        "$5::text[], $6::timestamptz[], $7::timestamptz[]) AS rows (id, before, status, revision, state, wake_at, "
        "ended_at) WHERE jobs.id = rows.id AND jobs.revision = rows.before",
        (
            [s.job.id for s in stored],
            list(revisions_before),
            [str(s.job.status) for s in stored],
            [s.revision for s in stored],
            [_JOB.dump_json(s.job).decode() for s in stored],
            [s.job.wake_at for s in stored],
            [s.job.ended_at for s in stored],
        ),
    )
    if done.rowcount != len(stored):
        raise RevisionConflict(f"{len(stored) - done.rowcount} of {len(stored)} jobs were changed by somebody else")


async def append_history(conn: AsyncConnection, steps: Sequence[Step]) -> None:
    """Write down what happened and what it caused."""
    if not steps:
        return
    await conn.exec_driver_sql(
        "INSERT INTO orchestrator.history (job_id, revision, at, input, effects) "
        "SELECT job_id, revision, at, input, ARRAY(SELECT jsonb_array_elements_text(effects::jsonb)) "
        "FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::text[], $5::text[]) "
        "AS rows (job_id, revision, at, input, effects)",
        (
            [s.job_id for s in steps],
            [s.revision for s in steps],
            [s.at for s in steps],
            [s.input for s in steps],
            [json.dumps(list(s.effects)) for s in steps],
        ),
    )


class PipelineChanged(Exception):
    """A pipeline's table was changed without a new version: running jobs would change under way."""


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
    rows = await conn.execute(select(PIPELINES.c.definition).order_by(PIPELINES.c.name, PIPELINES.c.version))
    known = [_PIPELINE.validate_python(definition) for (definition,) in rows]
    for pipeline in declared:
        kept = next(k for k in known if (k.name, k.version) == (pipeline.name, pipeline.version))
        if _PIPELINE.dump_python(kept, mode="json") != _PIPELINE.dump_python(pipeline, mode="json"):
            raise PipelineChanged(f"pipeline {pipeline.name}@{pipeline.version} was changed; give it a new version")
    return known
