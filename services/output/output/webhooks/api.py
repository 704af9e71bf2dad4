"""The HTTP surface of webhooks: endpoints, their secrets, what they were told."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Path, Query, Request, Response
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import error
from output.accesses import note
from output.signing import SigningKeys
from output.webhooks import ledger, store, telling
from output.webhooks.views import (
    DeliveryDetail,
    DeliveryPage,
    DeliveryStatus,
    DeliveryView,
    MadeWebhook,
    NewWebhook,
    Replayed,
    Secret,
    SecretRotation,
    Since,
    WebhookChange,
    WebhookPage,
    WebhookView,
)
from runtime import clock, outside, postgres
from runtime.http import Bounded, Tenant, responses
from runtime.idempotency import shown_once

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=Bounded)

Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=256)]
MessageId = Annotated[str, Path(pattern=r"^msg_[0-9a-f]{32}$")]
_ASKED = ("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID")
_ABOUT_ONE = (*_ASKED, "NOT_FOUND")
_CHANGES = (*_ABOUT_ONE, "BROKER_UNAVAILABLE")
_REPLAY = (*_CHANGES, "WEBHOOK_DISABLED")


@router.post(
    "", status_code=201, responses=responses(*_ASKED, "ADDRESS_REFUSED", "STATE_CONFLICT", "BROKER_UNAVAILABLE")
)
async def make_webhook(request: Request, tenant: Tenant, given: NewWebhook) -> MadeWebhook:
    """A new endpoint. Its secret is shown in this answer alone; it verifies the signatures (Standard Webhooks)."""
    shown_once(request, "secret")
    url = outside.check_url(given.url, request.app.state.open)
    keys: SigningKeys = request.app.state.signing
    async with _engine(request).begin() as conn:
        row = await store.make(conn, tenant, url, list(given.events), given.description, keys.current)
        await note(request, tenant, "webhook.made", row.id, events=row.events)
    return MadeWebhook(**store.view(row).model_dump(), secret=_newest(keys, row, row))


@router.get("", responses=responses(*_ASKED))
async def list_webhooks(request: Request, tenant: Tenant, limit: Limit = 50, cursor: Cursor = None) -> WebhookPage:
    """A tenant's endpoints, newest first; URLs that batches named are among them."""
    async with _engine(request).connect() as conn:
        return await store.page(conn, tenant, limit, cursor)


@router.post("/batch-secret", status_code=201, responses=responses(*_ASKED, "BROKER_UNAVAILABLE"))
async def rotate_batch_secret(request: Request, tenant: Tenant, given: SecretRotation) -> Secret:
    """The secret of all URLs that this tenant's batches name: first the one that signs already, then a new one."""
    shown_once(request, "secret")
    keys: SigningKeys = request.app.state.signing
    async with _engine(request).begin() as conn:
        row = await store.rotate_batches(conn, tenant, given.overlap_s, keys.current)
        await note(request, tenant, "webhook.rotated", "batch-secret", overlap_s=given.overlap_s)
    known = {"kind": "batch", "tenant": tenant, "id": None}
    return Secret(secret=_newest(keys, known, row), previous_secret_until=row.previous_until)


@router.get("/{webhook_id}", responses=responses(*_ABOUT_ONE))
async def show_webhook(request: Request, tenant: Tenant, webhook_id: UUID) -> WebhookView:
    """One endpoint, and whether it is well."""
    async with _engine(request).connect() as conn:
        return store.view(await store.one(conn, tenant, webhook_id))


@router.patch("/{webhook_id}", responses=responses(*_CHANGES, "ADDRESS_REFUSED", "STATE_CONFLICT"))
async def change_webhook(request: Request, tenant: Tenant, webhook_id: UUID, given: WebhookChange) -> WebhookView:
    """Change an endpoint, disable it, or let one work again that is disabled. What was not told meanwhile stays so."""
    values = given.model_dump(exclude_none=True)
    if "url" in values:
        outside.check_url(values["url"], request.app.state.open)
    if "events" in values:
        values["events"] = sorted(values["events"])
    changed = sorted(values)
    async with _engine(request).begin() as conn:
        row = await store.change(conn, tenant, webhook_id, values)
        if changed:
            await note(request, tenant, "webhook.changed", webhook_id, changed=changed)
    return store.view(row)


