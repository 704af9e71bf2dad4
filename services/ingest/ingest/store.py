"""Ingest's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.uploads import UploadReceived
from ingest.tables import IDEMPOTENCY, UPLOADS


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


async def insert_upload(conn: AsyncConnection, received: UploadReceived) -> None:
    """Keep what came in."""
    await conn.execute(
        insert(UPLOADS).values(
            id=received.upload_id,
            job_id=received.job_id,
            tenant=received.tenant,
            pipeline=received.pipeline,
            key=received.original.key,
            sha256=received.original.sha256,
            size=received.original.size,
            media_type=received.original.media_type,
            received_at=received.received_at,
        )
    )
