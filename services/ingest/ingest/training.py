"""A draft becomes the archive that a style is learnt from, and its job.

The archive is written as it is read, photo by photo: in memory is one chunk of one photo, whatever the size of all.
In it photos have numbers; what people call them stays behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import SafelightError, error
from ingest.drafts import Draft, Drafts, Half
from ingest.gate import Uploader
from ingest.options import TRAINING
from ingest.pairing import Matching, Photo, match
from ingest.storing import Storing
from ingest.uploads import Arrival, UploadAnswer, Uploads, key_of
from runtime import logs
from runtime.objects import Objects
from runtime.sandbox import Sandbox

PAIRS_MIN: Final = 5  # what the worker asks for: who knows that it will refuse need not be asked
LOOK_S: Final = 20.0  # a header is read in milliseconds
LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)  # the same photos make the same archive
log = logs.get()

# fmt: off
ENDINGS: Final = {
    "image/jpeg": ".jpg",
    "image/png":  ".png",
    "image/webp": ".webp",
    "image/tiff": ".tif",
    "image/avif": ".avif",
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Training:
    """The use case, with what it needs."""

    drafts: Drafts
    uploads: Uploads
    sandbox: Sandbox

    async def train(self, tenant: str, draft_id: UUID) -> tuple[UploadAnswer, Matching]:
        """Start the job that learns a draft's style.

        Raises:
            SafelightError: NOT_FOUND, STATE_CONFLICT, TOO_FEW_PAIRS (photos may still come), STORAGE_UNAVAILABLE,
                BROKER_UNAVAILABLE (the job will run all the same).
        """
        await self.drafts.find(tenant, draft_id)
        token = await self.drafts.claim(tenant, draft_id)
        try:
            draft, halves = await self.drafts.find(tenant, draft_id)  # now that no more can come
            matching = await self._matched(halves)
            if len(matching.pairs) < PAIRS_MIN:
                raise error("TOO_FEW_PAIRS", f"{len(matching.pairs)} pairs were found, {PAIRS_MIN} are needed")
            answer = await self._start(draft, token, halves, matching)
        except BaseException:
            await self.drafts.release(draft_id, token)
            raise
        try:
            await self.drafts.remove([(half.photo.id, half.key) for half in halves])
        except SafelightError as problem:  # nobody refers to them any more: the sweep finds what is left
            log.warning("training.left_behind", code=problem.code)
        return answer, matching

    async def _matched(self, halves: Sequence[Half]) -> Matching:
        """The pairs. The times of photos whose names say nothing are looked for."""
        found = match([half.photo for half in halves])
        left = {photo.id for photo in found.left}
        times = {
            half.photo.id: await self._taken_at(half) for half in halves if half.photo.id in left and not half.looked
        }
        if not times:
            return found
        await self.drafts.note_times(times)
        return match([_with_time(half.photo, times) for half in halves])

    async def _taken_at(self, half: Half) -> str | None:
        data = await self.uploads.objects.get_checked(half.key, half.sha256)
        try:
            found: str | None = await self.sandbox.run(LOOK_S, "ingest.analysis:taken_at", data)
        except SafelightError as problem:
            log.info("training.no_time", code=problem.code)
            return None
        return found

    async def _start(self, draft: Draft, token: UUID, halves: Sequence[Half], matching: Matching) -> UploadAnswer:
        upload_id, by_id = uuid4(), {half.photo.id: half for half in halves}
        file = Storing(self.uploads.objects, key_of(upload_id), self.uploads.bytes_max)
        try:
            pairs = [(by_id[before.id], by_id[after.id]) for before, after in matching.pairs]
            async for chunk in archive(self.uploads.objects, pairs):
                await file.take(chunk)
            stored = await file.finish()
        except BaseException as problem:
            await file.abandon(problem)
            raise

        async def trained(conn: AsyncConnection, answer: UploadAnswer) -> None:
            await self.drafts.trained(conn, draft.tenant, draft.id, token, answer.upload_id, answer.job_id)

        fields = {"pipeline": TRAINING.pipeline or "", "style_name": draft.name}
        fields |= {"lane": draft.lane} if draft.lane else {}
        return await self.uploads.accept(Uploader(draft.tenant), Arrival.of(upload_id, stored), fields, also=trained)


def _with_time(photo: Photo, times: dict[UUID, str | None]) -> Photo:
    return Photo(photo.id, photo.role, photo.name, times.get(photo.id, photo.taken_at))


class _Passed:
    """What is written to it, until it is taken. It cannot be sought in, so that the archive is written in one go."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


async def archive(objects: Objects, pairs: Sequence[tuple[Half, Half]]) -> AsyncIterator[bytes]:
    """A ZIP of pairs, `before/0001.jpg` beside `after/0001.tif`. Photos are compressed already, so they are stored."""
    passed = _Passed()
    with ZipFile(passed, "w", ZIP_STORED) as packed:
        for number, pair in enumerate(pairs, 1):
            for half in pair:
                entry = ZipInfo(f"{half.photo.role}/{number:04}{ENDINGS[half.media_type]}", LONG_AGO)
                entry.file_size = half.size
                with packed.open(entry, "w") as file:
                    async for chunk in objects.stream(half.key):
                        file.write(chunk)
                        yield passed.take()
    yield passed.take()
