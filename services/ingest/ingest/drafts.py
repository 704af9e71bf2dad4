"""Drafts of styles: photos before and after an edit, brought one by one by whichever way, until the style is learnt.

The law of this file:

- A photo of a draft is an upload without a job. It and its name are there until the draft is trained, discarded or
  expired, and then they are not: a name is people's text, it stands in a row of its own and nowhere else.
- A draft takes photos while it is open. Who trains it claims it for a while; who dies meanwhile loses the claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import error
from contracts.uploads import Lane, UploadReceived
from ingest.acts import SOURCE, noted
from ingest.intake import DECODABLE
from ingest.options import Options
from ingest.pairing import Photo, Role
from ingest.seals import FOLDER as SEALED
from ingest.tables import DRAFT_PHOTOS, DRAFTS, UPLOADS
from runtime import clock, logs
from runtime.objects import Objects
from runtime.outbox import Outbox

PHOTOS_MAX: Final = 400  # the worker learns from at most 200 pairs
BYTES_MAX: Final = 2**31 - 2**26  # of all together: their archive must not need the format for larger ones
LIVES: Final = timedelta(days=7)
CLAIM: Final = timedelta(minutes=10)  # a whole archive is packed in less than two
EXPIRE_EVERY_S: Final = 600.0
log = logs.get()


@dataclass(frozen=True, slots=True)
class Draft:
    """A style that is to be learnt. `job_id` is there once it is `trained`."""

    id: UUID
    tenant: str
    name: str
    lane: Lane | None
    state: Literal["open", "packing", "trained"]
    expires_at: datetime
    job_id: UUID | None = None
    upload_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Half:
    """A photo of a draft, with what is stored of it."""

    photo: Photo
    key: str
    sha256: str
    size: int
    media_type: str
    looked: bool  # whether its time was looked for


@dataclass(frozen=True, slots=True)
class Drafts:
    """The drafts of all tenants. `bytes_max`: what one upload may have, and so all photos of one together."""

    engine: AsyncEngine
    outbox: Outbox
    objects: Objects
    bytes_max: int

    async def make(self, tenant: str, name: str, lane: Lane | None) -> Draft:
        """A new, open one."""
        made = Draft(uuid4(), tenant, name, lane, "open", clock.now() + LIVES)
        async with self.outbox.transaction() as (conn, told):
            await conn.execute(
                insert(DRAFTS).values(
                    id=made.id, tenant=tenant, name=name, lane=lane, state=made.state, expires_at=made.expires_at
                )
            )
            told.append(noted(f"tenant:{tenant}", "draft.made", str(made.id), tenant))
        return made

    async def find(self, tenant: str, id_: UUID) -> tuple[Draft, list[Half]]:
        """This tenant's, with its photos. Raises NOT_FOUND."""
        async with self.engine.connect() as conn:
            row = (await conn.execute(select(DRAFTS).where(_mine(tenant, id_)))).one_or_none()
            if row is None:
                raise error("NOT_FOUND")
            return _draft(row), await _halves(conn, id_)

    async def check(self, tenant: str, options: Options) -> None:
        """Whether a photo may come into its draft now. Raises DRAFT_UNKNOWN, STATE_CONFLICT, REQUEST_INVALID."""
        async with self.engine.connect() as conn:
            await self._open(conn, tenant, options, lock=False)

    async def keep(self, conn: AsyncConnection, received: UploadReceived, options: Options) -> None:
        """Put a photo that came in into its draft, in the caller's transaction.

        Raises:
            SafelightError: DRAFT_UNKNOWN, STATE_CONFLICT, REQUEST_INVALID, UPLOAD_TOO_LARGE, MEDIA_TYPE_UNSUPPORTED.
        """
        draft_id = await self._open(conn, received.tenant, options, lock=True)
        if received.original.media_type not in DECODABLE:
            raise error("MEDIA_TYPE_UNSUPPORTED", f"a style is learnt from photos: {', '.join(sorted(DECODABLE))}")
        halves = await _halves(conn, draft_id)
        if len(halves) >= PHOTOS_MAX:
            raise error("STATE_CONFLICT", f"the draft has {PHOTOS_MAX} photos")
        most = min(self.bytes_max, BYTES_MAX)
        if sum(half.size for half in halves) + received.original.size > most:
            raise error("UPLOAD_TOO_LARGE", f"The photos of a draft may have {most:,} bytes together.")
        await conn.execute(
            insert(DRAFT_PHOTOS).values(
                upload_id=received.upload_id, draft_id=draft_id, role=options.role, name=options.file_name
            )
        )

    async def discard(self, tenant: str, id_: UUID) -> None:
        """Forget a draft and its photos. Raises NOT_FOUND."""
        which = _mine(tenant, id_)
        async with self.engine.connect() as conn:
            if (await conn.execute(select(DRAFTS.c.id).where(which))).one_or_none() is None:
                raise error("NOT_FOUND")
        await self._forget(which, f"tenant:{tenant}", "draft.discarded")

    # -- training -----------------------------------------------------------------------------

    async def claim(self, tenant: str, id_: UUID) -> UUID:
        """Let nobody else train it, and no photo come, for a while. Returns the token. Raises STATE_CONFLICT."""
        token, columns = uuid4(), DRAFTS.c
        free = (columns.state == "open") | ((columns.state == "packing") & (columns.claimed_until < func.now()))
        change = update(DRAFTS).where(_mine(tenant, id_), free, columns.expires_at > func.now())
        async with self.engine.begin() as conn:
            done = await conn.execute(change.values(state="packing", claim=token, claimed_until=func.now() + CLAIM))
        if done.rowcount != 1:
            raise error("STATE_CONFLICT", "the draft is being trained, or has expired")
        return token

    async def release(self, id_: UUID, token: UUID) -> None:
        """Let photos come again."""
        async with self.engine.begin() as conn:
            await conn.execute(_claimed(id_, token).values(state="open", claim=None, claimed_until=None))

    async def note_times(self, times: dict[UUID, str | None]) -> None:
        """Keep when photos were taken, as far as they tell."""
        async with self.engine.begin() as conn:
            for upload_id, taken_at in times.items():
                which = DRAFT_PHOTOS.c.upload_id == upload_id
                await conn.execute(update(DRAFT_PHOTOS).where(which).values(taken_at=taken_at, looked=True))

    async def trained(
        self, conn: AsyncConnection, tenant: str, id_: UUID, token: UUID, upload_id: UUID, job_id: UUID | None
    ) -> None:
        """Its photos are in an archive that has a job: they and their names go. Raises STATE_CONFLICT."""
        over = {"state": "trained", "claim": None, "claimed_until": None}
        done = await conn.execute(_claimed(id_, token).values(**over, job_id=job_id, upload_id=upload_id))
        if done.rowcount != 1:
            raise error("STATE_CONFLICT", "another request has trained the draft meanwhile")
        photos = await conn.execute(delete(UPLOADS).where(UPLOADS.c.id.in_(_photos_of(DRAFTS.c.id == id_))))
        about = {"upload": str(upload_id), "photos": photos.rowcount}
        line = noted(f"tenant:{tenant}", "draft.trained", str(id_), tenant, about)
        await self.outbox.add(conn, [line])  # published by the sweep

    async def remove(self, photos: Sequence[tuple[UUID, str]]) -> None:
        """Delete what was stored of photos (id, key) that are no uploads any more, sealed ones with their keys."""
        for upload_id, key in photos:
            await self.objects.remove(key)
            if key.startswith(SEALED):
                await self.objects.vault.destroy(str(upload_id))

    # -- time ---------------------------------------------------------------------------------

    async def expire(self) -> None:
        """Forget the drafts whose time is over."""
        await self._forget(DRAFTS.c.expires_at <= func.now(), f"room:{SOURCE}", "draft.expired")

    async def expire_forever(self) -> None:
        """At a calm pace, until cancelled."""
        while True:
            try:
                await self.expire()
            except Exception as problem:
                log.warning("drafts.not_expired", error=type(problem).__name__)
            await asyncio.sleep(EXPIRE_EVERY_S)

    async def _forget(self, which: ColumnElement[bool], who: str, action: str) -> None:
        async with self.outbox.transaction() as (conn, told):
            gone = await conn.execute(
                delete(UPLOADS).where(UPLOADS.c.id.in_(_photos_of(which))).returning(UPLOADS.c.id, UPLOADS.c.key)
            )
            photos = [(row.id, row.key) for row in gone]
            drafts = await conn.execute(delete(DRAFTS).where(which).returning(DRAFTS.c.id, DRAFTS.c.tenant))
            told += [noted(who, action, str(draft.id), draft.tenant) for draft in drafts]
        await self.remove(photos)

    async def _open(self, conn: AsyncConnection, tenant: str, options: Options, *, lock: bool) -> UUID:
        assert options.draft is not None
        if options.role is None or not options.file_name:
            raise error("REQUEST_INVALID", "a photo of a draft has a role, before or after, and a file_name")
        query = select(DRAFTS).where(_mine(tenant, options.draft))
        row = (await conn.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise error("DRAFT_UNKNOWN")
        if row.state != "open" or row.expires_at <= clock.now():
            raise error("STATE_CONFLICT", f"the draft is {row.state if row.state != 'open' else 'expired'}")
        return options.draft


def _mine(tenant: str, id_: UUID) -> ColumnElement[bool]:
    return (DRAFTS.c.id == id_) & (DRAFTS.c.tenant == tenant)


def _claimed(id_: UUID, token: UUID) -> Any:
    return update(DRAFTS).where(DRAFTS.c.id == id_, DRAFTS.c.claim == token)


def _photos_of(which: ColumnElement[bool]) -> Any:
    return select(DRAFT_PHOTOS.c.upload_id).join(DRAFTS, DRAFTS.c.id == DRAFT_PHOTOS.c.draft_id).where(which)


async def _halves(conn: AsyncConnection, id_: UUID) -> list[Half]:
    rows = await conn.execute(
        select(DRAFT_PHOTOS, UPLOADS.c.key, UPLOADS.c.sha256, UPLOADS.c.size, UPLOADS.c.media_type)
        .join(UPLOADS, UPLOADS.c.id == DRAFT_PHOTOS.c.upload_id)
        .where(DRAFT_PHOTOS.c.draft_id == id_)
        .order_by(DRAFT_PHOTOS.c.name, DRAFT_PHOTOS.c.upload_id)
    )
    return [Half(_photo(row), row.key, row.sha256, row.size, row.media_type, row.looked) for row in rows]


def _photo(row: Any) -> Photo:
    role: Role = row.role
    return Photo(row.upload_id, role, row.name, row.taken_at)


def _draft(row: Any) -> Draft:
    return Draft(row.id, row.tenant, row.name, row.lane, row.state, row.expires_at, row.job_id, row.upload_id)
