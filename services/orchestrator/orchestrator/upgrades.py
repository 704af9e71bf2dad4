"""Degraded results made good: succeeded jobs do again what a lesser engine did, once the better one is back.

- A job begins with each phase whose own result a lesser engine made. One that was skipped because
  it could not be done is no reason: it has no result that a GPU would make better.
- The choice of engine is open again, so the worst that a missing GPU can do is what it did before.
- The walk goes from the job that has waited longest to the newest that had ended when it began:
  what ends degraded once more is not taken up again by the same walk.
- Each call takes one page of the walk, in one transaction: the pace is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import letters, store
from orchestrator.audit import Actor, note
from orchestrator.machine.decide import decide
from orchestrator.machine.inputs import Retry
from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Pipeline
from orchestrator.operations import Again
from orchestrator.shell import Answer, Arrived, Shell
from orchestrator.store import Stored
from runtime import postgres, telemetry

UPGRADED_MAX: Final = 200  # jobs in one transaction
Place = tuple[datetime, UUID]  # in the walk: when a job ended, and its id
_AGAIN: Final = Again(from_phase=Retry.DEGRADED)


@dataclass(frozen=True, slots=True)
class Degraded:
    """Which jobs: those that had ended degraded `until` then, of a tenant, a batch, a pipeline (None: any)."""

    until: datetime
    tenant: str | None = None
    batch: UUID | None = None
    pipeline: str | None = None


@dataclass(slots=True)
class Page:
    """What a page of the walk did, or would do. `found` jobs are left of the walk, with those of this page.

    `jobs` work again, the others are `passed_over`: a lesser engine made none of their results, or they
    moved meanwhile. `phases` counts of how many a lesser engine did each.
    """

    found: int
    jobs: int
    passed_over: int
    phases: dict[str, int]
    next_place: Place | None


@dataclass(frozen=True, slots=True)
class Upgrades:
    """The use case, on one shell."""

    engine: AsyncEngine
    shell: Shell

    async def plan(self, which: Degraded, limit: int, after: Place | None = None) -> Page:
        """What `work` would do, without doing it."""
        page, jobs = await self._page(which, limit, after)
        for stored, pinned in jobs:
            _count(page, stored, decide(stored.job, stored.revision + 1, pinned, _AGAIN.retry(pinned)).ignored)
        return page

    async def work(self, actor: Actor, which: Degraded, limit: int, after: Place | None = None) -> Page:
        """Let the next jobs of the walk work again, each with its line of the audit."""
        page, jobs = await self._page(which, limit, after)

        async def then(conn: asyncpg.Connection, answers: Sequence[Answer]) -> None:
            done = []
            for (stored, _), answer in zip(jobs, answers, strict=True):
                if answer.ignored is None and answer.stored is not None:
                    done.append(answer.stored.job)
                    details = {**_AGAIN.details(), "phases": lesser(stored.job)}
                    await note(conn, actor, "job.upgrade", str(stored.job.id), details)
            if done:
                await letters.resolve_of_jobs(conn, done, actor.who, actor.why)

        if jobs:
            trace = telemetry.traceparent()
            arrived = [Arrived(stored.job.id, _AGAIN.retry(pinned), None, trace) for stored, pinned in jobs]
            for (stored, _), answer in zip(jobs, await self.shell.take(arrived, then), strict=True):
                _count(page, stored, answer.ignored)
        return page

    async def _page(
        self, which: Degraded, limit: int, after: Place | None
    ) -> tuple[Page, list[tuple[Stored, Pipeline]]]:
        """A page on which nothing is counted yet, and its jobs with the definitions that they pin."""
        found, places = await self._walk(which, limit, after)
        page = Page(found, 0, 0, {}, places[-1] if len(places) == limit else None)
        async with postgres.transaction(self.engine) as conn:
            known = await store.read_many(conn, [id_ for _, id_ in places])
        jobs = []
        for _, id_ in places:
            pinned = await self.shell.pinned(known[id_].job) if id_ in known else None
            if pinned is None:
                page.passed_over += 1
            else:
                jobs.append((known[id_], pinned))
        return page, jobs

    async def _walk(self, which: Degraded, limit: int, after: Place | None) -> tuple[int, list[Place]]:
        """How many jobs are left of the walk, and the next of them."""
        where = (
            "degraded AND status = 'succeeded' AND ended_at <= $1 "
            "AND ($2::text IS NULL OR tenant = $2) AND ($3::uuid IS NULL OR batch_id = $3) "
            "AND ($4::text IS NULL OR pipeline = $4) "
            "AND ($5::timestamptz IS NULL OR (ended_at, id) > ($5, $6::uuid))"
        )
        given = (which.until, which.tenant, which.batch, which.pipeline, *(after or (None, None)))
        async with postgres.transaction(self.engine) as conn:
            found = await conn.fetchval(f"SELECT count(*) FROM orchestrator.jobs WHERE {where}", *given)
            rows = await conn.fetch(
                f"SELECT ended_at, id FROM orchestrator.jobs WHERE {where} ORDER BY ended_at, id LIMIT $7",
                *given,
                limit,
            )
        return found, [(row["ended_at"], row["id"]) for row in rows]


def lesser(job: Job) -> list[str]:
    """The phases that a lesser engine did, in the order of the pipeline."""
    return [name for name, state in job.phases.items() if state.stood_in]


def _count(page: Page, stored: Stored, ignored: str | None) -> None:
    if ignored is not None:
        page.passed_over += 1
        return
    page.jobs += 1
    for name in lesser(stored.job):
        page.phases[name] = page.phases.get(name, 0) + 1
