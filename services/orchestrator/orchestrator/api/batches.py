"""Batches: made, read, cancelled as a whole, retried where they failed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from contracts.batches import Duplicates, Webhook
from contracts.errors import error
from contracts.jobs import Status
from contracts.uploads import Choices
from orchestrator import batches
from orchestrator.api.asked import Because, Cursor, Hands, Limit, Name, actor, cursor, place
from orchestrator.closing import Wanted
from runtime import clock, postgres
from runtime.http import Bounded, Caller, Tenant, responses

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=Bounded)
_NOT_MINE = responses("UNAUTHENTICATED", "NOT_FOUND")
_EXAMPLE: Final[dict[str, Any]] = {
    "name": "Lake wedding",
    "style": "warm-film",
    "options": {"crop": "4:5"},
    "webhook": "https://shop.example.com/hooks/safelight",
    "duplicates": "reuse",
}

Style = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}(@[1-9][0-9]{0,8})?$")]


class BatchOptions(Choices):
    """Options of an upload, as a batch sets them."""

    model_config = ConfigDict(extra="forbid")


class NewBatch(BaseModel):
    """A batch, and what holds for its uploads that do not say otherwise: before their tenant's and pipeline's defaults.

    The name is for people, and need not be unique. `style` is short for the option of that name. `webhook` is told
    when the batch is closed and has ended. `duplicates`: a file whose content is in the batch already gets the job that
    is there, is refused, or is kept.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    name: Name = ""
    pipeline: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    style: Style | None = None
    options: BatchOptions = Field(default_factory=BatchOptions)
    webhook: Webhook | None = None
    duplicates: Duplicates = "keep"

    def wanted(self) -> Wanted:
        """As the use case takes it: only the options that were named. Raises REQUEST_INVALID."""
        options = self.options.model_dump(mode="json", exclude_unset=True)
        if self.style is not None and options.setdefault("style", self.style) != self.style:
            raise error("REQUEST_INVALID", "style and options.style name two styles")
        return Wanted(self.name, self.pipeline, options, self.webhook, self.duplicates)


class BatchChanges(BaseModel):
    """What an open batch is to be called, and who is told of it; what is not named stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name = ""
    webhook: Webhook | None = None


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
    """A batch with its settings. `fraction` of its jobs have ended; `eta_s` is by the pace of the last minutes.

    `ended_at` is when the last of its jobs ended, null while one has not.
    """

    id: UUID
    name: str
    tenant: str
    created_at: datetime
    state: Literal["open", "closed"]
    closed_at: datetime | None
    pipeline: str | None
    options: dict[str, JsonValue]
    webhook: str | None
    duplicates: Duplicates
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


@router.post(
    "", status_code=201, responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID", "PIPELINE_UNKNOWN")
)
async def make(hands: Hands, asker: Caller, tenant: Tenant, body: NewBatch | None = None) -> BatchView:
    """A new batch. Uploads name it in their form field `batch`, until it is closed."""
    wanted = (body or NewBatch()).wanted()
    if wanted.pipeline is not None and hands.shell.newest(wanted.pipeline) is None:
        raise error("PIPELINE_UNKNOWN")
    return _view(await _found(hands, tenant, await hands.closing.make(actor(asker, ""), tenant, wanted)))


@router.patch("/{batch_id}", responses=responses("UNAUTHENTICATED", "NOT_FOUND", "BATCH_CLOSED", "REQUEST_INVALID"))
async def change(hands: Hands, asker: Caller, batch_id: UUID, body: BatchChanges) -> BatchView:
    """Call an open batch something else, or have somebody else told of it."""
    batch = await _found(hands, asker.tenant, batch_id)
    await hands.closing.change(actor(asker, ""), batch.tenant, batch_id, body.model_dump(exclude_unset=True))
    return _view(await _found(hands, asker.tenant, batch_id))


@router.post("/{batch_id}/close", responses=responses("UNAUTHENTICATED", "NOT_FOUND", "BROKER_UNAVAILABLE"))
async def close(hands: Hands, asker: Caller, batch_id: UUID, body: Because | None = None) -> BatchView:
    """Take no more uploads into the batch. It has ended when all that it has got has: that is told once."""
    batch = await _found(hands, asker.tenant, batch_id)
    await hands.closing.close(actor(asker, body.reason if body else ""), batch.tenant, batch_id)
    return _view(await _found(hands, asker.tenant, batch_id))


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
