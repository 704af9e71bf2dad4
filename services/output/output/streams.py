"""Event streams of jobs and batches: one reader of the database for all who follow.

Whoever follows has a place, the id of the last line that it was given. A notification says whose lines are new; then
one query reads what all places of those lack, in the order of the ids, which is the order of the commits. So a thousand
streams cost one connection and one query per wave of news, and none asks by itself. A stream whose client is slow
holds so many lines at most; what follows is read for it when it has sent them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import Transient
from output.listen import Bell
from runtime import postgres

LINES_A_READ: Final = 100  # of one job or batch
HELD_MOST: Final = 200  # lines of one stream: some 100 kB
TOPICS_A_READ: Final = 400
HEARTBEAT_S: Final = 15.0  # proxies close silent streams
AWAY_S: Final = 1.0  # a pause when the database does not answer
ENDED: Final = "batch.v1.ended"

_STATUS_OF_ENDS: Final = "'succeeded', 'failed', 'dead', 'cancelled'"
_LINES: Final = "SELECT id, type, data::text AS data FROM output.events WHERE {} ORDER BY id LIMIT $4"
# One snapshot: what is over and has no line after a place will have none but those that come late.
_READ: Final = f"""
SELECT w.topic, w.tenant, o.over, e.id, e.type, e.data
FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS w (topic, tenant, after)
LEFT JOIN LATERAL (
    SELECT CASE WHEN w.tenant = ''
        THEN EXISTS (SELECT FROM output.jobs WHERE id = w.topic AND status IN ({_STATUS_OF_ENDS}))
        ELSE EXISTS (SELECT FROM output.events WHERE batch_id = w.topic AND tenant = w.tenant AND type = '{ENDED}')
    END AS over
) o ON true
LEFT JOIN LATERAL (
    ({_LINES.format("w.tenant = '' AND job_id = w.topic AND id > w.after")})
    UNION ALL
    ({_LINES.format("w.tenant <> '' AND batch_id = w.topic AND tenant = w.tenant AND id > w.after")})
) e ON true
ORDER BY e.id
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """What is followed: a job, or the batch of a tenant (two tenants' uploads may name the same batch)."""

    id: UUID
    tenant: str = ""  # of a batch; "" for a job


@dataclass(eq=False, slots=True)
class Reader:
    """One stream. `after` is its place; `over`: what it holds is the last."""

    topic: Topic
    after: int
    lines: deque[bytes] = field(default_factory=deque)
    over: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_room(self) -> bool:
        return len(self.lines) < HELD_MOST


class Streams:
    """All streams of this process."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._readers: defaultdict[UUID, set[Reader]] = defaultdict(set)
        self._stale: set[UUID] = set()
        self._bell = Bell()
        self._closed = False

    @contextlib.contextmanager
    def reader(self, topic: Topic, after: int) -> Iterator[Reader]:
        """A stream's reader, from a place on."""
        reader = Reader(topic, after, over=self._closed)
        self._readers[topic.id].add(reader)
        self.heard(topic.id)
        try:
            yield reader
        finally:
            self._readers[topic.id].discard(reader)
            if not self._readers[topic.id]:
                del self._readers[topic.id]

    async def take(self, reader: Reader, most_s: float) -> bytes:
        """All that the reader holds, as soon as that is anything; b"" when nothing comes in time, or it is over."""
        if not reader.lines and not reader.over:
            reader.woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(most_s):
                    await reader.woken.wait()
        was_full = not reader.has_room
        held = b"".join(reader.lines)
        reader.lines.clear()
        if was_full:
            self.heard(reader.topic.id)
        return held

    def heard(self, id_: UUID) -> None:
        """There may be news of this job or batch."""
        if id_ in self._readers:
            self._stale.add(id_)
            self._bell.ring()

    def look_everywhere(self) -> None:
        """News may have been missed."""
        self._stale.update(self._readers)
        self._bell.ring()

    async def close_when(self, draining: asyncio.Event) -> None:
        """When the service drains, every stream ends whole, and its client goes on elsewhere. Until cancelled."""
        await draining.wait()
        self._closed = True
        for readers in self._readers.values():
            for reader in readers:
                reader.over = True
                reader.woken.set()
        await asyncio.Event().wait()

    async def read_forever(self) -> None:
        """Until cancelled."""
        while True:
            self._bell.clear()
            stale = list(self._stale)[:TOPICS_A_READ]
            if not stale:
                await self._bell.wait(None)
                continue
            self._stale.difference_update(stale)
            try:
                await self._read([reader for id_ in stale for reader in self._readers.get(id_, ()) if reader.has_room])
            except Transient:
                self._stale.update(stale)
                await asyncio.sleep(AWAY_S)

    async def _read(self, readers: Sequence[Reader]) -> None:
        places: defaultdict[Topic, list[Reader]] = defaultdict(list)
        for reader in readers:
            places[reader.topic].append(reader)
        if not places:
            return
        wanted = [(topic.id, topic.tenant, min(one.after for one in those)) for topic, those in places.items()]
        async with postgres.transaction(self._engine) as conn:
            rows = await conn.fetch(_READ, *map(list, zip(*wanted, strict=True)), LINES_A_READ)
        found: defaultdict[Topic, list[Any]] = defaultdict(list)
        for row in rows:
            found[Topic(row["topic"], row["tenant"])].append(row)
        for topic, those in places.items():
            self._give(those, found[topic])

    def _give(self, readers: Sequence[Reader], rows: Sequence[Any]) -> None:
        """Give lines to those readers whose places they were read for; who has come meanwhile is read for next."""
        lines = [(row["id"], _line(row)) for row in rows if row["id"] is not None]
        more = len(lines) >= LINES_A_READ
        for reader in readers:
            for id_, line in lines:
                if id_ > reader.after and reader.has_room:
                    reader.lines.append(line)
                    reader.after = id_
            if more and reader.has_room:
                self.heard(reader.topic.id)
            if rows[0]["over"] and not more and (not lines or reader.after >= lines[-1][0]):
                reader.over = True
            if reader.lines or reader.over:
                reader.woken.set()


def _line(row: Any) -> bytes:
    return f"id: {row['id']}\nevent: {row['type']}\ndata: {row['data']}\n\n".encode()


async def follow(streams: Streams, topic: Topic, after: int) -> AsyncIterator[bytes]:
    """The stream of server-sent events, until what it is about is over, or the service drains."""
    yield b"retry: 1000\n\n"
    with streams.reader(topic, after) as reader:
        while True:
            if held := await streams.take(reader, HEARTBEAT_S):
                yield held
            elif reader.over:
                return
            else:
                yield b": still here\n\n"
