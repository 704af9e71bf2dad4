"""What is sealed in storage, opened on its way to whoever may have it: as a stream, whole or a range of it.

A signed link to storage would lead to bytes that nobody can read. What comes before a chunk that turns out to be
broken is certain; the answer then ends short of the length that it has announced.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, Literal

from fastapi.responses import StreamingResponse

from contracts.errors import error
from output.store import Found
from runtime.objects import Objects

_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


async def opened(
    objects: Objects, found: Found, asked: str | None, *, disposition: Literal["inline", "attachment"] = "inline"
) -> StreamingResponse:
    """The answer that is the content itself. `asked` is the request's Range; what is no single range counts as none.

    Raises:
        SafelightError: KEY_DESTROYED, KEY_UNAVAILABLE, SEAL_BROKEN, OBJECT_MISSING, REQUEST_INVALID (a range beyond).
    """
    part = _part(asked, found.size)
    first, last = part or (0, found.size - 1)
    pieces = objects.stream(found.key, first, last)
    begun = await anext(pieces, b"")  # so that what cannot be opened is told by the answer's status

    async def content() -> AsyncIterator[bytes]:
        yield begun
        async for piece in pieces:
            yield piece

    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
        "Content-Disposition": f'{disposition}; filename="{found.name}"',
        "Content-Length": str(max(0, last - first + 1)),
        "Content-Security-Policy": "sandbox",  # a user's bytes from our own address run nothing
        "X-Content-Type-Options": "nosniff",
    }
    if part:
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    return StreamingResponse(content(), 206 if part else 200, headers, found.media_type)


def _part(asked: str | None, size: int) -> tuple[int, int] | None:
    """The first and the last byte of a range; None: all of it."""
    match = _RANGE.fullmatch(asked or "")
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    if int(first) >= size or (last and int(last) < int(first)):
        raise error("REQUEST_INVALID", f"the range lies outside of its {size} bytes")
    return int(first), min(int(last or size), size - 1)
