"""Gives queued calls to providers, at each one's pace.

turn: lock -> choose -> epoch begun -> commit     nothing is bought before the ledger knows of it
then: links -> submit -> handle noted             what goes wrong here is certain or open:

refused for certain (PROVIDER_REJECTED, _UNAUTHORIZED, _RATE_LIMITED)   back to the queue, nothing was bought
anything else (no answer, an answer lost)                               the watcher asks the claim
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from contracts.errors import SafelightError
from gpu_bridge import store
from gpu_bridge.call import Call
from gpu_bridge.catalog import FUNCTIONS, Function
from gpu_bridge.ledger import Ledger
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.port import Provider
from gpu_bridge.store import Follower, Run
from gpu_bridge.submission import submitted
from gpu_bridge.turns import turns
from gpu_bridge.vendors import Vendors
from gpu_bridge.watcher import Watcher
from runtime import clock, logs
from runtime.outbox import Outgoing

LOOK_EVERY_S: Final = 1.0  # for calls that another process wrote down, and for pace
SUBMITTING_MAX: Final = 48  # calls that are being submitted at once: more would only wait for the SDK and the database
MISSING: Final = ("OBJECT_MISSING", "KEY_DESTROYED", "SEAL_BROKEN")  # what the work needs cannot be had any more
CERTAIN: Final = ("PROVIDER_REJECTED", "PROVIDER_UNAUTHORIZED", "PROVIDER_RATE_LIMITED")
log = logs.get()


@dataclass
class Submitter:
    """`arrived` is set when calls were written down or room was made; `in_flight_max` is of this process."""

    ledger: Ledger
    marks: MarkStore
    vendors: Vendors
    watcher: Watcher
    arrived: asyncio.Event
    in_flight_max: int
    functions: Sequence[Function] = FUNCTIONS
    _out: dict[asyncio.Task[None], int] = field(default_factory=dict)  # calls that are being submitted

    async def run_forever(self) -> None:
        """Take turns until cancelled; what is being submitted then is left to its lease."""
        try:
            while True:
                self.arrived.clear()
                next_at: datetime | None = None
                try:
                    next_at = await self.turn()
                except Exception as problem:  # database or storage away: the calls wait in the ledger
                    log.warning("submitter.interrupted", error=type(problem).__name__, exc_info=problem)
                wait_s = (next_at - clock.now()).total_seconds() if next_at else LOOK_EVERY_S
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.01, min(LOOK_EVERY_S, wait_s))):
                        await self.arrived.wait()
        finally:
            for task in self._out:
                task.cancel()
            await asyncio.gather(*self._out, return_exceptions=True)

    async def turn(self) -> datetime | None:
        """Give what can be given now. Returns when there is something to do though nothing has come."""
        begun: list[tuple[str, Function, list[Call], dict[str, Follower]]] = []
        messages: list[list[Outgoing]] = []
        next_at: datetime | None = None
        async with self.ledger.engine.begin() as conn:
            await store.take_turn(conn)
            await self.vendors.look(conn)
            in_flight = await store.in_flight(conn)
            for function in self.functions:
                left = self._left() - sum(len(calls) for _, _, calls, _ in begun)
                queued = await store.queued(conn, function.name, left) if left > 0 else []
                if not queued:
                    continue
                now = clock.now()
                found = turns(
                    function, queued, self.vendors.openings(function, in_flight, now), now, self.vendors.policy
                )
                messages.append(await self.ledger.end_queued(conn, found.ending))
                for name, keys in found.going:
                    calls = await store.begin(conn, self.ledger.me, keys, name, now)
                    commands = await store.commands_of(conn, keys)
                    messages.append(await self.ledger.going(conn, function, calls, commands))
                    begun.append((name, function, calls, commands))
                    in_flight[name] = in_flight.get(name, 0) + len(calls)
                    self.vendors.sent(name, function.name, len(calls), now)
                if found.next_at is not None:
                    next_at = min(next_at or found.next_at, found.next_at)
        for ended in messages:
            await self.ledger.publish(ended)
        for name, function, calls, commands in begun:
            provider = self.vendors.named(name)
            assert provider is not None
            self._start(provider, function, calls, commands)
        return next_at

    def _start(
        self, provider: Provider, function: Function, calls: Sequence[Call], commands: Mapping[str, Follower]
    ) -> None:
        task = asyncio.create_task(self._submit(provider, function, calls, commands))
        self._out[task] = len(calls)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._out[task]
        if not task.cancelled() and (problem := task.exception()):  # the watcher finds that nobody sees to its calls
            log.warning("submitter.lost_track", error=type(problem).__name__, exc_info=problem)
        self.arrived.set()

    def _left(self) -> int:
        """How many calls more this process may have and submit now."""
        submitting = sum(self._out.values())
        return min(SUBMITTING_MAX - submitting, self.in_flight_max - self.watcher.calls - submitting)

    async def _submit(
        self, provider: Provider, function: Function, calls: Sequence[Call], commands: Mapping[str, Follower]
    ) -> None:
        try:
            handle = await submitted(provider, function, calls, commands, self.marks)
        except SafelightError as problem:
            if problem.code in CERTAIN:
                await self._refused(provider, calls, problem)
                return
            if problem.code in MISSING:
                await asyncio.gather(
                    *(self.ledger.fail(call, Run(code=problem.code), problem.detail) for call in calls)
                )
                return
            log.warning("submitter.open", provider=provider.name, code=problem.code, calls=len(calls))
            self.watcher.open(provider, calls)
            return
        except Exception as problem:
            log.warning("submitter.open", provider=provider.name, error=type(problem).__name__, calls=len(calls))
            self.watcher.open(provider, calls)
            return
        await self.watcher.accepted(provider, handle, calls)

    async def _refused(self, provider: Provider, calls: Sequence[Call], problem: SafelightError) -> None:
        """Nothing was bought: the calls go back, and the provider is left alone as it asks."""
        rejected = problem.code == "PROVIDER_REJECTED"
        if problem.code == "PROVIDER_UNAUTHORIZED":
            await self.ledger.pause(provider.name, problem.detail)
        elif problem.code == "PROVIDER_RATE_LIMITED":
            self.vendors.cool(provider.name)
        else:
            self.vendors.failed(calls[0])
        for call in calls:
            await self.ledger.give_back(call, Run(code=problem.code), refused=rejected)
        self.arrived.set()
