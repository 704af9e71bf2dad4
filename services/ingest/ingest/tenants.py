"""Tenants and their API keys, as rows. Whose a key is, is answered here and nowhere else.

A key's row outlives the key: it says who made it, when it was last used (to the minute), and who took it back.
Each act is one row's change and, in its transaction, one line of the audit; neither holds the key.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, and_, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import error
from ingest import keys
from ingest.acts import noted
from ingest.grants import Grants
from ingest.tables import KEYS, TENANTS
from runtime import clock
from runtime.keys import GRANT_PREFIX, Asker
from runtime.outbox import Outbox

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # of a tenant
USED_TO_THE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant as its row says. `options` are its uploads' defaults, `limits` those that are not everybody's."""

    name: str
    title: str
    limits: Mapping[str, Any]
    options: Mapping[str, Any]
    created_at: datetime
    created_by: str
    changed_at: datetime
    changed_by: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key as its row says; the key itself is nowhere. `tenant` None: an operator's."""

    id: str
    tenant: str | None
    name: str
    scopes: list[str]
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    replaces: str | None


_OF_TENANT: Final = [TENANTS.c[name] for name in Tenant.__dataclass_fields__]
_OF_KEY: Final = [KEYS.c[name] for name in Key.__dataclass_fields__]


@dataclass(frozen=True, slots=True)
class Tenants:
    """What operators do with them."""

    engine: AsyncEngine
    outbox: Outbox

    async def make(self, name: str, by: str, **about: Any) -> Tenant:
        """Raises STATE_CONFLICT when there is one of this name."""
        rows = insert(TENANTS).values(name=name, created_by=by, changed_by=by, **about)
        async with self.outbox.transaction() as (conn, told):
            found = (await conn.execute(rows.on_conflict_do_nothing().returning(*_OF_TENANT))).one_or_none()
            if found is None:
                raise error("STATE_CONFLICT", "There is a tenant of this name.")
            told.append(noted(by, "tenant.made", name, name, {"set": sorted(about)}))
        return Tenant(**found._mapping)

    async def change(self, name: str, by: str, **about: Any) -> Tenant:
        """Raises NOT_FOUND."""
        change = update(TENANTS).where(TENANTS.c.name == name).values(changed_by=by, changed_at=clock.now(), **about)
        async with self.outbox.transaction() as (conn, told):
            found = (await conn.execute(change.returning(*_OF_TENANT))).one_or_none()
            if found is None:
                raise error("NOT_FOUND")
            told.append(noted(by, "tenant.changed", name, name, {"changed": sorted(about)}))
        return Tenant(**found._mapping)

    async def page(self, limit: int, after: str) -> list[Tenant]:
        """By name, those behind `after`."""
        query = select(*_OF_TENANT).where(TENANTS.c.name > after).order_by(TENANTS.c.name).limit(limit)
        async with self.engine.connect() as conn:
            return [Tenant(**row._mapping) for row in await conn.execute(query)]

    async def one(self, name: str) -> Tenant:
        """Raises NOT_FOUND."""
        async with self.engine.connect() as conn:
            found = (await conn.execute(select(*_OF_TENANT).where(TENANTS.c.name == name))).one_or_none()
        if found is None:
            raise error("NOT_FOUND")
        return Tenant(**found._mapping)

    async def settings(self, name: str) -> Mapping[str, Any] | None:
        """`limits` and `options` of a tenant; None of one without a row."""
        async with self.engine.connect() as conn:
            query = select(TENANTS.c.limits, TENANTS.c.options).where(TENANTS.c.name == name)
            row = (await conn.execute(query)).one_or_none()
        return row._asdict() if row else None

    # -- keys ----------------------------------------------------------------------------------

    async def make_key(
        self, tenant: str | None, by: str, name: str, scopes: Sequence[str], expires_at: datetime | None
    ) -> tuple[Key, str]:
        """A row, and the key that is never seen again. Raises NOT_FOUND when there is no such tenant."""
        if tenant is not None:
            await self.one(tenant)
        async with self.outbox.transaction() as (conn, told):
            made, key = await _insert(
                conn, tenant=tenant, created_by=by, name=name, scopes=sorted(set(scopes)), expires_at=expires_at
            )
            told.append(
                noted(by, "key.made", made.id, tenant, {"scopes": made.scopes, "until": _until(made.expires_at)})
            )
        return made, key

    async def keys(self, tenant: str | None) -> list[Key]:
        """Newest first. Raises NOT_FOUND when there is no such tenant."""
        if tenant is not None:
            await self.one(tenant)
        query = select(*_OF_KEY).where(_of(tenant)).order_by(KEYS.c.created_at.desc(), KEYS.c.id)
        async with self.engine.connect() as conn:
            return [Key(**row._mapping) for row in await conn.execute(query)]

    async def rotate(self, tenant: str | None, id_: str, by: str, overlap: timedelta) -> tuple[Key, str]:
        """A new key with the same rights and the same time to live; the old one works on for `overlap`.

        Raises NOT_FOUND, STATE_CONFLICT.
        """
        now = clock.now()
        async with self.outbox.transaction() as (conn, told):
            query = select(*_OF_KEY).where(_of(tenant), KEYS.c.id == id_).with_for_update()
            found = (await conn.execute(query)).one_or_none()
            if found is None:
                raise error("NOT_FOUND")
            if found.revoked_at or (found.expires_at and found.expires_at <= now):
                raise error("STATE_CONFLICT", "A key that does not work any more cannot be rotated.")
            ends = min(filter(None, (found.expires_at, now + overlap)))
            await conn.execute(update(KEYS).where(KEYS.c.id == id_).values(expires_at=ends))
            lives = found.expires_at - found.created_at if found.expires_at else None
            made, key = await _insert(
                conn,
                tenant=tenant,
                created_by=by,
                name=found.name,
                scopes=found.scopes,
                expires_at=now + lives if lives else None,
                replaces=id_,
            )
            told.append(
                noted(by, "key.rotated", id_, tenant, {"to": made.id, "scopes": made.scopes, "until": _until(ends)})
            )
        return made, key

    async def revoke(self, tenant: str | None, id_: str, by: str) -> Key:
        """Take a key back; one that was taken back stays as it is. Raises NOT_FOUND."""
        mine = and_(_of(tenant), KEYS.c.id == id_)
        working = update(KEYS).where(mine, KEYS.c.revoked_at.is_(None)).values(revoked_at=clock.now(), revoked_by=by)
        async with self.outbox.transaction() as (conn, told):
            if (await conn.execute(working)).rowcount:
                told.append(noted(by, "key.revoked", id_, tenant))
            found = (await conn.execute(select(*_OF_KEY).where(mine))).one_or_none()
        if found is None:
            raise error("NOT_FOUND")
        return Key(**found._mapping)

    async def asker(self, key: str) -> Asker | None:
        """Whose key this is, if it works; and that it was used. Raises DATABASE_UNAVAILABLE."""
        given = keys.read(key)
        if given is None:
            return None
        async with self.engine.begin() as conn:
            query = select(KEYS.c.sha256, *_OF_KEY).where(KEYS.c.id == given.id, KEYS.c.revoked_at.is_(None))
            row = (await conn.execute(query)).one_or_none()
            if row is None or not hmac.compare_digest(row.sha256, given.sha256):
                return None
            await conn.execute(_used(given.id))
        return _asker(row)


