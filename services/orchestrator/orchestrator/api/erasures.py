"""Erasures and their receipts, holds, retention."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, model_validator

from contracts.errors import error
from contracts.uploads import Subject, subject_reference
from orchestrator import erasures, holds, retention
from orchestrator.api.asked import Because, Cursor, Hands, Limit, Name, actor, cursor, place
from orchestrator.erasures import Erasure
from runtime import postgres
from runtime.http import Asker, Bounded, Caller, Operator, responses

router = APIRouter(prefix="/v1/erasures", tags=["erasures"], route_class=Bounded)
holding = APIRouter(prefix="/v1/holds", tags=["erasures"], route_class=Bounded)
keeping = APIRouter(prefix="/v1/retention", tags=["erasures"], route_class=Bounded)
_OPERATORS = ("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID")


class ErasureRequest(Because):
    """What is to be gone: one of an upload, a batch, or everything about a subject. Operators say whose."""

    upload: UUID | None = None
    batch: UUID | None = None
    subject: Subject | None = None
    tenant: Name | None = None

    @model_validator(mode="after")
    def _one(self) -> ErasureRequest:
        if sum(one is not None for one in (self.upload, self.batch, self.subject)) != 1:
            raise ValueError("say one of upload, batch, subject")
        return self


class ErasureView(BaseModel):
    """An erasure. `state` is stopping, erasing, scrubbing or succeeded; `waits_for` are rooms that have not answered.

    `receipt` says what each room erased; `signature` (Ed25519, base64) is over its canonical JSON: keys sorted, no
    spaces, UTF-8. `GET /v1/erasures/key` is the public key.
    """

    id: UUID
    tenant: str
    target: Literal["upload", "batch", "subject", "retention"]
    target_id: str
    state: Literal["stopping", "erasing", "scrubbing", "succeeded"]
    by: str
    reason: str
    jobs: int
    waits_for: list[str]
    requested_at: datetime
    ended_at: datetime | None
    receipt: dict[str, Any] | None
    signature: str | None


class ErasurePage(BaseModel):
    """Erasures, newest first."""

    items: list[ErasureView]
    next_cursor: str | None


class PublicKey(BaseModel):
    """What verifies the signatures of receipts."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: str


@router.post(
    "",
    status_code=202,
    responses=responses("UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND", "LEGAL_HOLD", "REQUEST_INVALID"),
)
async def request(hands: Hands, asker: Caller, body: ErasureRequest) -> ErasureView:
    """Erase everything: originals, outputs, rows in every service, GPU results, dead letters, the broker's messages.

    What runs is cancelled first. The answer comes at once; the receipt is there when `state` is succeeded.
    """
    tenant = _whose(asker, body.tenant)
    acting = actor(asker, body.reason)
    if body.upload:
        id_ = await hands.erasures.request(acting, tenant, "upload", str(body.upload))
    elif body.batch:
        id_ = await hands.erasures.request(acting, tenant, "batch", str(body.batch))
    else:
        id_ = await hands.erasures.request(acting, tenant, "subject", subject_reference(tenant, body.subject or ""))
    return _view(await _found(hands, asker, id_))


@router.get("", responses=responses("UNAUTHENTICATED", "REQUEST_INVALID"))
async def page(
    hands: Hands, asker: Caller, limit: Limit = 50, cursor_: Annotated[Cursor, Query(alias="cursor")] = None
) -> ErasurePage:
    """Erasures, newest first."""
    async with postgres.transaction(hands.engine) as conn:
        found = await erasures.page(conn, asker.tenant, limit + 1, place(cursor_))
    more = cursor(found[limit - 1].requested_at, found[limit - 1].id) if len(found) > limit else None
    return ErasurePage(items=[_view(one) for one in found[:limit]], next_cursor=more)


@router.get("/key", responses=responses("UNAUTHENTICATED"))
async def key(hands: Hands, _asker: Caller) -> PublicKey:
    """The public key of receipts' signatures."""
    return PublicKey(public_key=hands.erasures.signer.public_key)


