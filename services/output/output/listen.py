"""Tells waiting readers that a job has news, and the deliverer that something is to be delivered.

One LISTEN connection for the whole process. A notification is a hint; readers look at the rows. When the connection
is lost, every reader is woken so that it looks, and the connection is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from output.projection import NOTIFY
from output.webhooks.telling import NOTIFY as NOTIFY_DELIVERIES
from runtime import logs, tls

if TYPE_CHECKING:
    from output.streams import Streams

RECONNECT_S = 1.0
CHECK_S = 30.0
ID_DIGITS = 32  # a payload names jobs by their ids, one after the other
log = logs.get()


class Bell:
    """Wakes one waiting task. Clear it, look, then wait."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    def clear(self) -> None:
        self._rung.clear()

    async def wait(self, most_s: float | None) -> None:
        """Until it is rung, for so long at most; None: however long that is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._rung.wait()


class News:
    """Who waits for a job or batch to be there; `streams` hear what is new, `deliveries` is rung when there are any."""

    def __init__(self, postgres_url: str, deliveries: Bell, streams: Streams) -> None:
        self._url = postgres_url
        self._deliveries = deliveries
        self._streams = streams
        self._waiting: defaultdict[UUID, set[asyncio.Event]] = defaultdict(set)

    @contextlib.contextmanager
    def of(self, id_: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job or batch may have news. Clear it, then read, then wait."""
        event = asyncio.Event()
        self._waiting[id_].add(event)
        try:
            yield event
        finally:
            self._waiting[id_].discard(event)
            if not self._waiting[id_]:
                del self._waiting[id_]

    async def listen_forever(self) -> None:
        """Keep the connection until cancelled."""
        lost = asyncio.Event()
        bare, context = tls.of_database(self._url)
        while True:
            lost.clear()
            try:
                conn = await asyncpg.connect(
                    bare, timeout=5, ssl=context, server_settings={"application_name": "safelight-news"}
                )
                try:
                    conn.add_termination_listener(lambda _: lost.set())
                    await conn.add_listener(NOTIFY, self._heard)
                    await conn.add_listener(NOTIFY_DELIVERIES, lambda *_: self._deliveries.ring())
                    self._wake_all()
                    while not lost.is_set():
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(CHECK_S):  # Python 3.11's wait_for may swallow a cancellation
                                await lost.wait()
                        await conn.execute("SELECT 1", timeout=5)  # a connection may also be lost without a word
                finally:
                    conn.terminate()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as problem:
                log.warning("news.listen_failed", error=type(problem).__name__)
            self._wake_all()
            await asyncio.sleep(RECONNECT_S)

    def _heard(self, _conn: object, _pid: int, _channel: str, payload: object) -> None:
        told = str(payload)
        for at in range(0, len(told), ID_DIGITS):
            id_ = UUID(told[at : at + ID_DIGITS])
            self._streams.heard(id_)
            for event in self._waiting.get(id_, ()):
                event.set()

    def _wake_all(self) -> None:
        self._deliveries.ring()
        self._streams.look_everywhere()
        for events in self._waiting.values():
            for event in events:
                event.set()
