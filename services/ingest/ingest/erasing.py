"""Erasure in this room: originals, what phases of ours have made, and every row about an upload.

Objects go before rows, as in the other rooms. Whatever a job's phases have made is deleted here as it is by output:
each of the two knows of its own phases when nothing more of theirs comes.

A style stays when the pairs that it was learnt from go: its tenant uses it, under a name that means nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.erasures import ERASURE_DONE, ErasureRequested, done
from ingest.seals import FOLDER
from ingest.tables import ERASED, IDEMPOTENCY, STYLES, TRANSFERS, UPLOADS
from ingest.uploads import key_of
from runtime import clock, erased, logs
from runtime.objects import Objects
from runtime.outbox import outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

ROOM: Final = "ingest"
log = logs.get()


@dataclass(frozen=True, slots=True)
class Erasing:
    """Answers `evt.erasure.v1.requested`."""

    js: JetStreamContext
    engine: AsyncEngine
    objects: Objects

    async def erase(self, request: ErasureRequested) -> None:
        """Erase, and tell. Doing it again erases nothing more and tells the same message."""
        keys = [str(upload) for upload in request.uploads]
        await erased.remember(self.engine, ERASED, request.ids)
        shredded = sum([await self.objects.vault.destroy(key) for key in keys])  # first: what is sealed is gone with it
        folders = [folder for upload in request.uploads for folder in (key_of(upload), f"{FOLDER}{upload}")]
        folders += [f"jobs/{job}/" for job in request.jobs]
        gone = {"keys": shredded, "objects": sum([await self.objects.remove_all(folder) for folder in folders])}
        jobs = [str(job) for job in request.jobs]
        async with self.engine.begin() as conn:
            kept = await conn.scalar(select(func.count()).select_from(STYLES).where(STYLES.c.job_id.in_(request.jobs)))
            answers = delete(IDEMPOTENCY).where(
                IDEMPOTENCY.c.tenant == request.tenant, IDEMPOTENCY.c.answer["job_id"].astext.in_(jobs)
            )
            gone["rows.idempotency"] = (await conn.execute(answers)).rowcount
            ways = delete(TRANSFERS).where(TRANSFERS.c.upload_id.in_(request.uploads))  # which hold a file's name
            gone["rows.transfers"] = (await conn.execute(ways)).rowcount
            uploads = delete(UPLOADS).where(UPLOADS.c.id.in_(request.uploads))
            gone["rows.uploads"] = (await conn.execute(uploads)).rowcount
        id_, answer = done(request, ROOM, gone, {"styles": kept or 0}, clock.now())
        told = outgoing(ERASURE_DONE, answer, message_id=id_, key=str(request.erasure_id), source=ROOM)
        await publish(self.js, [told])
        log.info("erasure.done", erasure=str(request.erasure_id), part=request.part)
