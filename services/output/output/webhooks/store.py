"""Reads and changes of a tenant's endpoints and of what they are told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row, func, insert, null, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import error
from output.store import cursor_of, read_cursor, read_place
from output.tables import ATTEMPTS, BATCH_SECRETS, DELIVERIES, WEBHOOKS
from output.webhooks.telling import NOTIFY
from output.webhooks.views import DeliveryDetail, DeliveryPage, DeliveryView, TryView, WebhookPage, WebhookView

OWN_MOST: Final = 50  # endpoints of a tenant
FAILED: Final = "failed"
_AGAIN: Final = {"status": "pending", "tries": 0, "due_at": func.now(), "ended_at": null()}
_AWAKE: Final = {"rest_until": null()}


def view(row: Row[Any]) -> WebhookView:
    """A row as its tenant sees it."""
    known = {name: getattr(row, name) for name in WebhookView.model_fields if name != "previous_secret_until"}
    return WebhookView(**known, previous_secret_until=row.previous_until)


async def make(
    conn: AsyncConnection, tenant: str, url: str, events: Sequence[str], description: str, key_id: str
) -> Row[Any]:
    """A new endpoint. Raises STATE_CONFLICT when the tenant has as many as it may."""
    # One at a time, or several at once would pass the limit together.
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"webhooks {tenant}", 0))))
    count = select(func.count()).where(WEBHOOKS.c.tenant == tenant, WEBHOOKS.c.kind == "own")
    if (await conn.execute(count)).scalar_one() >= OWN_MOST:
        raise error("STATE_CONFLICT", f"A tenant may have {OWN_MOST} webhooks: delete one first.")
    given = {"id": uuid4(), "tenant": tenant, "kind": "own", "url": url, "events": sorted(events)}
    made = insert(WEBHOOKS).values(**given, description=description, key_id=key_id).returning(WEBHOOKS)
    row: Row[Any] = (await conn.execute(made)).one()
    return row


async def page(conn: AsyncConnection, tenant: str, limit: int, cursor: str | None) -> WebhookPage:
    """A tenant's endpoints, newest first. Raises REQUEST_INVALID."""
    query = select(WEBHOOKS).where(WEBHOOKS.c.tenant == tenant)
    if cursor:
        query = query.where(tuple_(WEBHOOKS.c.created_at, WEBHOOKS.c.id) < tuple_(*read_cursor(cursor, read_place)))
    query = query.order_by(WEBHOOKS.c.created_at.desc(), WEBHOOKS.c.id.desc()).limit(limit + 1)
    rows = (await conn.execute(query)).all()
    more = cursor_of(rows[limit - 1].created_at.isoformat(), str(rows[limit - 1].id)) if len(rows) > limit else None
    return WebhookPage(items=[view(row) for row in rows[:limit]], next_cursor=more)


