"""Webhooks: endpoints of a product that are told what became of its jobs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from console.client import Client
from console.jobs import Read

PATH = "/v1/webhooks"


class Webhook(Read):
    """An endpoint. `secret` is there when it was made just now."""

    id: UUID
    kind: str = "own"
    url: str
    events: tuple[str, ...] = ()
    enabled: bool = True
    disabled_code: str | None = None
    failing_since: datetime | None = None
    created_at: datetime
    secret: str | None = None


class Delivery(Read):
    """What an endpoint was told once; `id` is the webhook-id."""

    id: str
    type: str
    status: str
    tries: int = 0
    due_at: datetime | None = None
    created_at: datetime


async def create(api: Client, url: str, events: Sequence[str]) -> Webhook:
    """A new endpoint with its secret. Raises Refused (ADDRESS_REFUSED), Unreachable."""
    asked: dict[str, Any] = {"url": url} | ({"events": list(events)} if events else {})
    return Webhook.model_validate(await api.post(PATH, asked))


async def newest(api: Client, limit: int) -> list[Webhook]:
    """The newest endpoints."""
    return [Webhook.model_validate(row) for row in await api.listed(PATH, {}, limit)]


async def enable(api: Client, id_: UUID, enabled: bool) -> Webhook:
    """Let an endpoint work, or not. Raises Refused (NOT_FOUND), Unreachable."""
    return Webhook.model_validate(await api.patch(f"{PATH}/{id_}", {"enabled": enabled}))


async def delete(api: Client, id_: UUID) -> None:
    """Delete an endpoint with its log. Raises Refused (NOT_FOUND), Unreachable."""
    await api.delete(f"{PATH}/{id_}")


async def rotate(api: Client, id_: UUID, overlap_s: int) -> str:
    """Its next secret; the one before signs beside it for so long. Raises Refused, Unreachable."""
    return str((await api.post(f"{PATH}/{id_}/rotate", {"overlap_s": overlap_s}))["secret"])


async def ping(api: Client, id_: UUID) -> Delivery:
    """Tell it something that means nothing. Raises Refused (WEBHOOK_DISABLED), Unreachable."""
    return Delivery.model_validate(await api.post(f"{PATH}/{id_}/ping", {}))


async def deliveries(api: Client, id_: UUID, status: str | None, limit: int) -> list[Delivery]:
    """What it was told, newest first. Raises Refused, Unreachable."""
    query = {"status": status} if status else {}
    return [Delivery.model_validate(row) for row in await api.listed(f"{PATH}/{id_}/deliveries", query, limit)]


async def replay(api: Client, id_: UUID, message: str) -> Delivery:
    """Tell it again. Raises Refused, Unreachable."""
    return Delivery.model_validate(await api.post(f"{PATH}/{id_}/deliveries/{message}/replay", {}))


async def replay_since(api: Client, id_: UUID, since: datetime) -> int:
    """Tell again what has failed since then; how many. Raises Refused, Unreachable."""
    return int((await api.post(f"{PATH}/{id_}/replay", {"since": since.isoformat()}))["deliveries"])
