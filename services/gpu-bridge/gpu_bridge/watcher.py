"""Watches what providers have, until each call is seen to be over; and takes over what dead bridges left.

One submission is one watch, whatever number of calls it carries. A watch is visited by schedule
(`watches`), so that polling never crowds out submitting; what a visit does is in `visit`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from gpu_bridge import store
from gpu_bridge.call import Call, State
from gpu_bridge.catalog import FUNCTIONS, Function
from gpu_bridge.ledger import Ledger
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.port import Provider
from gpu_bridge.vendors import Vendors
from gpu_bridge.visit import Visitor
from gpu_bridge.watches import Pace, Watch, Watches
from runtime import clock, logs

if TYPE_CHECKING:
    from nats.js import JetStreamContext

VISITS_MAX: Final = 32  # at once
LEAVE_S: Final = 5.0
# A call that is leased here for so long and is not watched was lost track of: a submission takes SUBMIT_S at most.
FORGOTTEN_S: Final = 60.0
ADOPTED_MAX: Final = 500
log = logs.get()


class Watcher:
    """All watches of this process. `room` is set when a call has ended: another may go."""

    def __init__(
        self,
        ledger: Ledger,
        marks: MarkStore,
        vendors: Vendors,
        js: JetStreamContext,
        room: asyncio.Event,
        functions: Sequence[Function] = FUNCTIONS,
        pace: Pace = Pace(),  # noqa: B008  # frozen
    ) -> None:
        self._ledger = ledger
        self._vendors = vendors
        self._watches = Watches(pace)
        self._visitor = Visitor(ledger, marks, vendors, js, self._watches, room, functions)
        self._counted_at: datetime | None = None  # when it was last looked for calls that nobody sees to

    @property
    def calls(self) -> int:
        """How many calls are watched here."""
        return len(self._watches)

    async def accepted(self, provider: Provider, handle: str, calls: Sequence[Call]) -> None:
        """A provider has given its handle: note it, and watch."""
        await self._visitor.accepted(provider, handle, calls)

    def open(self, provider: Provider, calls: Sequence[Call]) -> None:
        """Whether the provider has these calls is not known: watch their claims."""
        self._watches.add(Watch(provider, None, list(calls)))

    def stop(self, key: str) -> None:
        """The ledger asks this call to stop: if it is watched here, that need not be found out."""
        watch = self._watches.of(key)
        if watch is None:
            return
        for call in watch.calls:
            if call.key == key:
                call.state = State.STOPPING
        self._watches.hurry(watch)

    async def run_forever(self) -> None:
        """Visit watches until cancelled; what is out then is anybody's at once."""
        async with asyncio.TaskGroup() as visits:
            free = asyncio.Semaphore(VISITS_MAX)
            while True:
                watch = await self._watches.next()
                if watch.provider is not None and not watch.provider.capabilities.shared:
                    visits.create_task(self._visit(watch, None))  # it listens, and has a process of its own
                    continue
                await free.acquire()
                visits.create_task(self._visit(watch, free))

    async def keep_forever(self) -> None:
        """Keep this process's leases, take over those of dead ones, and hear of stops that others took."""
        try:
            while True:
                try:
                    await self.keep()
                except Exception as problem:  # the database is away: the leases run out, and others see to the calls
                    log.warning("watcher.interrupted", error=type(problem).__name__)
                await asyncio.sleep(self._watches.pace.keep_s)
        finally:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(LEAVE_S), self._ledger.engine.begin() as conn:
                    await store.leave(conn, self._ledger.me)

    async def keep(self) -> None:
        """Once: stay alive, take over, hear of stops."""
        await self._ledger.stay_alive()
        async with self._ledger.engine.begin() as conn:
            orphans = await store.adopt(conn, self._ledger.me, clock.now(), ADOPTED_MAX)
        orphans += await self._forgotten()
        for watch in self._adopted(orphans):
            log.info("watcher.adopted", calls=len(watch.calls), provider=watch.calls[0].provider)
            self._watches.add(watch)
        async with self._ledger.engine.connect() as conn:
            for key in await store.stopping(conn, self._ledger.me):
                watched = self._watches.of(key)
                if watched and not watched.stopped_at:
                    self.stop(key)

    async def _forgotten(self) -> list[Call]:
        """Calls that are leased here and that nobody sees to, such as those of a commit that seemed to fail."""
        now, every = clock.now(), timedelta(seconds=FORGOTTEN_S)
        if self._counted_at is not None and now < self._counted_at + every / 4:
            return []
        self._counted_at = now
        async with self._ledger.engine.connect() as conn:
            leased = await store.leased_before(conn, self._ledger.me, now - every)
            unseen = [key for key in leased if self._watches.of(key) is None]
            return await store.calls_of(conn, self._ledger.me, unseen) if unseen else []

    def _adopted(self, orphans: Iterable[Call]) -> list[Watch]:
        together: dict[tuple[str, str], Watch] = {}
        alone = []
        for call in orphans:
            provider = self._vendors.named(call.provider)
            watch = Watch(provider, call.handle, [call], adopted=True, started_at=call.started_at)
            if call.handle is None:
                alone.append(watch)
            elif known := together.get((call.provider, call.handle)):
                known.calls.append(call)
            else:
                together[call.provider, call.handle] = watch
        return [*alone, *together.values()]

    async def _visit(self, watch: Watch, free: asyncio.Semaphore | None) -> None:
        watch.wanted.clear()
        try:
            with logs.work(watch.calls[0].key):
                await self._visitor.look(watch)
        except Exception as problem:  # database or storage away, or a defect: the clocks go on, so does the watch
            log.warning("watcher.visit_failed", error=type(problem).__name__, exc_info=problem)
        finally:
            if free is not None:
                free.release()
            self._watches.visited(watch)