@router.delete("/{webhook_id}", status_code=204, responses=responses(*_CHANGES))
async def delete_webhook(request: Request, tenant: Tenant, webhook_id: UUID) -> Response:
    """Delete an endpoint and the log of what it was told."""
    async with _engine(request).begin() as conn:
        await store.delete(conn, tenant, webhook_id)
        await note(request, tenant, "webhook.deleted", webhook_id)
    return Response(status_code=204)


@router.post("/{webhook_id}/rotate", status_code=201, responses=responses(*_CHANGES, "STATE_CONFLICT"))
async def rotate_secret(request: Request, tenant: Tenant, webhook_id: UUID, given: SecretRotation) -> Secret:
    """A new secret, shown in this answer alone; for `overlap_s` every delivery has two signatures."""
    shown_once(request, "secret")
    keys: SigningKeys = request.app.state.signing
    async with _engine(request).begin() as conn:
        row = await store.rotate(conn, tenant, webhook_id, given.overlap_s, keys.current)
        await note(request, tenant, "webhook.rotated", webhook_id, overlap_s=given.overlap_s)
    return Secret(secret=_newest(keys, row, row), previous_secret_until=row.previous_until)


@router.post("/{webhook_id}/ping", status_code=202, responses=responses(*_REPLAY))
async def ping(request: Request, tenant: Tenant, webhook_id: UUID) -> DeliveryDetail:
    """Tell the endpoint `webhook.ping`, whatever it is subscribed to."""
    engine = _engine(request)
    async with engine.connect() as conn:
        webhook = await store.one(conn, tenant, webhook_id)
    if not webhook.enabled:
        raise error("WEBHOOK_DISABLED")
    async with postgres.transaction(engine) as raw:
        message_id = await telling.ping(raw, webhook_id, f"ping {uuid4()}", clock.now())
        await note(request, tenant, "webhook.pinged", webhook_id)
    async with engine.begin() as conn:
        await store.wake(conn, webhook_id)
        return await store.delivery(conn, webhook_id, message_id)


@router.get("/{webhook_id}/deliveries", responses=responses(*_ABOUT_ONE))
async def list_deliveries(
    request: Request,
    tenant: Tenant,
    webhook_id: UUID,
    status: DeliveryStatus | None = None,
    type: Annotated[str | None, Query(pattern=r"^[a-z.]{1,64}$")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> DeliveryPage:
    """What the endpoint was told, newest first, for 30 days."""
    async with _engine(request).connect() as conn:
        await store.one(conn, tenant, webhook_id)
        return await store.deliveries(conn, webhook_id, status=status, kind=type, limit=limit, cursor=cursor)


@router.get("/{webhook_id}/deliveries/{message_id}", responses=responses(*_ABOUT_ONE))
async def show_delivery(request: Request, tenant: Tenant, webhook_id: UUID, message_id: MessageId) -> DeliveryDetail:
    """One delivery: what is told, and what came of every try. What the endpoint answered is not kept."""
    async with _engine(request).connect() as conn:
        await store.one(conn, tenant, webhook_id)
        return await store.delivery(conn, webhook_id, message_id)


@router.post("/{webhook_id}/deliveries/{message_id}/replay", status_code=202, responses=responses(*_REPLAY))
async def replay_delivery(request: Request, tenant: Tenant, webhook_id: UUID, message_id: MessageId) -> DeliveryView:
    """Tell it again, under the same webhook-id, with the whole schedule before it."""
    async with _engine(request).begin() as conn:
        found = await store.replay(conn, tenant, webhook_id, message_id)
        await note(request, tenant, "webhook.replayed", webhook_id, message=message_id)
    return found


@router.post("/{webhook_id}/replay", status_code=202, responses=responses(*_REPLAY))
async def replay_failed(request: Request, tenant: Tenant, webhook_id: UUID, given: Since) -> Replayed:
    """Tell again everything that has failed since then."""
    async with _engine(request).begin() as conn:
        count = await store.replay_failed(conn, tenant, webhook_id, given.since)
        if count:
            await note(request, tenant, "webhook.replayed", webhook_id, deliveries=count)
    return Replayed(deliveries=count)


def _engine(request: Request) -> AsyncEngine:
    engine: AsyncEngine = request.app.state.engine
    return engine


def _newest(keys: SigningKeys, webhook: Row[Any] | dict[str, Any], secret: Row[Any]) -> str:
    known = webhook if isinstance(webhook, dict) else webhook._mapping
    newest, *_ = ledger.secrets_of(known, secret._mapping, clock.now(), keys.current)
    return newest.shown(keys)
