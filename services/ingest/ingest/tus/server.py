"""What the tus requests do, over transfers and the core of uploads.

The running hash of a file lives in the process that has seen all its bytes so far. After a restart, or when another
replica goes on, it is gone: then the whole object is read once more at its end, in constant memory. (The state of a
SHA-256 cannot be taken out of Python's hashlib; keeping it otherwise would need a hash of our own.)
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID, uuid4

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import Permanent, SafelightError, error
from ingest import transfers as rows
from ingest.filling import Filling
from ingest.finishing import Finishing, drop
from ingest.gate import Uploader
from ingest.receive import arriving
from ingest.storing import Passing, storing
from ingest.transfers import PARTIAL, RENEW_S, Transfer, Transfers
from ingest.tus.headers import Checksum
from ingest.uploads import Arrival, UploadAnswer, Uploads
from runtime import logs
from runtime.objects import Objects

WAY: Final = "tus"
RUNNING_MAX: Final = 1000  # hashes that wait for their file's next request: 1 kB each
log = logs.get()


class _Refused(Exception):
    """The file is none that is taken, whatever else comes of it."""

    def __init__(self, why: Permanent) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class Tus:
    """The use cases."""

    finishing: Finishing
    _running: OrderedDict[UUID, Passing] = field(default_factory=OrderedDict)

    @property
    def uploads(self) -> Uploads:
        """The core."""
        return self.finishing.uploads

    @property
    def transfers(self) -> Transfers:
        """The rows."""
        return self.finishing.transfers

    @property
    def objects(self) -> Objects:
        """The bytes."""
        return self.finishing.objects

    async def create(
        self, who: Uploader, size: int, fields: dict[str, str], metadata: str | None, concat: str | None
    ) -> Transfer:
        """Begin an upload of `size` bytes, or a part of one.

        Raises:
            SafelightError: UPLOAD_EMPTY, UPLOAD_TOO_LARGE, REQUEST_INVALID, PIPELINE_UNKNOWN, STYLE_UNKNOWN.
        """
        if size == 0:
            raise error("UPLOAD_EMPTY")
        if size > self.uploads.bytes_max:
            raise error("UPLOAD_TOO_LARGE", f"The file is larger than {self.uploads.bytes_max:,} bytes.")
        await self.uploads.admit(who, size)
        if concat != PARTIAL:  # a part's fields come with the whole
            await self.uploads.options(who, fields)
        made = Transfer(
            uuid4(),
            who.tenant,
            WAY,
            fields,
            size,
            self.transfers.until(),
            metadata=metadata,
            concat=concat,
            grant_id=who.grant_id,
        )
        await self.transfers.begin(made)
        return made

    async def find(self, who: Uploader, transfer_id: UUID) -> Transfer:
        """A transfer as it stands; one whose bytes are all there is finished first.

        Raises:
            SafelightError: NOT_FOUND, UPLOAD_EXPIRED, why it was refused; UPLOAD_LOCKED, BROKER_UNAVAILABLE.
        """
        found = (await self.transfers.find(who, transfer_id, WAY)).usable()
        if found.state == "open" and found.offset == found.size:
            async with self.finishing.leased(found) as token:
                found = await self.finishing.finish(found, token, None)
        elif found.upload_id:
            await self.uploads.published(found.upload_id)
        return found

    async def write(
        self,
        found: Transfer,
        offset: int,
        declared: int | None,
        checksum: Checksum | None,
        body: AsyncIterator[bytes],
    ) -> Transfer:
        """Take bytes at `offset`; the last ones make an upload of it. `declared`: how many will come, if it is said.

        Raises:
            SafelightError: OFFSET_CONFLICT, UPLOAD_LOCKED, UPLOAD_TOO_LARGE, CHECKSUM_MISMATCH, UPLOAD_INCOMPLETE (what
                came is kept), and what the core raises of the whole file.
        """
        if found.concat and found.concat != PARTIAL:
            raise error("FORBIDDEN", "An upload that was made of others takes no bytes.")
        if offset != found.offset:
            raise error("OFFSET_CONFLICT")
        if declared is not None and offset + declared > found.size:
            raise error("UPLOAD_TOO_LARGE", "More bytes are announced than the upload has.")
        if found.state == "complete":
            return found
        async with self.finishing.leased(found) as token:
            running = self._resumed(found)
            passing = None if checksum else running  # bytes that turn out to be others would be in the hash for good
            after = await self._fill(found, token, passing, checksum, body)
            if after.offset < after.size:
                return after
            return await self.finishing.finish(after, token, self._running.pop(found.id, None))

    async def join(
        self, who: Uploader, ids: tuple[UUID, ...], fields: dict[str, str], metadata: str | None, concat: str
    ) -> Transfer:
        """Make one upload of complete partial ones, whose bytes are then spent. The same again is found again.

        Raises:
            SafelightError: NOT_FOUND, STATE_CONFLICT, UPLOAD_TOO_LARGE, and what the core raises of the whole file.
        """
        if known := await self.transfers.of_final(who.tenant, concat):
            return known
        partials = [(await self.transfers.find(who, one, WAY)).usable() for one in ids]
        if not all(one.concat == PARTIAL and one.state == "complete" for one in partials):
            raise error("STATE_CONFLICT", "Only partial uploads that are complete can be joined.")
        size = sum(one.size for one in partials)
        final = Transfer(
            uuid4(),
            who.tenant,
            WAY,
            fields,
            size,
            self.transfers.until(),
            offset=size,
            grant_id=who.grant_id,
            metadata=metadata,
            concat=concat,
            state="complete",
        )
        await self.uploads.options(who, fields)
        async with storing(self.objects, final.key, self.uploads.bytes_max) as file:
            for partial in partials:
                async for chunk in self.objects.stream_as_it_lies(partial.key):
                    await file.take(chunk)
            stored = await file.finish()

        async def joined(conn: AsyncConnection, answer: UploadAnswer) -> None:
            await rows.add(conn, replace(final, upload_id=answer.upload_id, job_id=answer.job_id))
            await rows.spend(conn, ids)

        try:
            answer = await self.uploads.accept(who, Arrival.of(final.id, stored), fields, also=joined)
        except IntegrityError:  # another request joined the same ones in the meantime
            if known := await self.transfers.of_final(who.tenant, concat):
                return known
            raise
        return replace(final, upload_id=answer.upload_id, job_id=answer.job_id)

    async def end(self, who: Uploader, transfer_id: UUID) -> None:
        """Forget a transfer and its bytes; an upload that it has become stays. Raises NOT_FOUND, UPLOAD_LOCKED."""
        found = await self.transfers.find(who, transfer_id, WAY)
        if found.state == "expired":
            raise error("UPLOAD_EXPIRED")
        token = await self.transfers.lease(found)
        self._running.pop(found.id, None)
        if not found.upload_id:
            await drop(self.objects, found)
        await self.transfers.forget(found, token)

    async def _fill(
        self,
        found: Transfer,
        token: UUID,
        passing: Passing | None,
        checksum: Checksum | None,
        body: AsyncIterator[bytes],
    ) -> Transfer:
        async def keep(at: Transfer) -> None:
            await self.transfers.keep(at, token)

        digest = hashlib.new(checksum.algorithm, usedforsecurity=False) if checksum else None
        filling = Filling(self.objects, found, None if checksum else keep)
        clock, at, left = asyncio.get_running_loop().time, found.offset, None
        renewed = clock()
        try:
            await filling.begin()
            try:
                async for chunk in arriving(body):
                    at += len(chunk)
                    if at > found.size:
                        raise error("UPLOAD_TOO_LARGE", "More bytes came than the upload has.")
                    if digest:
                        digest.update(chunk)
                    if passing:
                        self._pass(passing, chunk)
                    await filling.take(chunk)
                    if clock() - renewed > RENEW_S:
                        await self.transfers.renew(found, token)
                        renewed = clock()
            except SafelightError as problem:
                if problem.code != "UPLOAD_INCOMPLETE" or checksum:  # what cannot be checked is not kept
                    raise
                left = problem
            if digest and checksum and digest.digest() != checksum.digest:
                raise error("CHECKSUM_MISMATCH")
            after = await filling.settle(whole=at == found.size)
            await keep(after)
        except _Refused as refused:
            await filling.give_up()
            await self.finishing.refuse(filling.transfer, token, refused.why)
            raise refused.why from refused
        except SafelightError:
            await filling.give_up()
            raise
        await filling.tidy()
        if passing:
            self._remember(found.id, passing)
        if left:
            raise left
        return after

    @staticmethod
    def _pass(passing: Passing, chunk: bytes) -> None:
        try:
            passing.take(chunk)
        except Permanent as why:
            raise _Refused(why) from why

    def _resumed(self, transfer: Transfer) -> Passing | None:
        """The running hash, if it has seen all that is safe and no more."""
        running = self._running.pop(transfer.id, None)
        if transfer.concat == PARTIAL:
            return None  # what is judged and hashed is the whole
        if transfer.offset == 0:
            return Passing(self.uploads.bytes_max)
        return running if running and running.size == transfer.offset else None

    def _remember(self, transfer_id: UUID, passing: Passing) -> None:
        self._running[transfer_id] = passing
        if len(self._running) > RUNNING_MAX:
            self._running.popitem(last=False)
