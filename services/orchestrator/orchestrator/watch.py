"""What an operator is alarmed by, as metrics and, where it is more than none, as one warning:

safelight.stream.stranded     commands that no consumer has before it or out: their last process died, and the
                              advisory that says so was not taken yet, or nobody takes their subject at all
safelight.jobs.overdue        jobs whose time came a while ago, and nobody let it reach them
safelight.dead_letters.open   what waits for an operator to replay or discard it

Every replica looks, and sees the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.topology import STREAMS
from runtime import clock, logs, postgres, telemetry

if TYPE_CHECKING:
    from nats.js import JetStreamContext

LOOK_EVERY_S: Final = 15.0
OVERDUE: Final = timedelta(seconds=10)  # ten times what a timer may be late
LOOKS: Final = 5  # at a stream that messages come to and go from meanwhile
PAUSE_S: Final = 0.05
log = logs.get()


@dataclass(frozen=True, slots=True)
class Seen:
    """How many of each, now. `stranded` is by stream."""

    stranded: dict[str, int]
    overdue: int
    letters: int


class Watch:
    """Looks, and tells."""

    def __init__(self, engine: AsyncEngine, js: JetStreamContext) -> None:
        self._engine = engine
        self._js = js
        self._stranded = telemetry.gauge(
            "safelight.stream.stranded", "{message}", "Messages of a work queue that no consumer has before it or out"
        )
        self._overdue = telemetry.gauge("safelight.jobs.overdue", "{job}", "Jobs whose time has passed unheeded")
        self._letters = telemetry.gauge("safelight.dead_letters.open", "{letter}", "Dead letters that are open")
        self._told: dict[tuple[Any, ...], int] = {}  # by what it was about: what was last seen

    async def look(self) -> Seen:
        """Count, set the metrics, and log what has come to be or is over."""
        queues = [stream.name for stream in STREAMS if stream.retention == "workqueue"]
        stranded = {name: await self._stranded_in(name) for name in queues}
        async with postgres.transaction(self._engine) as conn:
            overdue = await conn.fetchval(
                "SELECT count(*) FROM orchestrator.jobs WHERE wake_at < $1", clock.now() - OVERDUE
            )
            letters = await conn.fetchval("SELECT count(*) FROM orchestrator.dead_letters WHERE state = 'open'")
        for name, count in stranded.items():
            self._stranded.set(count, {"stream": name})
            self._tell("watch.stranded", count, stream=name)
        self._overdue.set(overdue)
        self._letters.set(letters)
        self._tell("watch.overdue", overdue)
        self._tell("watch.dead_letters", letters)
        return Seen(stranded, overdue, letters)

    async def _stranded_in(self, stream: str) -> int:
        """The least of several looks: what comes and goes between two questions is not stranded."""
        least: int | None = None
        for n in range(LOOKS):
            if n:
                await asyncio.sleep(PAUSE_S)
            before = (await self._js.stream_info(stream)).state.messages
            consumers = await self._js.consumers_info(stream)
            after = (await self._js.stream_info(stream)).state.messages
            in_hand = sum((one.num_pending or 0) + (one.num_ack_pending or 0) for one in consumers)
            count = max(0, min(before, after) - in_hand)
            least = count if least is None else min(least, count)
            if not least:
                break
        return least or 0

    def _tell(self, event: str, count: int, **about: Any) -> None:
        """A warning when there is more than none and it is news, one line more when it is over."""
        key = (event, *about.values())
        known = self._told.get(key, 0)
        self._told[key] = count
        if count and not known:
            log.warning(event, count=count, **about)
        elif known and not count:
            log.info(event, count=0, **about)
