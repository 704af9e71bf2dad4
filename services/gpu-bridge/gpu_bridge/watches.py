"""What is watched in this process, and when each is visited next."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Final

from gpu_bridge.call import Call, State
from gpu_bridge.ledger import LEASE_S
from gpu_bridge.providers.port import Provider

POLL_GROWTH: Final = 1.3


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long, in seconds.

    A watch is visited after `first_s`, then ever more rarely, up to `most_s`, or so that all
    watches together are `polls_per_s`. Its marks are read each `marks_s`. A submission without a
    claim is asked for once more after `spawn_lease_s`; a call that was told to stop is let go
    after `stop_grace_s`. Leases are kept each `keep_s`.
    """

    first_s: float = 0.1
    most_s: float = 3.0
    polls_per_s: float = 50.0
    marks_s: float = 3.0
    spawn_lease_s: float = 15.0
    stop_grace_s: float = 30.0
    keep_s: float = LEASE_S / 5


@dataclass(slots=True, eq=False)
class Watch:
    """One submission: some calls of one function, under one handle."""

    provider: Provider | None
    handle: str | None
    calls: list[Call]
    adopted: bool = False
    submissions: int = 1
    visits: int = 0
    started_at: datetime | None = None
    heard_at: datetime | None = None
    fraction: float | None = None
    looked_at: datetime | None = None  # at its marks
    stopped_at: datetime | None = None  # when its provider was asked to stop it
    turn: int = 0  # its newest place in the schedule; older ones count no more
    wanted: asyncio.Event = field(default_factory=asyncio.Event)  # somebody has news of it: visit it now

    @property
    def is_stopping(self) -> bool:
        """Whether nobody waits for any call of it: only then it is stopped at its provider."""
        return all(call.state is State.STOPPING for call in self.calls)


class Watches:
    """The schedule: quickly at first, then ever more rarely, and the more rarely the more there are."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._heap: list[tuple[float, int, Watch]] = []
        self._order = count(1)
        self._of: dict[str, Watch] = {}  # by call
        self._visiting: set[Watch] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many calls are watched here."""
        return len(self._of)

    def of(self, key: str) -> Watch | None:
        """The watch of a call, if it is watched here."""
        return self._of.get(key)

    def add(self, watch: Watch) -> None:
        """Watch it from now on."""
        for call in watch.calls:
            self._of[call.key] = watch
        self._again(watch, 0.0)

    def drop(self, watch: Watch, call: Call) -> None:
        """This call is watched here no more, or under another watch."""
        if call in watch.calls:
            watch.calls.remove(call)
        if self._of.get(call.key) is watch:
            del self._of[call.key]

    def hurry(self, watch: Watch) -> None:
        """There is news: visit it now."""
        watch.wanted.set()
        if watch not in self._visiting:
            self._again(watch, 0.0)

    def visited(self, watch: Watch) -> None:
        """A visit is over: the next comes by schedule, unless nothing is left to watch."""
        self._visiting.discard(watch)
        watch.visits += 1
        if watch.calls:
            self._again(watch, 0.0 if watch.wanted.is_set() else self._pause_s(watch))
        self._changed.set()

    def marks_every_s(self) -> float:
        """How often the marks of one watch are read."""
        return max(self.pace.marks_s, 2 * len(self._of) / self.pace.polls_per_s)

    async def next(self) -> Watch:
        """The watch whose turn has come."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            while self._heap and (self._heap[0][1] != self._heap[0][2].turn or not self._heap[0][2].calls):
                heapq.heappop(self._heap)
            wait_s = self._heap[0][0] - loop.time() if self._heap else None
            if wait_s is not None and wait_s <= 0:
                watch = heapq.heappop(self._heap)[2]
                self._visiting.add(watch)
                return watch
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    def _again(self, watch: Watch, in_s: float) -> None:
        watch.turn = next(self._order)
        heapq.heappush(self._heap, (asyncio.get_running_loop().time() + in_s, watch.turn, watch))
        self._changed.set()

    def _pause_s(self, watch: Watch) -> float:
        pace = self.pace
        grown = min(pace.most_s, pace.first_s * POLL_GROWTH ** min(watch.visits, 20))
        crowded = len(self._of) / pace.polls_per_s
        return max(grown, crowded) * random.uniform(0.75, 1.25)  # noqa: S311  # jitter, no secret
