"""Delivers: leases endpoints that have something due, tells them, writes down what came of it.

Every endpoint is seen to by a task of its own. Those that fail have half of the places and one delivery at a time,
so that a thousand of them that hang keep nobody else waiting.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID, uuid4

import httpcore
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import Transient, error
from output.listen import Bell
from output.signing import SigningKeys
from output.webhooks import ledger, signature
from output.webhooks.schedule import Answer
from output.webhooks.sending import send
from runtime import clock, logs, outside, postgres

PLACES: Final = 128  # endpoints at once
PLACES_FOR_FAILING: Final = 64
AT_ONCE: Final = 8  # deliveries to one endpoint
LOOK_S: Final = 30.0  # at the latest: a notification may be lost
AWAY_S: Final = 2.0  # a pause when the database does not answer
KEPT: Final = timedelta(days=30)
PRUNE_S: Final = 3600.0
log = logs.get()


@dataclass(slots=True)
class Deliverer:
    """One per process; `owner` is its name on leases."""

    engine: AsyncEngine
    keys: SigningKeys
    open_: outside.Networks
    bell: Bell
    timeout_s: float  # of a try; the lease is at least twice as long
    lease_s: float
    owner: UUID = field(default_factory=uuid4)
    _visits: dict[UUID, tuple[asyncio.Task[None], bool]] = field(default_factory=dict)

    async def deliver_forever(self) -> None:
        """Until cancelled; what is in hand then is delivered by the next process."""
        # Per endpoint AT_ONCE connections: httpcore would let one that hangs take a place from the others.
        async with outside.pool(self.open_, connections_max=PLACES * AT_ONCE) as pool:
            try:
                while True:
                    self.bell.clear()
                    try:
                        wait_s = await self._begin_visits(pool)
                    except Transient:
                        wait_s = AWAY_S
                    await self.bell.wait(wait_s)
            finally:
                for task, _ in self._visits.values():
                    task.cancel()

    async def prune_forever(self) -> None:
        """Forget what ended long ago, until cancelled."""
        while True:
            try:
                async with postgres.transaction(self.engine) as conn:
                    await ledger.prune(conn, KEPT)
            except Transient as problem:
                log.warning("webhooks.prune_failed", code=problem.code)
            await asyncio.sleep(PRUNE_S)

    async def _begin_visits(self, pool: httpcore.AsyncConnectionPool) -> float:
        """Returns seconds until the next look."""
        async with postgres.transaction(self.engine) as conn:
            for failing, most in ((False, PLACES), (True, PLACES_FOR_FAILING)):
                taken = sum(of_failing for _, of_failing in self._visits.values()) if failing else len(self._visits)
                if (free := min(most - taken, PLACES - len(self._visits))) <= 0:
                    continue
                claimed = await ledger.claim(
                    conn, self.owner, self.lease_s, failing=failing, most=free, busy=list(self._visits)
                )
                for webhook in claimed:
                    task = asyncio.create_task(self._visit(webhook, pool))
                    self._visits[webhook] = task, failing
                    task.add_done_callback(partial(self._ended, webhook))
            next_s = await ledger.seconds_until_due(conn, self.owner, list(self._visits))
        return min(LOOK_S, max(next_s, 0.05)) if next_s is not None else LOOK_S

    def _ended(self, webhook: UUID, _task: asyncio.Task[None]) -> None:
        self._visits.pop(webhook, None)
        self.bell.ring()  # a place is free, and something may have come due meanwhile

    async def _visit(self, webhook: UUID, pool: httpcore.AsyncConnectionPool) -> None:
        try:
            while await self._round(webhook, pool):
                pass
        except Transient as problem:
            log.warning("webhooks.visit_failed", code=problem.code)  # the lease ends, and it is done again
        except Exception as problem:
            log.error("webhooks.visit_broken", webhook=str(webhook), exc_info=problem)

    async def _round(self, webhook: UUID, pool: httpcore.AsyncConnectionPool) -> bool:
        """Tell the endpoint what is due. False when nothing is, or somebody else has it."""
        async with postgres.transaction(self.engine) as conn:
            work = await ledger.work(
                conn, webhook, self.owner, self.lease_s, most=AT_ONCE, default_key=self.keys.current
            )
            if work is None or not work.due:
                await ledger.release(conn, webhook, self.owner)
                return False
        tried = await asyncio.gather(*(self._try(work, due, pool) for due in work.due))
        async with postgres.transaction(self.engine) as conn:
            disabled = await ledger.settle(conn, work, tried)
        failed = sum(one.answer.code is not None for one in tried)
        log.info("webhooks.told", webhook=str(webhook), delivered=len(tried) - failed, failed=failed)
        if disabled:
            log.warning("webhooks.disabled", webhook=str(webhook), code=disabled)
        return True

    async def _try(self, work: ledger.Work, due: ledger.Due, pool: httpcore.AsyncConnectionPool) -> ledger.Tried:
        at = clock.now()
        try:
            headers = signature.headers(self.keys, work.secrets, due.message_id, at, due.body)
        except KeyError:
            log.error("webhooks.signing_key_unknown", webhook=str(work.webhook))
            answer = Answer(None, error("INTERNAL").code, 0.0)
        else:
            answer = await send(pool, work.url, headers, due.body, self.open_, self.timeout_s)
        return ledger.Tried(due, at, answer, random.random())  # noqa: S311
