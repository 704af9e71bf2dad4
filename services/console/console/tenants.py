"""Tenants and API keys, for operators: what there is, and what is made, replaced, taken back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from console.client import Client, quoted
from console.jobs import Read

PATH: Final = "/v1/tenants"
OPERATORS: Final = "-"  # in a tenant's stead


class Tenant(Read):
    """A tenant."""

    name: str
    title: str = ""
    created_at: datetime
    created_by: str = ""


class Key(Read):
    """A key, without what makes it one; `key` is there where it was made just now."""

    id: str
    prefix: str
    tenant: str | None
    name: str
    scopes: tuple[str, ...]
    state: str
    created_at: datetime
    created_by: str = ""
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    key: str | None = None


async def every(api: Client) -> list[Tenant]:
    """All tenants, by name."""
    return [Tenant.model_validate(row) for row in await api.listed(PATH, {}, None)]


async def make(api: Client, name: str, about: Mapping[str, Any]) -> Tenant:
    """A new tenant."""
    return Tenant.model_validate(await api.post(PATH, {"name": name, **about}))


async def change(api: Client, name: str, about: Mapping[str, Any]) -> Tenant:
    """Change what is named."""
    return Tenant.model_validate(await api.patch(f"{PATH}/{quoted(name)}", about))


async def keys(api: Client, owner: str) -> list[Key]:
    """The keys of a tenant, or of operators, newest first."""
    return [Key.model_validate(row) for row in (await api.get(_keys(owner)))["items"]]


async def make_key(api: Client, owner: str, about: Mapping[str, Any]) -> Key:
    """A new key; its `key` is never shown again."""
    return Key.model_validate(await api.post(_keys(owner), about))


async def rotate(api: Client, owner: str, id_: str, about: Mapping[str, Any]) -> Key:
    """A new key in the stead of one."""
    return Key.model_validate(await api.post(f"{_keys(owner)}/{quoted(id_)}/rotate", about))


async def revoke(api: Client, owner: str, id_: str) -> Key:
    """Take a key back."""
    return Key.model_validate(await api.post(f"{_keys(owner)}/{quoted(id_)}/revoke", {}))


def _keys(owner: str) -> str:
    return f"{PATH}/{quoted(owner)}/keys"
