"""The way of an address: we fetch the file that somebody names, bounded in bytes and in time, into storage.

`runtime.outside` decides where a connection may lead, for each redirect anew. Nothing of the address, and nothing that
its server says, is kept or told: what the file is says its content.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin
from uuid import uuid4

import httpcore

from contracts.errors import error
from ingest.gate import Uploader
from ingest.intake import judge_length
from ingest.storing import Storing, refuse, storing
from ingest.uploads import Arrival, UploadAnswer, Uploads, key_of
from runtime import outside

REDIRECTS_MAX: Final = 5
SILENT_S: Final = 10.0  # between two pieces
HEADERS: Final = [
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),  # what comes packed is no file of a type that is taken
    (b"User-Agent", b"Safelight"),
]
TIMEOUTS: Final = {"connect": 5.0, "read": SILENT_S, "write": SILENT_S, "pool": 5.0}
_MOVED: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Fetching:
    """The use case. `open_`: networks that may be reached though they are not public. `total_s`: for all of it."""

    uploads: Uploads
    pool: httpcore.AsyncConnectionPool
    open_: outside.Networks
    total_s: float

    async def take(self, who: Uploader, url: str, fields: Mapping[str, Any]) -> UploadAnswer:
        """Make an upload of what lies at `url`.

        Raises:
            SafelightError: ADDRESS_REFUSED, SOURCE_UNAVAILABLE, UPLOAD_TOO_LARGE, and what the core raises.
        """
        await self.uploads.admit(who, None)
        await self.uploads.options(who, fields)
        upload_id = uuid4()
        async with storing(self.uploads.objects, key_of(upload_id), self.uploads.bytes_max) as file:
            try:
                async with asyncio.timeout(self.total_s):
                    await self._fetch(url, file)
            except TimeoutError as problem:
                raise error("SOURCE_UNAVAILABLE", f"The file did not come within {self.total_s:g} s.") from problem
            stored = await file.finish()
        return await self.uploads.accept(who, Arrival.of(upload_id, stored), fields)

    async def _fetch(self, url: str, file: Storing) -> None:
        try:
            async with self._answer(url) as answer:
                declared = _header(answer, b"content-length") or b""
                length = int(declared) if declared.isdigit() and len(declared) < 19 else None
                refuse(judge_length(length, self.uploads.bytes_max))
                async for piece in answer.aiter_stream():
                    await file.take(piece)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as problem:
            raise error("SOURCE_UNAVAILABLE") from problem

    @asynccontextmanager
    async def _answer(self, url: str) -> AsyncIterator[httpcore.Response]:
        """The answer at the end of the redirects, which is a success."""
        for _ in range(REDIRECTS_MAX + 1):
            checked = outside.check_url(url, self.open_)
            async with self.pool.stream("GET", checked, headers=HEADERS, extensions={"timeout": TIMEOUTS}) as answer:
                if answer.status == 200:
                    yield answer
                    return
                where = _header(answer, b"location")
                if answer.status not in _MOVED or where is None:
                    raise error("SOURCE_UNAVAILABLE", f"The address answers {answer.status}.")
                url = urljoin(url, where.decode("latin-1"))
        raise error("SOURCE_UNAVAILABLE", f"The address leads on more than {REDIRECTS_MAX} times.")


def _header(answer: httpcore.Response, wanted: bytes) -> bytes | None:
    return next((value for name, value in answer.headers if name.lower() == wanted), None)
