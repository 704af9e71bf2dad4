"""One multipart body into object storage, in constant memory.

The body is parsed as it arrives; the file's bytes are hashed, judged by their head, and handed
through a short queue to the thread that writes to storage. Memory per upload: one part of the
store (8 MiB) and the queue. Nothing touches the disk here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect
from streaming_form_data import StreamingFormDataParser
from streaming_form_data.parser import ParseFailedException
from streaming_form_data.targets import BaseTarget, ValueTarget
from streaming_form_data.validators import MaxSizeValidator, ValidationError

from contracts.errors import SafelightError, error
from ingest.intake import HEAD_BYTES, Refused, judge_envelope, judge_head, judge_size
from runtime.objects import Objects

FIELD_BYTES_MAX = 4096
QUEUE_CHUNKS = 4  # of what the server reads at once (256 KiB): 1 MiB


@dataclass(frozen=True, slots=True)
class Received:
    """What the body held: its form fields, and the file by hash, size (bytes) and real type."""

    fields: Mapping[str, str]
    sha256: str
    size: int
    media_type: str


class _File(BaseTarget):  # type: ignore[misc]  # the library has no types
    """Collects what the parser finds of the file, for the coroutine that feeds the parser."""

    def __init__(self) -> None:
        super().__init__()
        self.started = False
        self.finished = False
        self.arrived = bytearray()

    def on_start(self) -> None:
        if self.started:
            raise error("REQUEST_INVALID", "one file per upload")
        self.started = True

    def on_data_received(self, chunk: bytes) -> None:
        self.arrived += chunk

    def on_finish(self) -> None:
        self.finished = True


class _Pipe:
    """Bytes from a coroutine to a thread. `read` is the thread's side; `fail` makes it raise."""

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


class _Intake:
    """The file while it passes: counted, hashed, judged once by its head."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._body_size = 0
        self._hash = hashlib.sha256()
        self._head = b""
        self.size = 0
        self.media_type: str | None = None

    def note(self, body_bytes: int) -> None:
        """Count bytes of the body, after those of the file among them were taken. Raises REQUEST_INVALID."""
        self._body_size += body_bytes
        self._refuse(judge_envelope(self._body_size - self.size))

    def take(self, chunk: bytes) -> None:
        """Raises UPLOAD_TOO_LARGE, or MEDIA_TYPE_UNSUPPORTED as soon as the head tells."""
        self.size += len(chunk)
        self._refuse(judge_size(self.size, self._size_max, self.media_type, complete=False))
        self._hash.update(chunk)
        if self.media_type is None:
            self._head += chunk
            if len(self._head) >= HEAD_BYTES:
                self._judge()

    def finish(self) -> tuple[str, int, str]:
        """(sha256, size, media type). Raises UPLOAD_EMPTY or MEDIA_TYPE_UNSUPPORTED."""
        if self.media_type is None and self.size:
            self._judge()
        self._refuse(judge_size(self.size, self._size_max, self.media_type, complete=True))
        assert self.media_type is not None
        return self._hash.hexdigest(), self.size, self.media_type

    def _judge(self) -> None:
        verdict = judge_head(self._head)
        if isinstance(verdict, Refused):
            raise error(verdict.code, verdict.detail)
        self.media_type = verdict.media_type

    @staticmethod
    def _refuse(verdict: Refused | None) -> None:
        if verdict:
            raise error(verdict.code, verdict.detail)


async def receive(
    content_type: str,
    body: AsyncIterator[bytes],
    size_max: int,
    fields: tuple[str, ...],
    objects: Objects | None,
    key: str,
) -> Received:
    """Read the whole body; store its file under `key` unless `objects` is None (then it is only hashed).

    Raises:
        SafelightError: REQUEST_INVALID, UPLOAD_EMPTY, UPLOAD_TOO_LARGE, UPLOAD_INCOMPLETE,
            MEDIA_TYPE_UNSUPPORTED, STORAGE_UNAVAILABLE. No object is left behind then.
    """
    values, file, parser = _parser(content_type, fields)
    intake, pipe = _Intake(size_max), _Pipe()
    storing = asyncio.create_task(objects.put_stream(key, pipe, "application/octet-stream")) if objects else None
    try:
        async for chunk in _chunks(body):
            _feed(parser, chunk)
            if file.arrived:
                arrived = bytes(file.arrived)
                file.arrived.clear()
                intake.take(arrived)
                if storing:
                    await _write(pipe, arrived, storing)
            intake.note(len(chunk))
        if not file.started:
            raise error("REQUEST_INVALID", "the body has no part named file")
        if not file.finished:
            raise error("UPLOAD_INCOMPLETE")
        sha256, size, media_type = intake.finish()
        if storing:
            await _write(pipe, b"", storing)
            await storing
    except BaseException as problem:
        if storing:
            await _abandon(pipe, storing, problem)
        raise
    texts = {name: target.value.decode("utf-8", "replace") for name, target in values.items() if target.value}
    return Received(texts, sha256, size, media_type)


async def _chunks(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for chunk in body:
            if chunk:
                yield chunk
    except ClientDisconnect as problem:
        raise error("UPLOAD_INCOMPLETE") from problem


async def _write(pipe: _Pipe, chunk: bytes, storing: asyncio.Task[None]) -> None:
    """Hand a chunk on, unless storing has ended: then its error comes out here instead of a wait for ever."""
    writing = asyncio.ensure_future(pipe.write(chunk))
    await asyncio.wait((writing, storing), return_when=asyncio.FIRST_COMPLETED)
    if not writing.done():
        writing.cancel()
        await storing


async def _abandon(pipe: _Pipe, storing: asyncio.Task[None], problem: BaseException) -> None:
    stop = problem if isinstance(problem, SafelightError) else error("UPLOAD_INCOMPLETE")
    with contextlib.suppress(Exception):
        if not storing.done():
            await _write(pipe, stop, storing)  # type: ignore[arg-type]
        await storing


def _parser(content_type: str, fields: tuple[str, ...]) -> tuple[dict[str, Any], _File, Any]:
    try:
        parser = StreamingFormDataParser(headers={"Content-Type": content_type}, strict=True)
    except ParseFailedException as problem:
        raise error("REQUEST_INVALID", "the body must be multipart/form-data with a boundary") from problem
    values = {name: ValueTarget(validator=MaxSizeValidator(FIELD_BYTES_MAX)) for name in fields}
    for name, target in values.items():
        parser.register(name, target)
    file = _File()
    parser.register("file", file)
    return values, file, parser


def _feed(parser: Any, chunk: bytes) -> None:
    try:
        parser.data_received(chunk)
    except (ParseFailedException, ValidationError, UnicodeDecodeError) as problem:
        raise error("REQUEST_INVALID", "the multipart body is malformed or has a field that is not known") from problem
