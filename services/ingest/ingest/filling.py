"""The bytes of one request on their way into a transfer's object: into parts of it, in constant memory.

A part goes to storage while the next one fills: two of them are in memory, whatever the request's length. What is
left at the end and is no part yet becomes a small object, which the next request begins with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from ingest.transfers import Transfer
from runtime.objects import PART_BYTES, Objects

PART_BYTES_MIN: Final = 5 * 1024 * 1024  # S3 takes no shorter part but the last
OCTETS: Final = "application/octet-stream"
Keep = Callable[[Transfer], Awaitable[None]]


class Filling:
    """`transfer` is how far all of it is safe. `keep` is told after each part; with None only `settle` tells."""

    def __init__(self, objects: Objects, transfer: Transfer, keep: Keep | None) -> None:
        self.transfer = transfer
        self._objects, self._keep = objects, keep
        self._old_rest, self._known_id = transfer.rest_key, transfer.parts_id
        self._chunks: list[bytes] = []
        self._size = 0
        self._end = transfer.offset  # of the parts that are stored
        self._sending: tuple[int, asyncio.Task[str]] | None = None

    async def begin(self) -> None:
        """Fetch what the last request left."""
        if self._old_rest:
            rest = await self._objects.get_as_it_lies(self._old_rest)
            self._chunks, self._size = [rest], len(rest)
            self._end -= len(rest)

    async def take(self, chunk: bytes) -> None:
        """Raises STORAGE_UNAVAILABLE, and what `keep` raises."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size >= PART_BYTES:
            await self._send()

    async def settle(self, *, whole: bool) -> Transfer:
        """Bring what is left to safety. `whole`: nothing comes after it."""
        if self._size >= PART_BYTES_MIN or (whole and self._size and self._in_parts):
            await self._send()
        await self._sent()
        if self._size:
            rest_key = None if whole else self.transfer.rest()
            offset = self._end + self._size
            await self._objects.put(rest_key or self.transfer.key, self._taken(), OCTETS)
            self.transfer = replace(self.transfer, rest_key=rest_key, offset=offset)
        return self.transfer

    async def tidy(self) -> None:
        """Once `settle`'s answer is kept: remove what the last request had left."""
        if self._old_rest and self._old_rest != self.transfer.rest_key:
            await self._objects.remove(self._old_rest)

    async def give_up(self) -> None:
        """Nothing more comes of it: wait for what is on its way, and drop an object that no row knows of."""
        with contextlib.suppress(Exception):
            if self._sending:
                await self._sending[1]
        if self.transfer.parts_id and self.transfer.parts_id != self._known_id:
            await self._objects.abandon_parts(self.transfer.key, self.transfer.parts_id)

    @property
    def _in_parts(self) -> bool:
        return self.transfer.parts_id is not None

    async def _send(self) -> None:
        await self._sent()
        parts_id = self.transfer.parts_id or await self._objects.begin_parts(self.transfer.key)
        self.transfer = replace(self.transfer, parts_id=parts_id)
        data, number = self._taken(), len(self.transfer.tags) + 1
        put = self._objects.put_part(self.transfer.key, parts_id, number, data)
        self._sending = len(data), asyncio.create_task(put)

    async def _sent(self) -> None:
        if self._sending is None:
            return
        size, task = self._sending
        tag = await task
        self._sending = None
        self._end += size
        self.transfer = replace(self.transfer, tags=(*self.transfer.tags, tag), offset=self._end, rest_key=None)
        if self._keep:
            await self._keep(self.transfer)
            self._known_id = self.transfer.parts_id

    def _taken(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks, self._size = [], 0
        return data
