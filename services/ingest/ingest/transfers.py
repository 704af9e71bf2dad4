"""Files that come in pieces, over several requests and whichever replicas: what is known of each is a row.

The law of this file:

- One request at a time works on a transfer: it has the lease, and everything that it keeps names it. Who dies loses
  the lease after LEASE_S; who was too slow and was overtaken keeps nothing more.
- `offset` bytes are safe in storage, and no byte is promised before it is. The object's key is the upload's; before it
  is whole, the store knows it under `parts_id`, and bytes that are too few for a part lie in an object of their own.
- A transfer is open, then complete (an upload, or a part of one), refused or expired, and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Update, func, select, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import error
from ingest.gate import Uploader
from ingest.tables import TRANSFERS
from ingest.uploads import UploadAnswer, key_of
from runtime import clock

LEASE_S: Final = 5.0  # a client tries again for ten: it must find the lease free when its server was killed
RENEW_S: Final = 1.5
FOLDER: Final = "transfers/"
PARTIAL: Final = "partial"
_C: Final = TRANSFERS.c


@dataclass(frozen=True, slots=True)
class Transfer:
    """A row; sizes in bytes. `concat` is tus's: `partial`, or `final;` and of what."""

    id: UUID
    tenant: str
    way: str
    fields: dict[str, str]
    size: int
    expires_at: datetime
    offset: int = 0
    parts_id: str | None = None
    part_bytes: int | None = None
    tags: tuple[str, ...] = ()
    rest_key: str | None = None
    metadata: str | None = None
    concat: str | None = None
    state: str = "open"
    code: str | None = None
    upload_id: UUID | None = None  # its own, or that of the same content which its batch had
    job_id: UUID | None = None
    grant_id: UUID | None = None  # of the upload grant that brings it

    @property
    def key(self) -> str:
        """Where its bytes are an object, once they are all there."""
        return f"{FOLDER}{self.id}/whole" if self.concat == PARTIAL else key_of(self.id)

    def rest(self) -> str:
        """A new place for bytes that are too few for a part."""
        return f"{FOLDER}{self.id}/{uuid4()}"

    def usable(self) -> Transfer:
        """Itself. Raises UPLOAD_EXPIRED, or why it was refused."""
        if self.state == "expired" or (self.state == "open" and self.expires_at <= clock.now()):
            raise error("UPLOAD_EXPIRED")
        if self.state == "refused":
            raise error(self.code or "INTERNAL")
        return self


_NAMES: Final = tuple(one.name for one in fields(Transfer))


@dataclass(frozen=True, slots=True)
class Transfers:
    """The transfers of all tenants. `lives_s`: how long one may rest."""

    engine: AsyncEngine
    lives_s: int

    def until(self) -> datetime:
        """When a transfer that moves now expires."""
        return clock.now() + timedelta(seconds=self.lives_s)

    async def begin(self, transfer: Transfer) -> None:
        """Keep a new one."""
        async with self.engine.begin() as conn:
            await add(conn, transfer)

    async def find(self, who: Uploader, transfer_id: UUID, way: str) -> Transfer:
        """This tenant's; a grant finds what it began itself. Raises NOT_FOUND."""
        which = (_C.id == transfer_id) & (_C.tenant == who.tenant) & (_C.way == way)
        which &= _C.grant_id == who.grant_id if who.grant else true()
        async with self.engine.connect() as conn:
            return transfer_of((await conn.execute(select(TRANSFERS).where(which))).one_or_none())

    async def of_final(self, tenant: str, concat: str) -> Transfer | None:
        """What was made of these partial ones already."""
        which = (_C.tenant == tenant) & (_C.concat == concat)
        async with self.engine.connect() as conn:
            row = (await conn.execute(select(TRANSFERS).where(which))).one_or_none()
        return transfer_of(row) if row else None

    async def lease(self, transfer: Transfer) -> UUID:
        """Take the lease of an open one that is as it was found. Raises UPLOAD_LOCKED."""
        token = uuid4()
        free = (_C.leased_until.is_(None) | (_C.leased_until < func.now())) & (_C.offset == transfer.offset)
        which = (_C.id == transfer.id) & (_C.state == transfer.state) & free
        if not await self._changed(update(TRANSFERS).where(which).values(lease=token, leased_until=_lease())):
            raise error("UPLOAD_LOCKED")
        return token

    async def keep(self, transfer: Transfer, token: UUID) -> None:
        """Keep how far it has come, and go on. Raises UPLOAD_LOCKED when another was given the lease."""
        known = {name: getattr(transfer, name) for name in ("offset", "parts_id", "rest_key")}
        change = _mine(transfer.id, token).values(
            **known, tags=list(transfer.tags), expires_at=self.until(), leased_until=_lease()
        )
        if not await self._changed(change):
            raise error("UPLOAD_LOCKED")

    async def renew(self, transfer: Transfer, token: UUID) -> None:
        """Say that its request still works. Raises UPLOAD_LOCKED."""
        if not await self._changed(_mine(transfer.id, token).values(leased_until=_lease())):
            raise error("UPLOAD_LOCKED")

    async def release(self, transfer: Transfer, token: UUID) -> None:
        """Let another request go on with it."""
        await self._changed(_mine(transfer.id, token).values(lease=None, leased_until=None))

    async def refuse(self, transfer: Transfer, token: UUID, code: str) -> None:
        """Keep why nothing becomes of it."""
        await self._changed(_mine(transfer.id, token).values(state="refused", code=code, lease=None, leased_until=None))

    async def forget(self, transfer: Transfer, token: UUID) -> None:
        """Drop the row."""
        async with self.engine.begin() as conn:
            await conn.execute(TRANSFERS.delete().where(_C.id == transfer.id, _C.lease == token))

    async def _changed(self, change: Update) -> bool:
        async with self.engine.begin() as conn:
            return (await conn.execute(change)).rowcount == 1


async def add(conn: AsyncConnection, transfer: Transfer) -> None:
    """Insert one."""
    values = {name: getattr(transfer, name) for name in _NAMES}
    await conn.execute(insert(TRANSFERS).values(**values | {"tags": list(transfer.tags)}))


async def complete(conn: AsyncConnection, transfer: Transfer, token: UUID, answer: UploadAnswer | None) -> None:
    """It has become an upload, or a part of one. Raises UPLOAD_LOCKED when another was given the lease."""
    done = await conn.execute(
        _mine(transfer.id, token).values(
            state="complete",
            upload_id=answer and answer.upload_id,
            job_id=answer and answer.job_id,
            offset=transfer.size,
            rest_key=None,
            lease=None,
            leased_until=None,
        )
    )
    if done.rowcount != 1:
        raise error("UPLOAD_LOCKED")


async def spend(conn: AsyncConnection, ids: Sequence[UUID]) -> None:
    """These partial ones are in a final one: the sweep takes their bytes."""
    await conn.execute(
        update(TRANSFERS)
        .where(_C.id.in_(ids))
        .values(state="expired", expires_at=func.now(), lease=None, leased_until=None)
    )


def _mine(transfer_id: UUID, token: UUID) -> Update:
    return update(TRANSFERS).where(_C.id == transfer_id, _C.lease == token)


def _lease() -> Any:
    return func.now() + timedelta(seconds=LEASE_S)


def transfer_of(row: Any) -> Transfer:
    """The transfer of a row. Raises NOT_FOUND for none."""
    if row is None:
        raise error("NOT_FOUND")
    return Transfer(**{name: getattr(row, name) for name in _NAMES} | {"tags": tuple(row.tags)})
