"""Tenants and keys as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from console.rendering import grid, plain, when
from console.tenants import Key, Tenant

STATES: Final = {"working": "green", "expired": "yellow", "revoked": "red"}


def tenant_list(tenants: Sequence[Tenant], now: datetime) -> RenderableType:
    """One line per tenant."""
    table = grid("tenant", "title", "made", "by")
    for one in tenants:
        table.add_row(plain(one.name), plain(one.title), when(one.created_at, now), plain(one.created_by))
    return table if tenants else Text("No tenants.", "dim")


def key_list(keys: Sequence[Key], now: datetime) -> RenderableType:
    """One line per key: who has it, what it may do, and whether it works."""
    table = grid("id", "name", "scopes", "", "made", "last used", "until")
    for one in keys:
        table.add_row(
            plain(one.id),
            plain(one.name),
            plain(" ".join(one.scopes)),
            Text(plain(one.state), STATES.get(one.state, "")),
            when(one.created_at, now),
            when(one.last_used_at, now) if one.last_used_at else "–",
            when(one.expires_at, now) if one.expires_at else "–",
        )
    return table if keys else Text("No keys.", "dim")
