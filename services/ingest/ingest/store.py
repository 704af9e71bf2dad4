"""Ingest's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.artifacts import ObjectRef
from contracts.phases import Facts
from contracts.uploads import UploadReceived
from ingest.tables import EVERYBODY, IDEMPOTENCY, STYLES, UPLOADS, VERSIONS


@dataclass(frozen=True, slots=True)
class Answered:
    """What an Idempotency-Key was answered with, and for which request."""

    fingerprint: str
    answer: dict[str, Any]


async def answered(conn: AsyncConnection, tenant: str, key: str) -> Answered | None:
    """The answer that this key has, if any."""
    row = (
        await conn.execute(
            select(IDEMPOTENCY.c.fingerprint, IDEMPOTENCY.c.answer).where(
                IDEMPOTENCY.c.tenant == tenant, IDEMPOTENCY.c.key == key
            )
        )
    ).one_or_none()
    return Answered(row.fingerprint, row.answer) if row else None


async def answer_if_new(conn: AsyncConnection, tenant: str, key: str, given: Answered) -> bool:
    """Keep the answer unless the key has one. Of two requests at once, one waits here and gets False."""
    done = await conn.execute(
        insert(IDEMPOTENCY)
        .values(tenant=tenant, key=key, fingerprint=given.fingerprint, answer=given.answer)
        .on_conflict_do_nothing()
    )
    return done.rowcount == 1


async def insert_upload(conn: AsyncConnection, received: UploadReceived, *, sole: bool = False) -> bool:
    """Keep what came in. `sole`: unless its batch has that content; of two at once, one waits here and gets False."""
    done = await conn.execute(
        insert(UPLOADS)
        .values(
            id=received.upload_id,
            job_id=received.job_id,
            tenant=received.tenant,
            pipeline=received.pipeline,
            key=received.original.key,
            sha256=received.original.sha256,
            size=received.original.size,
            media_type=received.original.media_type,
            grant_id=received.grant_id,
            style_name=received.options.get("style_name"),
            received_at=received.received_at,
            batch_id=received.batch_id,
            sole=sole,
        )
        .on_conflict_do_nothing(index_elements=["tenant", "batch_id", "sha256"], index_where=UPLOADS.c.sole)
    )
    return done.rowcount == 1


@dataclass(frozen=True, slots=True)
class Twin:
    """An upload whose content came again."""

    upload_id: UUID
    job_id: UUID
    original: ObjectRef

    @property
    def told(self) -> dict[str, Any]:
        """As an answer names it."""
        return {"upload_id": self.upload_id, "job_id": self.job_id, "original": self.original}


async def twin(conn: AsyncConnection, received: UploadReceived) -> Twin:
    """The upload that its batch has of this content."""
    columns = UPLOADS.c
    row = (
        await conn.execute(
            select(UPLOADS).where(
                columns.tenant == received.tenant,
                columns.batch_id == received.batch_id,
                columns.sha256 == received.original.sha256,
                columns.sole,
            )
        )
    ).one()
    original = ObjectRef(key=row.key, sha256=row.sha256, size=row.size, media_type=row.media_type)
    return Twin(row.id, row.job_id, original)


async def sealed_since(conn: AsyncConnection, folder: str, since: datetime) -> list[str]:
    """Where the files lay, as they came, of uploads whose sealed copy lies in `folder`."""
    rows = select(UPLOADS.c.id).where(UPLOADS.c.key.startswith(folder), UPLOADS.c.received_at > since)
    return [f"uploads/{id_}" for id_ in (await conn.execute(rows)).scalars()]


async def next_version(conn: AsyncConnection, tenant: str, upload_id: UUID) -> int | None:
    """The number of the upload's next version; None when the tenant has no such upload.

    Who makes another one waits here until this transaction is over: so versions have no gaps.
    """
    mine = select(UPLOADS.c.id).where(UPLOADS.c.id == upload_id, UPLOADS.c.tenant == tenant)
    if (await conn.execute(mine.with_for_update())).one_or_none() is None:
        return None
    last = select(func.max(VERSIONS.c.version)).where(VERSIONS.c.upload_id == upload_id)
    return ((await conn.execute(last)).scalar_one() or 1) + 1


async def insert_version(conn: AsyncConnection, edit: UploadReceived) -> None:
    """Keep that this job is another version of its upload."""
    await conn.execute(
        insert(VERSIONS).values(
            job_id=edit.job_id, upload_id=edit.upload_id, version=edit.version, edit_of=edit.edit_of
        )
    )


# -- styles ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Style:
    """A version of a style; `version` is 0 before it has one. `objects` are by part, `cube` is always among them."""

    tenant: str
    name: str
    kind: str
    objects: dict[str, ObjectRef]
    facts: Facts = field(default_factory=dict)
    engine: str | None = None
    degraded: bool = False
    job_id: UUID | None = None
    job_revision: int | None = None
    version: int = 0
    created_at: datetime | None = None

    @property
    def reference(self) -> str:
        """`name@version`"""
        return f"{self.name}@{self.version}"

    @property
    def look(self) -> ObjectRef:
        """What a job is given: all that was learnt, or the LUT that an imported style is."""
        return self.objects.get("style", self.objects["cube"])


@dataclass(frozen=True, slots=True)
class Maker:
    """An upload whose job makes a style."""

    tenant: str
    pipeline: str
    style_name: str


async def add_version(conn: AsyncConnection, style: Style) -> int | None:
    """Keep a style as the next version of its name. None when that ending of that job, or that content, has one.

    Who adds to the same name waits here until the other's transaction is over: so versions have no gaps.
    """
    columns = STYLES.c
    await conn.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{style.tenant}\n{style.name}", 0))))
    mine = (columns.tenant == style.tenant) & (columns.name == style.name)
    last = (await conn.execute(_newest_first(select(STYLES).where(mine)).limit(1))).one_or_none()
    if style.job_id is None:
        if last and last.objects["cube"]["sha256"] == style.objects["cube"].sha256:
            return None
    else:
        of_it = (columns.job_id == style.job_id) & (columns.job_revision == style.job_revision)
        if (await conn.execute(select(columns.version).where(of_it))).one_or_none():
            return None
    version = last.version + 1 if last else 1
    await conn.execute(
        insert(STYLES).values(
            tenant=style.tenant,
            name=style.name,
            version=version,
            kind=style.kind,
            objects={part: ref.model_dump() for part, ref in style.objects.items()},
            facts=style.facts,
            engine=style.engine,
            degraded=style.degraded,
            job_id=style.job_id,
            job_revision=style.job_revision,
        )
    )
    return version


async def style(conn: AsyncConnection, tenant: str, name: str, version: int | None) -> Style | None:
    """The version of a name (None: the newest) as this tenant sees it: a name of its own hides a built-in one."""
    columns = STYLES.c
    newest = _newest_first(select(STYLES).where(columns.tenant.in_((tenant, EVERYBODY)), columns.name == name)).limit(1)
    found = (await conn.execute(newest)).one_or_none()
    if found and version not in (None, found.version):
        older = (columns.tenant == found.tenant) & (columns.name == name) & (columns.version == version)
        found = (await conn.execute(select(STYLES).where(older))).one_or_none()
    return _style(found) if found else None


async def versions(conn: AsyncConnection, tenant: str, name: str, limit: int = 200) -> list[Style]:
    """The versions of a name, newest first."""
    mine = (STYLES.c.tenant == tenant) & (STYLES.c.name == name)
    return [_style(row) for row in await conn.execute(_newest_first(select(STYLES).where(mine)).limit(limit))]


async def newest_styles(conn: AsyncConnection, tenant: str, limit: int, after: str) -> list[Style]:
    """The newest version of each name that the tenant can use, by name, those behind `after`."""
    columns = STYLES.c
    usable = select(STYLES).where(columns.tenant.in_((tenant, EVERYBODY)), columns.name > after)
    each = usable.ext(distinct_on(columns.name)).order_by(columns.name, columns.tenant.desc(), columns.version.desc())
    return [_style(row) for row in await conn.execute(each.limit(limit))]


async def makers(conn: AsyncConnection, job_ids: Sequence[UUID]) -> dict[UUID, Maker]:
    """Of these jobs those that make a style."""
    columns = UPLOADS.c
    rows = await conn.execute(
        select(columns.job_id, columns.tenant, columns.pipeline, columns.style_name).where(
            columns.job_id.in_(job_ids), columns.style_name.is_not(None)
        )
    )
    return {row.job_id: Maker(row.tenant, row.pipeline, row.style_name) for row in rows}


def _newest_first(query: Select[Any]) -> Select[Any]:
    """A tenant's own before everybody's (whose name is the empty one), then by version."""
    return query.order_by(STYLES.c.tenant.desc(), STYLES.c.version.desc())


def _style(row: Row[Any]) -> Style:
    objects = {part: ObjectRef.model_validate(ref) for part, ref in row.objects.items()}
    return Style(**{**row._asdict(), "objects": objects})