@dataclass(frozen=True, slots=True)
class Askers:
    """Who asks, by key or by upload grant."""

    tenants: Tenants
    grants: Grants

    async def __call__(self, key: str) -> Asker | None:
        """Raises DATABASE_UNAVAILABLE."""
        return await (self.grants if key.startswith(GRANT_PREFIX) else self.tenants).asker(key)


async def _insert(conn: AsyncConnection, **values: Any) -> tuple[Key, str]:
    key = keys.made()
    given = keys.read(key)
    assert given is not None
    row = insert(KEYS).values(id=given.id, sha256=given.sha256, **values).returning(*_OF_KEY)
    return Key(**(await conn.execute(row)).one()._mapping), key


def _until(ends: datetime | None) -> str | None:
    return ends.isoformat() if ends else None


def _of(tenant: str | None) -> Any:
    return KEYS.c.tenant == tenant if tenant is not None else KEYS.c.tenant.is_(None)


def _used(id_: str) -> Any:
    now, last = clock.now(), KEYS.c.last_used_at
    return update(KEYS).where(KEYS.c.id == id_, or_(last.is_(None), last < now - USED_TO_THE)).values(last_used_at=now)


def _asker(row: Row[Any]) -> Asker:
    name = row.tenant if row.tenant is not None else row.name
    return Asker(name, row.tenant, frozenset(row.scopes), row.id, None, row.expires_at)
