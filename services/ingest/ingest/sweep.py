"""What nobody comes back for is removed: transfers that rested too long, and objects that no row refers to.

    transfer                                  its bytes               its row
    open, or partial and in no upload         when it expires         KEPT later: until then it says that it expired
    complete, refused                         are an upload, or gone  when it expires
    parts and objects without a row           ORPHANED after          -
                                              they were written

Replicas share expired transfers (SKIP LOCKED); one at a time looks for orphans, which it holds a lock of the database
for: it is free again when its process dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ingest.finishing import drop
from ingest.tables import TRANSFERS, UPLOADS
from ingest.transfers import FOLDER, PARTIAL, transfer_of
from runtime import clock, logs
from runtime.objects import Objects

KEPT: Final = timedelta(days=7)
ORPHANED: Final = timedelta(days=1)  # no request lasts so long: whoever wrote it is gone
EXPIRED_EVERY_S: Final = 60.0
ORPHANS_EVERY_S: Final = 3600.0
ROWS: Final = 100  # whose bytes are dropped in one transaction
ORIGINALS: Final = ("uploads/", "originals/")  # as they came, and sealed
_LOCK: Final = func.hashtextextended("ingest.sweep", 0)
_C: Final = TRANSFERS.c
log = logs.get()


@dataclass(frozen=True, slots=True)
class Sweep:
    """The use case."""

    engine: AsyncEngine
    objects: Objects

    async def expired(self) -> int:
        """Drop the bytes of transfers that rested too long, and rows whose time is over. Returns how many transfers."""
        over, unused = _C.expires_at <= func.now(), (_C.concat == PARTIAL) & (_C.upload_id.is_(None))
        with_bytes = or_(
            _C.state == "open", and_(_C.state == "complete", unused), and_(_C.state == "expired", _C.offset > 0)
        )
        free = _C.leased_until.is_(None) | (_C.leased_until < func.now())
        async with self.engine.begin() as conn:
            rows = await conn.execute(
                select(TRANSFERS).where(over, with_bytes, free).limit(ROWS).with_for_update(skip_locked=True)
            )
            found = [transfer_of(row) for row in rows]
            for transfer in found:
                await drop(self.objects, transfer)
            gone = {"state": "expired", "offset": 0, "parts_id": None, "rest_key": None, "tags": []}
            which = _C.id.in_([one.id for one in found])
            await conn.execute(update(TRANSFERS).where(which).values(**gone, lease=None, leased_until=None))
            told = and_(_C.state == "expired", _C.offset == 0, _C.expires_at <= func.now() - KEPT)
            ended = and_(over, or_(_C.upload_id.is_not(None), _C.state == "refused"))
            await conn.execute(delete(TRANSFERS).where(or_(told, ended)))
        return len(found)

    async def orphans(self, before: datetime) -> int:
        """Remove what was written `before` and belongs to no row. Returns how many; 0 when another replica looks."""
        async with self.engine.begin() as conn:
            if not await conn.scalar(select(func.pg_try_advisory_xact_lock(_LOCK))):
                return 0
            removed = 0
            for folder in (*ORIGINALS, FOLDER):
                removed += await self._unfinished(conn, folder, before)
                after, more = "", True
                while more:
                    keys, after = await self.objects.aged(folder, before, after)
                    more = bool(after)
                    for key in await _unknown(conn, folder, keys):
                        await self.objects.remove(key)
                        removed += 1
        return removed

    async def _unfinished(self, conn: AsyncConnection, folder: str, before: datetime) -> int:
        begun = [(key, id_) for key, id_, since in await self.objects.unfinished(folder) if since < before]
        rows = await conn.execute(select(_C.parts_id).where(_C.parts_id.in_([id_ for _, id_ in begun])))
        known = set(rows.scalars())
        for key, parts_id in begun:
            if parts_id not in known:
                await self.objects.abandon_parts(key, parts_id)
        return len(begun) - len(known)

    async def forever(self) -> None:
        """At a calm pace, until cancelled."""
        now = asyncio.get_running_loop().time
        next_orphans = now() + EXPIRED_EVERY_S  # a fleet that restarts has other things to do first
        while True:
            try:
                while swept := await self.expired():
                    log.info("sweep.expired", transfers=swept)
                if now() >= next_orphans:
                    next_orphans = now() + ORPHANS_EVERY_S
                    if removed := await self.orphans(clock.now() - ORPHANED):
                        log.warning("sweep.orphans", removed=removed)
            except Exception as problem:
                log.warning("sweep.failed", error=type(problem).__name__)
            await asyncio.sleep(EXPIRED_EVERY_S)


async def _unknown(conn: AsyncConnection, folder: str, keys: Sequence[str]) -> list[str]:
    """Those keys that no row refers to."""
    if not keys:
        return []
    if folder == FOLDER:
        ids = {key: _id(key) for key in keys}
        wanted = [id_ for id_ in ids.values() if id_]
        rows = await conn.execute(select(_C.id).where(_C.id.in_(wanted), _C.state.in_(("open", "complete"))))
        living = set(rows.scalars())
        return [key for key, id_ in ids.items() if id_ not in living]
    known = set((await conn.execute(select(UPLOADS.c.key).where(UPLOADS.c.key.in_(keys)))).scalars())
    by_id = {key: _id(key) for key in keys if key not in known}
    whole = select(_C.id).where(_C.id.in_([id_ for id_ in by_id.values() if id_]), _C.state == "open")
    finishing = set((await conn.execute(whole)).scalars())  # whole already, and not yet an upload
    return [key for key, id_ in by_id.items() if id_ not in finishing]


def _id(key: str) -> UUID | None:
    try:
        return UUID(key.split("/")[1])
    except ValueError:
        return None
