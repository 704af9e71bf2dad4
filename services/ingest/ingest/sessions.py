"""The way past us: a client puts the parts of a file straight into object storage, by links that we sign.

The session is a transfer, its parts are what the store says is there: a client that has lost everything asks again.
What it put there is believed only once it was read: the object is hashed and sniffed from the store's bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from contracts.errors import SafelightError, error
from ingest.finishing import Finishing, drop
from ingest.gate import Uploader
from ingest.intake import judge_size
from ingest.storing import refuse
from ingest.transfers import Transfer
from runtime.objects import PART_BYTES

WAY: Final = "session"
PARTS_MAX: Final = 1000  # links of one answer; S3 itself takes ten times as many
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PartLink:
    """A part, from 1. Of one that is missing: where it is to be put, with exactly these headers."""

    number: int
    size: int
    stored: bool
    url: str | None = None
    headers: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Sessions:
    """The use cases. `link_s`: how long a link works."""

    finishing: Finishing
    link_s: int

    async def begin(self, who: Uploader, size: int, fields: Mapping[str, Any]) -> Transfer:
        """Begin a session for a file of `size` bytes.

        Raises:
            SafelightError: UPLOAD_EMPTY, UPLOAD_TOO_LARGE, REQUEST_INVALID, PIPELINE_UNKNOWN, STYLE_UNKNOWN...
        """
        use = self.finishing
        refuse(judge_size(size, use.uploads.bytes_max, complete=True))
        await use.uploads.admit(who, size)
        await use.uploads.options(who, fields)
        made = Transfer(uuid4(), who.tenant, WAY, dict(fields), size, use.transfers.until(), grant_id=who.grant_id)
        made = replace(made, part_bytes=_part_bytes(size))
        made = replace(made, parts_id=await use.objects.begin_parts(made.key))
        await use.transfers.begin(made)
        return made

    async def find(self, who: Uploader, session_id: UUID) -> Transfer:
        """Raises NOT_FOUND, UPLOAD_EXPIRED, or why it was refused."""
        return (await self.finishing.transfers.find(who, session_id, WAY)).usable()

    async def parts(self, session: Transfer) -> list[PartLink]:
        """Every part; of each that is missing a fresh link, whose length is signed."""
        there = await self._there(session)
        return [
            PartLink(number, size, stored=True)
            if there.get(number, ("", 0))[1] == size
            else await self.link(session, number)
            for number, size in _sizes(session).items()
        ]

    async def link(self, session: Transfer, number: int, sha256: str | None = None) -> PartLink:
        """A link to put one part; with its hash (hex) the store refuses other bytes. Raises NOT_FOUND."""
        size = _sizes(session).get(number)
        if size is None or session.parts_id is None:
            raise error("NOT_FOUND")
        headers = {"content-length": str(size)}
        if sha256:
            headers["x-amz-checksum-sha256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
        lives = timedelta(seconds=self.link_s)
        url = await self.finishing.objects.part_url(session.key, session.parts_id, number, lives, headers)
        return PartLink(number, size, stored=False, url=url, headers=headers)

    async def complete(self, session: Transfer) -> Transfer:
        """All parts are there: an upload is made of them. Again is fine.

        Raises:
            SafelightError: UPLOAD_INCOMPLETE, UPLOAD_LOCKED, and what the core raises of the whole file.
        """
        use = self.finishing
        if session.state == "complete":
            if session.upload_id:
                await use.uploads.published(session.upload_id)
            return session
        async with use.leased(session) as token:
            if session.offset < session.size:
                there, sizes = await self._there(session), _sizes(session)
                missing = [number for number, size in sizes.items() if there.get(number, ("", 0))[1] != size]
                if missing:
                    named = ", ".join(map(str, missing[:20]))
                    raise error("UPLOAD_INCOMPLETE", f"Parts are missing, or have another length: {named}.")
                tags = tuple(there[number][0] for number in sizes)
                session = replace(session, tags=tags, offset=session.size)
                await use.transfers.keep(session, token)
            return await use.finish(session, token, None)

    async def end(self, who: Uploader, session_id: UUID) -> None:
        """Give it up, with what was put. Raises NOT_FOUND, UPLOAD_LOCKED; STATE_CONFLICT of one that is an upload."""
        found = await self.finishing.transfers.find(who, session_id, WAY)
        if found.state == "complete":
            raise error("STATE_CONFLICT", "The session has become an upload.")
        token = await self.finishing.transfers.lease(found)
        await drop(self.finishing.objects, found)
        await self.finishing.transfers.forget(found, token)

    async def _there(self, session: Transfer) -> dict[int, tuple[str, int]]:
        if session.parts_id is None or session.state != "open":
            return {}
        try:
            found = await self.finishing.objects.parts(session.key, session.parts_id)
        except SafelightError as problem:
            if problem.code != "OBJECT_MISSING":
                raise
            raise error("UPLOAD_EXPIRED", "The store has given the parts up.") from problem
        return {part.number: (part.tag, part.size) for part in found}


def _part_bytes(size: int) -> int:
    """Whole MiB, so that no file has more than PARTS_MAX parts."""
    return max(PART_BYTES, -(-size // (PARTS_MAX * MIB)) * MIB)


def _sizes(session: Transfer) -> dict[int, int]:
    """How long each part is, by its number."""
    each = session.part_bytes or session.size
    return {number + 1: min(each, session.size - at) for number, at in enumerate(range(0, session.size, each))}