@router.get("/{erasure_id}", responses=responses("UNAUTHENTICATED", "NOT_FOUND", "REQUEST_INVALID"))
async def show(hands: Hands, asker: Caller, erasure_id: UUID) -> ErasureView:
    """One erasure, and its receipt when it is done."""
    return _view(await _found(hands, asker, erasure_id))


async def _found(hands: Hands, asker: Asker, id_: UUID) -> Erasure:
    async with postgres.transaction(hands.engine) as conn:
        found = await erasures.read(conn, asker.tenant, id_)
    if found is None:
        raise error("NOT_FOUND")
    return found


def _view(erasure: Erasure) -> ErasureView:
    return ErasureView.model_validate({name: getattr(erasure, name) for name in ErasureView.model_fields})


def _whose(asker: Asker, tenant: str | None) -> str:
    if asker.tenant is None and tenant is None:
        raise error("REQUEST_INVALID", "An operator says whose it is: tenant.")
    if asker.tenant is not None and tenant not in (None, asker.tenant):
        raise error("FORBIDDEN", "A tenant erases its own only.")
    return asker.tenant or tenant or ""


# -- holds -----------------------------------------------------------------------------------


class HoldRequest(Because):
    """On what: a batch or an upload of a tenant, or, with neither, everything of it."""

    tenant: Name = Field(min_length=1)
    batch: UUID | None = None
    upload: UUID | None = None


class HoldView(BaseModel):
    """A legal hold."""

    id: UUID
    tenant: str
    batch_id: UUID | None
    upload_id: UUID | None
    reason: str
    by: str
    at: datetime
    released_by: str | None
    released_at: datetime | None


class Holds(BaseModel):
    """Holds, newest first."""

    items: list[HoldView]


@holding.post("", status_code=201, responses=responses(*_OPERATORS))
async def place_hold(hands: Hands, operator: Operator, body: HoldRequest) -> HoldView:
    """Nothing under a hold is erased, by nobody and by no retention."""
    acting = actor(Asker(operator, None), body.reason)
    async with postgres.transaction(hands.engine) as conn:
        return _hold(await holds.place(conn, acting, body.tenant, body.batch, body.upload))


@holding.get("", responses=responses(*_OPERATORS))
async def list_holds(hands: Hands, _operator: Operator, tenant: Name | None = None, active: bool = True) -> Holds:
    """The holds that hold; with `active=false` the released ones as well."""
    async with postgres.transaction(hands.engine) as conn:
        return Holds(items=[_hold(one) for one in await holds.page(conn, tenant, active)])


@holding.post("/{hold_id}/release", responses=responses(*_OPERATORS, "NOT_FOUND", "STATE_CONFLICT"))
async def release_hold(hands: Hands, operator: Operator, hold_id: UUID, body: Because | None = None) -> HoldView:
    """Lift a hold."""
    acting = actor(Asker(operator, None), body.reason if body else "")
    async with postgres.transaction(hands.engine) as conn:
        return _hold(await holds.release(conn, acting, hold_id))


def _hold(hold: holds.Hold) -> HoldView:
    return HoldView.model_validate({name: getattr(hold, name) for name in HoldView.model_fields})


# -- retention -------------------------------------------------------------------------------


class Retention(Because):
    """How many days after the end of its last job an upload is erased; null: nothing is erased by itself."""

    days: Annotated[int, Field(ge=1, le=36_500)] | None


class RetentionView(BaseModel):
    """Days by tenant, of those that have any."""

    days: dict[str, int]


@keeping.put("/{tenant}", responses=responses(*_OPERATORS))
async def keep(hands: Hands, operator: Operator, tenant: Name, body: Retention) -> RetentionView:
    """Say how long a tenant's uploads and results are kept."""
    async with postgres.transaction(hands.engine) as conn:
        await retention.keep(conn, actor(Asker(operator, None), body.reason), tenant, body.days)
        return RetentionView(days=await retention.kept(conn))


@keeping.get("", responses=responses(*_OPERATORS))
async def kept(hands: Hands, _operator: Operator) -> RetentionView:
    """How long tenants' uploads and results are kept."""
    async with postgres.transaction(hands.engine) as conn:
        return RetentionView(days=await retention.kept(conn))