async def one(conn: AsyncConnection, tenant: str, id_: UUID, *, lock: bool = False) -> Row[Any]:
    """An endpoint, `lock`ed before it or its deliveries are changed. Raises NOT_FOUND."""
    query = select(WEBHOOKS).where(WEBHOOKS.c.id == id_, WEBHOOKS.c.tenant == tenant)
    row = (await conn.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise error("NOT_FOUND")
    return row


async def change(conn: AsyncConnection, tenant: str, id_: UUID, values: dict[str, Any]) -> Row[Any]:
    """Change an endpoint. Raises NOT_FOUND."""
    found = await one(conn, tenant, id_, lock=True)
    if (enabled := values.get("enabled")) is not None and enabled != found.enabled:
        values |= {"disabled_code": None, "disabled_at": None if enabled else func.now()}
        values |= {"failing_since": None, "failures": 0, "rest_until": None}
        if not enabled:
            await _give_up(conn, id_)
    if not values:
        return found
    changed = update(WEBHOOKS).where(WEBHOOKS.c.id == id_).values(values).returning(WEBHOOKS)
    row: Row[Any] = (await conn.execute(changed)).one()
    return row


async def _give_up(conn: AsyncConnection, id_: UUID) -> None:
    pending = update(DELIVERIES).where(DELIVERIES.c.webhook_id == id_, DELIVERIES.c.status == "pending")
    await conn.execute(pending.values(status=FAILED, due_at=None, ended_at=func.now()))


async def delete(conn: AsyncConnection, tenant: str, id_: UUID) -> None:
    """Delete an endpoint with all that it was told. Raises NOT_FOUND."""
    await one(conn, tenant, id_, lock=True)
    await conn.execute(WEBHOOKS.delete().where(WEBHOOKS.c.id == id_))


async def rotate(conn: AsyncConnection, tenant: str, id_: UUID, overlap_s: int, key_id: str) -> Row[Any]:
    """The next secret of an endpoint. Raises NOT_FOUND, and STATE_CONFLICT for one that a batch named."""
    found = await one(conn, tenant, id_, lock=True)
    if found.kind == "batch":
        raise error("STATE_CONFLICT", "URLs of batches share one secret: rotate that.")
    change = update(WEBHOOKS).where(WEBHOOKS.c.id == id_).values(_rotated(WEBHOOKS, overlap_s, key_id))
    row: Row[Any] = (await conn.execute(change.returning(WEBHOOKS))).one()
    return row


async def rotate_batches(conn: AsyncConnection, tenant: str, overlap_s: int, key_id: str) -> Row[Any]:
    """The secret of all URLs that a tenant's batches name: the first time the one that signs already, then the next."""
    made = upsert(BATCH_SECRETS).values(tenant=tenant, key_id=key_id)
    made = made.on_conflict_do_update(index_elements=["tenant"], set_=_rotated(BATCH_SECRETS, overlap_s, key_id))
    row: Row[Any] = (await conn.execute(made.returning(BATCH_SECRETS))).one()
    return row


def _rotated(table: Any, overlap_s: int, key_id: str) -> dict[str, Any]:
    return {
        "previous_key_id": table.c.key_id,
        "previous_version": table.c.secret_version,
        "previous_until": func.now() + timedelta(seconds=overlap_s),
        "key_id": key_id,
        "secret_version": table.c.secret_version + 1,
    }


# -- what it was told ------------------------------------------------------------------------


async def deliveries(
    conn: AsyncConnection, id_: UUID, *, status: str | None, kind: str | None, limit: int, cursor: str | None
) -> DeliveryPage:
    """What an endpoint was told, newest first. Raises REQUEST_INVALID."""
    query = select(DELIVERIES).where(DELIVERIES.c.webhook_id == id_)
    if status:
        query = query.where(DELIVERIES.c.status == status)
    if kind:
        query = query.where(DELIVERIES.c.type == kind)
    if cursor:
        query = query.where(DELIVERIES.c.n < read_cursor(cursor, _read_n))
    rows = (await conn.execute(query.order_by(DELIVERIES.c.n.desc()).limit(limit + 1))).all()
    more = cursor_of(str(rows[limit - 1].n)) if len(rows) > limit else None
    return DeliveryPage(items=[DeliveryView(**_delivery(row)) for row in rows[:limit]], next_cursor=more)


async def delivery(conn: AsyncConnection, id_: UUID, message_id: str) -> DeliveryDetail:
    """One delivery with its tries. Raises NOT_FOUND."""
    query = select(DELIVERIES).where(DELIVERIES.c.webhook_id == id_, DELIVERIES.c.message_id == message_id)
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        raise error("NOT_FOUND")
    tries = select(ATTEMPTS).where(ATTEMPTS.c.webhook_id == id_, ATTEMPTS.c.message_id == message_id)
    attempts = [
        TryView(at=one.at, seconds=one.seconds, status_code=one.status_code, code=one.code)
        for one in await conn.execute(tries.order_by(ATTEMPTS.c.id))
    ]
    return DeliveryDetail(**_delivery(row), body=json.loads(row.body), attempts=attempts)


def _delivery(row: Row[Any]) -> dict[str, Any]:
    known = {name: getattr(row, name) for name in DeliveryView.model_fields if name != "id"}
    return {"id": row.message_id, **known}


async def replay(conn: AsyncConnection, tenant: str, id_: UUID, message_id: str) -> DeliveryView:
    """Tell it again, now, under the same id. Raises NOT_FOUND, WEBHOOK_DISABLED."""
    webhook = await one(conn, tenant, id_, lock=True)
    _check_enabled(webhook)
    which = (DELIVERIES.c.webhook_id == webhook.id, DELIVERIES.c.message_id == message_id)
    row = (await conn.execute(update(DELIVERIES).where(*which).values(_AGAIN).returning(DELIVERIES))).one_or_none()
    if row is None:
        raise error("NOT_FOUND")
    await wake(conn, webhook.id)
    return DeliveryView(**_delivery(row))


async def replay_failed(conn: AsyncConnection, tenant: str, id_: UUID, since: datetime) -> int:
    """Tell again all that has failed of what was told since; how many. Raises NOT_FOUND, WEBHOOK_DISABLED."""
    webhook = await one(conn, tenant, id_, lock=True)
    _check_enabled(webhook)
    failed = (DELIVERIES.c.webhook_id == webhook.id, DELIVERIES.c.status == FAILED, DELIVERIES.c.created_at >= since)
    done = await conn.execute(update(DELIVERIES).where(*failed).values(_AGAIN))
    await wake(conn, webhook.id)
    return done.rowcount


async def wake(conn: AsyncConnection, id_: UUID) -> None:
    """Somebody asks: an endpoint that rests is tried now."""
    await conn.execute(update(WEBHOOKS).where(WEBHOOKS.c.id == id_).values(_AWAKE))
    await conn.execute(text("SELECT pg_notify(:channel, '')"), {"channel": NOTIFY})


def _check_enabled(webhook: Row[Any]) -> None:
    if not webhook.enabled:
        raise error("WEBHOOK_DISABLED", "The endpoint is disabled: enable it first.")


def _read_n(n: str) -> int:
    return min(int(n), 2**63 - 1)
