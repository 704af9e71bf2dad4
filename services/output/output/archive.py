"""A ZIP that is written while it is read: of any size, in constant memory, with a length that is known before.

Pictures are stored as they are, for they are compressed already. The archive is whole or visibly broken: what does
not have its recorded size and SHA-256 ends the stream short of the length that was announced.

zipstream-ng asks for a member's content when it is asked for the archive's next bytes; here content is fetched first
and handed to it then, so that nothing blocks. While one member is sent, the next are being opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final
from uuid import UUID

from zipstream import ZIP_STORED, ZipStream

from contracts.errors import error

AHEAD: Final = 4  # members that are being opened while one is sent: 4 x 512 KiB
INDEX: Final = "index.json"
Read = Callable[[str], AsyncIterator[bytes]]  # the content of an object, by its key


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive, and the artifact that it is."""

    name: str
    job_id: UUID
    artifact: str
    key: str
    size: int
    sha256: str


def members(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> list[Member]:
    """The files of jobs in their order.

    A row has `job_id`, `phase`, `last` (its pipeline's last phase that made something) and `made`, the phase's
    artifacts; `wanted` are `artifact` or `phase.artifact`, nothing: those of the last phase.

    A file is named by its job's number in the batch and the beginning of its id; where an archive has several kinds,
    each has a folder. Names are made of ids and of names of our own only, and no two are the same.
    """
    numbers: dict[UUID, int] = {}
    chosen: list[tuple[str, UUID, str, Mapping[str, Any]]] = []
    for row in rows:
        numbers.setdefault(row["job_id"], len(numbers) + 1)
        for made in row["made"]:
            full = f"{row['phase']}.{made['name']}"
            if {made["name"], full} & set(wanted) if wanted else row["phase"] == row["last"]:
                chosen.append((row["phase"], row["job_id"], full, made))
    kinds = {made["name"] for _, _, _, made in chosen}
    digits = max(4, len(str(len(numbers))))
    taken: set[str] = set()
    found = []
    for phase, job_id, full, made in chosen:
        kind = PurePosixPath(made["name"])
        stem = f"{numbers[job_id]:0{digits}}-{job_id.hex[:8]}"
        folder = f"{kind.stem}/" if len(kinds) > 1 else ""
        name = f"{folder}{stem}{kind.suffix}"
        if name in taken:  # two phases' artifacts of one name, or two jobs whose ids begin alike
            name = f"{folder}{stem}-{phase}-{job_id.hex[8:]}{kind.suffix}"
        taken.add(name)
        found.append(Member(name, job_id, full, made["key"], made["size"], made["sha256"]))
    return found


class Archive:
    """One archive; `size` is how many bytes `pieces` will give."""

    def __init__(self, contents: Sequence[Member]) -> None:
        self._members = contents
        self._zip = ZipStream(compress_type=ZIP_STORED, sized=True)
        self._slot: deque[bytes] = deque()
        self._zip.add(_index(contents), INDEX)
        for one in contents:
            self._zip.add(self._fed(), one.name, size=one.size)
        self.size = len(self._zip)

    def _fed(self) -> Iterator[bytes]:
        while self._slot:
            yield self._slot.popleft()

    async def pieces(self, read: Read) -> AsyncGenerator[bytes]:
        """The archive's bytes. Raises OBJECT_MISSING for a member that is not what was recorded."""
        yield b"".join(self._zip.file())
        opening: deque[tuple[AsyncIterator[bytes], asyncio.Task[bytes]]] = deque()
        left = iter(self._members)
        try:
            for one in self._members:
                while len(opening) < AHEAD and (ahead := next(left, None)) is not None:
                    content = read(ahead.key)
                    opening.append((content, asyncio.create_task(_first(content))))
                content, first = opening.popleft()
                try:
                    async for piece in self._member(one, await first, content):
                        yield piece
                finally:
                    await _close(content)
            yield b"".join(self._zip.footer())
        finally:
            for content, first in opening:
                first.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await first
                await _close(content)

    async def _member(self, one: Member, first: bytes, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        digest, size, archived = hashlib.sha256(), 0, self._zip.file()
        yield next(archived)  # its header
        piece = first
        while piece:
            digest.update(piece)
            size += len(piece)
            if size > one.size:
                break
            self._slot.append(piece)
            yield next(archived)
            piece = await anext(content, b"")
        if (size, digest.hexdigest()) != (one.size, one.sha256):
            raise error("OBJECT_MISSING", "a stored object is not the one that was referred to")
        yield b"".join(archived)  # what follows its content


async def _first(content: AsyncIterator[bytes]) -> bytes:
    return await anext(content, b"")


async def _close(content: AsyncIterator[bytes]) -> None:
    close = getattr(content, "aclose", None)
    if close:
        await close()


def _index(contents: Sequence[Member]) -> bytes:
    """Which file is what, for programs."""
    rows = [
        {"name": one.name, "job_id": str(one.job_id), "artifact": one.artifact, "size": one.size, "sha256": one.sha256}
        for one in contents
    ]
    return json.dumps(rows, indent=1).encode()
