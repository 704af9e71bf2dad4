"""Batches: made, read, cancelled as a whole, retried where they failed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from contracts.errors import error
from contracts.jobs import Status
from orchestrator import batches
from orchestrator.api.asked import Because, Cursor, Hands, Limit, Name, actor, cursor, place
from runtime import clock, postgres
from runtime.http import Bounded, Caller, Tenant, responses

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=Bounded)
_NOT_MINE = responses("UNAUTHENTICATED", "NOT_FOUND")


class NewBatch(BaseModel):
    """What a batch is called; the name is for people, and need not be unique."""

    name: Name = ""


class Counts(BaseModel):
    """How its jobs stand. `degraded` are among the succeeded."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    dead: int
    cancelled: int
    degraded: int


class BatchView(BaseModel):
    """A batch. `fraction` of its jobs have ended; `eta_s` is by the pace of the last minutes."""

    id: UUID
    name: str
    tenant: str
    created_at: datetime
    jobs: Counts
    fraction: float
    eta_s: float | None
    ended_at: datetime | None


class BatchPage(BaseModel):
    """Batches, newest first."""

    items: list[BatchView]
    next_cursor: str | None


class Acted(BaseModel):
    """On how many jobs something was done; the others' states did not allow it."""

    id: UUID
    jobs: int


@router.post("", status_code=201, responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def make(hands: Hands, tenant: Tenant, body: NewBatch | None = None) -> BatchView:
    """A new batch. Uploads name it in their form field `batch`."""
    async with postgres.transaction(hands.engine) as conn:
        id_ = await batches.make(conn, tenant, body.name if body else "")
        made = await batches.read(conn, tenant, id_, clock.now())
    assert made is not None
    return _view(made)


@router.get("", responses=responses("UNAUTHENTICATED", "REQUEST_INVALID"))
async def page(
    hands: Hands, asker: Caller, limit: Limit = 50, cursor_: Annotated[Cursor, Query(alias="cursor")] = None
) -> BatchPage:
    """Batches, newest first."""
    async with postgres.transaction(hands.engine) as conn:
        found = await batches.page(conn, asker.tenant, limit + 1, place(cursor_), clock.now())
    more = cursor(found[limit - 1].created_at, found[limit - 1].id) if len(found) > limit else None
    return BatchPage(items=[_view(one) for one in found[:limit]], next_cursor=more)


@router.get("/{batch_id}", responses=_NOT_MINE)
async def show(hands: Hands, asker: Caller, batch_id: UUID) -> BatchView:
    """One batch, and how far it is."""
    return _view(await _found(hands, asker.tenant, batch_id))


@router.post("/{batch_id}/cancel", responses=_NOT_MINE)
async def cancel(hands: Hands, asker: Caller, batch_id: UUID, body: Because | None = None) -> Acted:
    """Cancel every job of the batch that has not ended."""
    batch = await _found(hands, asker.tenant, batch_id)
    async with postgres.transaction(hands.engine) as conn:
        jobs = [id_ for id_, _, _ in await batches.jobs_of(conn, batch, Status.QUEUED, Status.RUNNING)]
    who = actor(asker, body.reason if body else "")
    return Acted(id=batch_id, jobs=await hands.operations.cancel_many(who, str(batch_id), jobs))


@router.post("/{batch_id}/retry-failed", responses=_NOT_MINE)
async def retry_failed(hands: Hands, asker: Caller, batch_id: UUID, body: Because | None = None) -> Acted:
    """Let every job of the batch that failed or died work again, from where it went wrong."""
    batch = await _found(hands, asker.tenant, batch_id)
    async with postgres.transaction(hands.engine) as conn:
        jobs = await batches.jobs_of(conn, batch, Status.FAILED, Status.DEAD)
    who = actor(asker, body.reason if body else "")
    return Acted(id=batch_id, jobs=await hands.operations.retry_many(who, str(batch_id), jobs))


async def _found(hands: Hands, tenant: str | None, batch_id: UUID) -> batches.Batch:
    async with postgres.transaction(hands.engine) as conn:
        found = await batches.read(conn, tenant, batch_id, clock.now())
    if found is None:
        raise error("NOT_FOUND")
    return found


def _view(batch: batches.Batch) -> BatchView:
    return BatchView.model_validate({name: getattr(batch, name) for name in BatchView.model_fields})
