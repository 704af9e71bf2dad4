"""The end of a transfer, whichever way its bytes came: its object is made whole, and an upload of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import Permanent, SafelightError, error
from ingest import transfers as rows
from ingest.storing import Passing, Stored
from ingest.transfers import PARTIAL, RENEW_S, Transfer, Transfers
from ingest.uploads import Arrival, UploadAnswer, Uploads
from runtime.objects import Objects


@dataclass(frozen=True, slots=True)
class Finishing:
    """What it takes to finish a transfer, or to give it up."""

    uploads: Uploads
    transfers: Transfers
    objects: Objects

    async def finish(self, transfer: Transfer, token: UUID, passing: Passing | None) -> Transfer:
        """All bytes are safe: make the object whole, and an upload of it."""
        async with self._renewing(transfer, token):
            if transfer.parts_id:
                try:
                    await self.objects.finish_parts(transfer.key, transfer.parts_id, transfer.tags)
                except Permanent as why:  # the store has given it up
                    await self.refuse(transfer, token, why)
                    raise
            if transfer.concat == PARTIAL:
                async with self.transfers.engine.begin() as conn:
                    await rows.complete(conn, transfer, token, None)
                return replace(transfer, state="complete")

            async def completed(conn: AsyncConnection, answer: UploadAnswer) -> None:
                await rows.complete(conn, transfer, token, answer)

            try:
                seen = passing and passing.size == transfer.size
                stored = passing.finish() if passing and seen else await read_again(self.objects, transfer)
                arrival = Arrival.of(transfer.id, stored)
                who = await self.uploads.gate.uploader(transfer.tenant, transfer.grant_id)
                answer = await self.uploads.accept(who, arrival, transfer.fields, also=completed, again=True)
            except Permanent as why:
                await self.refuse(transfer, token, why)
                raise
        return replace(transfer, state="complete", upload_id=answer.upload_id, job_id=answer.job_id)

    async def refuse(self, transfer: Transfer, token: UUID, why: SafelightError) -> None:
        """Nothing becomes of it: keep why, and drop its bytes."""
        await self.transfers.refuse(transfer, token, why.code)
        await drop(self.objects, transfer)

    @contextlib.asynccontextmanager
    async def leased(self, transfer: Transfer) -> AsyncIterator[UUID]:
        """Work on it alone. Raises UPLOAD_LOCKED."""
        token = await self.transfers.lease(transfer)
        try:
            yield token
        finally:
            with contextlib.suppress(SafelightError):  # it ends by itself
                await self.transfers.release(transfer, token)

    @contextlib.asynccontextmanager
    async def _renewing(self, transfer: Transfer, token: UUID) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEW_S)
                await self.transfers.renew(transfer, token)

        task = asyncio.create_task(renew())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def read_again(objects: Objects, transfer: Transfer) -> Stored:
    """What a whole object is, by its bytes alone. Raises what `Passing` raises."""
    passing = Passing(transfer.size)
    async for chunk in objects.stream_as_it_lies(transfer.key):
        passing.take(chunk)
    if passing.size != transfer.size:
        raise error("UPLOAD_INCOMPLETE", "The stored bytes are not as many as were announced.")
    return passing.finish()


async def drop(objects: Objects, transfer: Transfer) -> None:
    """Remove what lies in storage of a transfer that has become nothing."""
    if transfer.parts_id:
        await objects.abandon_parts(transfer.key, transfer.parts_id)
    if transfer.rest_key:
        await objects.remove(transfer.rest_key)
    await objects.remove(transfer.key)
