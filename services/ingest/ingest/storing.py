"""One file on its way to storage, whoever feeds it: hashed, counted and judged as it passes, in constant memory.

The bytes go through a short queue to the thread that writes to storage. Memory per file: one part of the store
(8 MiB) and the queue. Nothing touches the disk here, and a file that is given up leaves no object.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from contracts.errors import SafelightError, error
from ingest.intake import HEAD_BYTES, Refused, judge_head, judge_size
from runtime.objects import Objects

QUEUE_CHUNKS = 4  # of what the server reads at once (256 KiB): 1 MiB


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole file by hash, size (bytes) and real type."""

    sha256: str
    size: int
    media_type: str


def refuse(verdict: Refused | None) -> None:
    """Raise what `intake` refuses."""
    if verdict:
        raise error(verdict.code, verdict.detail)


class Passing:
    """A file while it passes: counted, hashed, judged once by its head."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._hash = hashlib.sha256()
        self._head = b""
        self.size = 0
        self.media_type: str | None = None

    def take(self, chunk: bytes) -> None:
        """Raises UPLOAD_TOO_LARGE, or MEDIA_TYPE_UNSUPPORTED as soon as the head tells."""
        self.size += len(chunk)
        refuse(judge_size(self.size, self._size_max, self.media_type, complete=False))
        self._hash.update(chunk)
        if self.media_type is None:
            self._head += chunk[: HEAD_BYTES - len(self._head)]
            if len(self._head) >= HEAD_BYTES:
                self._judge()

    def finish(self) -> Stored:
        """What passed. Raises UPLOAD_EMPTY or MEDIA_TYPE_UNSUPPORTED."""
        if self.media_type is None and self.size:
            self._judge()
        refuse(judge_size(self.size, self._size_max, self.media_type, complete=True))
        assert self.media_type is not None
        return Stored(self._hash.hexdigest(), self.size, self.media_type)

    def _judge(self) -> None:
        verdict = judge_head(self._head)
        if isinstance(verdict, Refused):
            refuse(verdict)
        else:
            self.media_type = verdict.media_type


class Storing:
    """The way of one file: `take` its bytes, `finish` when they are all there."""

    def __init__(self, objects: Objects | None, key: str, size_max: int) -> None:
        self._passing, self._pipe = Passing(size_max), Pipe()
        self._task = (
            asyncio.create_task(objects.put_stream(key, self._pipe, "application/octet-stream")) if objects else None
        )

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._passing.size

    async def take(self, chunk: bytes) -> None:
        """Raises UPLOAD_TOO_LARGE, MEDIA_TYPE_UNSUPPORTED, STORAGE_UNAVAILABLE."""
        self._passing.take(chunk)
        if self._task:
            await self._write(chunk, self._task)

    async def finish(self) -> Stored:
        """Wait until the object is there. Raises UPLOAD_EMPTY, MEDIA_TYPE_UNSUPPORTED, STORAGE_UNAVAILABLE."""
        stored = self._passing.finish()
        if self._task:
            await self._write(b"", self._task)
            await self._task
        return stored

    async def abandon(self, problem: BaseException) -> None:
        """Give the file up: no object appears."""
        if self._task is None:
            return
        stop = problem if isinstance(problem, SafelightError) else error("UPLOAD_INCOMPLETE")
        with contextlib.suppress(Exception):
            if not self._task.done():
                await self._write(stop, self._task)
            await self._task

    async def _write(self, chunk: bytes | SafelightError, task: asyncio.Task[None]) -> None:
        """Hand a chunk on, unless storing has ended: then its error comes out here instead of a wait for ever."""
        writing = asyncio.ensure_future(self._pipe.write(chunk))
        await asyncio.wait((writing, task), return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            writing.cancel()
            await task


@contextlib.asynccontextmanager
async def storing(objects: Objects | None, key: str, size_max: int) -> AsyncIterator[Storing]:
    """Store a file under `key` (with None it is only hashed). An error inside leaves no object behind."""
    file = Storing(objects, key, size_max)
    try:
        yield file
    except BaseException as problem:
        await file.abandon(problem)
        raise


class Pipe:
    """Bytes from a coroutine to a thread. `read` is the thread's side; an error that is written makes it raise."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | SafelightError] = asyncio.Queue(QUEUE_CHUNKS)
        self._rest = b""
        self._ended = False

    async def write(self, chunk: bytes | SafelightError) -> None:
        await self._queue.put(chunk)

    def read(self, size: int = -1, /) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while not self._ended and (size < 0 or have < size):
            chunk = asyncio.run_coroutine_threadsafe(self._queue.get(), self._loop).result()
            if isinstance(chunk, SafelightError):
                raise chunk
            self._ended = not chunk
            parts.append(chunk)
            have += len(chunk)
        # What is too much is cut from the last chunk: cutting it from the whole would copy a part once more.
        last = parts.pop()
        keep = len(last) - max(0, have - size) if size >= 0 else len(last)
        self._rest = last[keep:]
        return b"".join([*parts, last[:keep]])
