"""How a call moves on: each end is one commit with the outcomes that follow from it, published after.

guarded update of the call -> the epoch's books, its cost -> its commands are answered -> outbox -> commit -> publish
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.channel import Channel
from contracts.costs import COST_NOTED, CostNoted
from contracts.envelope import SpanRecord
from contracts.errors import ERRORS
from contracts.phases import PHASE_DEFERRED, PHASE_FAILED, PHASE_SUCCEEDED, PhaseDeferred, PhaseFailed, PhaseSucceeded
from gpu_bridge import store, traces
from gpu_bridge.acts import SOURCE, noted
from gpu_bridge.call import Call, Kept, Move, Outcome, State, deferred, failed, succeeded
from gpu_bridge.catalog import Function
from gpu_bridge.policy import Declared
from gpu_bridge.store import Follower, Run
from gpu_bridge.turns import Ending
from gpu_bridge.vendors import paused, set_mode
from runtime import clock, logs, telemetry
from runtime.outbox import Outbox, Outgoing, outgoing

LEASE_S: Final = 15.0  # a dead bridge's calls move on after this
FORGET_S: Final = 86_400.0
CPU: Final = "cpu"  # of devices the one that is no GPU; the own costs nothing
log = logs.get()


@dataclass
class Ledger:
    """One process's hand on the ledger. `me` is the name of its leases."""

    engine: AsyncEngine
    outbox: Outbox
    me: UUID = field(default_factory=uuid4)
    declared: Mapping[str, Declared] = field(default_factory=dict)  # of providers: what leaves the house is noted

    # -- ends ---------------------------------------------------------------------------------

    async def succeed(self, call: Call, kept: Kept, run: Run, spans: Sequence[SpanRecord] = ()) -> bool:
        """End it well. False when it was no longer ours."""
        now = clock.now()
        async with self.engine.begin() as conn:
            if not await store.succeed_if_mine(conn, call, kept, run, now):
                return self._lost(call)
            cost = await _cost(conn, call, run, now)
            followers = await store.answer(conn, call.key)
            began = call.started_at or call.spawned_at
            messages = [message(one, succeeded(one.command, kept, began, now)) for one in followers] + cost
            await self.outbox.add(conn, messages)
        self._trace(call, followers, spans, None, now)
        await self.publish(messages)
        return True

    async def fail(self, call: Call, run: Run, detail: str = "", spans: Sequence[SpanRecord] = ()) -> bool:
        """End it badly, with the code of the run. False when it was no longer ours."""
        now, code = clock.now(), run.code or "INTERNAL"
        async with self.engine.begin() as conn:
            if not await store.fail_if_mine(conn, call, code, run, now):
                return self._lost(call)
            cost = await _cost(conn, call, run, now)
            followers = await store.answer(conn, call.key)
            messages = self._failures(followers, code, detail, call.started_at, now) + cost
            await self.outbox.add(conn, messages)
        log.warning("call.failed", key=call.key, epoch=call.epoch, provider=call.provider, code=code)
        self._trace(call, followers, spans, code, now)
        await self.publish(messages)
        return True

    async def stop(self, call: Call, code: str) -> bool:
        """A clock of it has run out: who waits is told at once, and the provider is yet to be. False: not ours."""
        now = clock.now()
        async with self.engine.begin() as conn:
            if await store.lock_if_mine(conn, call) is State.STOPPING:
                call.state = State.STOPPING  # a stop was faster: there is nobody to tell
                return True
            if not await store.stop_if_mine(conn, call, code):
                return self._lost(call)
            followers = await store.answer(conn, call.key)
            messages = self._failures(followers, code, "", call.started_at, now)
            await self.outbox.add(conn, messages)
        call.state, call.code = State.STOPPING, code
        log.warning("call.stopped", key=call.key, epoch=call.epoch, provider=call.provider, code=code)
        self._trace(call, followers, (), code, now)
        await self.publish(messages)
        return True

    async def give_back(self, call: Call, run: Run, *, refused: bool) -> bool:
        """The epoch came to nothing, and can come to nothing any more: the call waits for its next turn.

        Unless nobody waits for it any more: a stop may have been written down that is not heard here yet.
        """
        now = clock.now()
        async with self.engine.begin() as conn:
            if await store.lock_if_mine(conn, call) is State.STOPPING:
                done = await self._let_go(conn, call, run, now)
            else:
                done = await store.return_if_mine(conn, call, run, now, refused)
            cost = await _cost(conn, call, run, now) if done else []
            await self.outbox.add(conn, cost)
        if not done:
            return self._lost(call)
        await self.publish(cost)
        log.info("call.given_back", key=call.key, epoch=call.epoch, provider=call.provider, code=run.code)
        return True

    async def let_go(self, call: Call, run: Run) -> bool:
        """A call that was being stopped is over: it ends, or waits for its next turn if a command asked meanwhile."""
        now = clock.now()
        async with self.engine.begin() as conn:
            await store.lock_if_mine(conn, call)  # a command that comes now waits, and finds it ended
            done = await self._let_go(conn, call, run, now)
            cost = await _cost(conn, call, run, now) if done else []
            await self.outbox.add(conn, cost)
        await self.publish(cost)
        return done or self._lost(call)

    async def _let_go(self, conn: AsyncConnection, call: Call, run: Run, now: datetime) -> bool:
        if await store.followers(conn, call.key):
            return await store.return_if_mine(conn, call, run, now, refused=False)
        if call.code:
            return await store.fail_if_mine(conn, call, call.code, run, now)
        return await store.cancel_if_mine(conn, call, run, now)

    async def end_queued(self, conn: AsyncConnection, endings: Sequence[Ending]) -> list[Outgoing]:
        """End calls of which nothing was bought, in the caller's transaction; the caller publishes."""
        now, messages = clock.now(), []
        for one in endings:
            await store.end_queued(conn, one.key, one.move, one.code, now)
            followers = await store.answer(conn, one.key)
            if one.move is Move.DEFER and one.until is not None:
                for follower in followers:
                    put_off = deferred(follower.command, one.provider, one.code, one.until, now)
                    messages.append(message(follower, put_off))
            else:
                messages += self._failures(followers, one.code, "", None, now)
            log.info("call.not_given", key=one.key, move=one.move, code=one.code, provider=one.provider)
        if messages:
            await self.outbox.add(conn, messages)
        return messages

    # -- what is noted on the way ---------------------------------------------------------------

    async def going(
        self, conn: AsyncConnection, function: Function, calls: Sequence[Call], commands: Mapping[str, Follower]
    ) -> list[Outgoing]:
        """The audit's lines of calls that are about to be given to a provider, in the transaction that begins their
        epochs: what leaves the house is noted before it can, whatever the provider answers. The caller publishes."""
        lines = []
        for call in calls:
            declared = self.declared.get(call.provider)
            if declared is None or not declared.own:
                regions = declared.regions if declared else ()
                inputs = commands[call.key].command.inputs
                objects = [inputs[role].key for role in function.inputs if role in inputs]
                lines.append(_moved(call, regions, [*objects, *([call.checkpoint] if function.long else [])]))
        await self.outbox.add(conn, lines)
        return lines

    async def accepted(self, call: Call, handle: str) -> State | None:
        """The provider has it under this handle. None: it is another's by now."""
        async with self.engine.begin() as conn:
            state = await store.accept_if_mine(conn, call, handle)
        if state is not None:
            call.handle, call.state = handle, state
        return state

    async def started(self, call: Call, at: datetime) -> None:
        """The function has claimed it."""
        call.started_at = at
        async with self.engine.begin() as conn:
            await store.started_if_mine(conn, call, at)

    async def pause(self, name: str, why: str) -> None:
        """The provider does not accept our credentials: nobody is to ask it before an operator says so."""
        log.error("provider.paused", provider=name, why=why)
        async with self.engine.begin() as conn:
            told = await set_mode(conn, name, paused(why))
        await self.publish(told)

    async def stay_alive(self) -> None:
        """Keep every lease of this process."""
        now = clock.now()
        async with self.engine.begin() as conn:
            alive_until, long_ago = now + timedelta(seconds=LEASE_S), now - timedelta(seconds=FORGET_S)
            await store.stay_alive(conn, self.me, alive_until, long_ago)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """After the commit; what the broker does not confirm is left to the sweep."""
        await self.outbox.flush_or_leave(messages)

    def _lost(self, call: Call) -> bool:
        log.warning("call.not_ours", key=call.key, epoch=call.epoch)
        return False

    def _failures(
        self, followers: Sequence[Follower], code: str, detail: str, started_at: datetime | None, now: datetime
    ) -> list[Outgoing]:
        return [
            message(one, failed(one.command, code, detail or ERRORS[code].title, started_at, now)) for one in followers
        ]

    def _trace(
        self, call: Call, followers: Sequence[Follower], spans: Sequence[SpanRecord], code: str | None, now: datetime
    ) -> None:
        """One span for each command that followed, from the submission to the end; what came home goes under it."""
        for one in followers:
            attributes: dict[str, str | int] = {
                "safelight.key": one.command.key,
                "safelight.call": call.key,
                "safelight.epoch": call.epoch,
                "safelight.provider": call.provider,
            }
            with telemetry.span(
                f"call {call.function}",
                traceparent=one.traceparent,
                kind=SpanKind.CLIENT,
                attributes=attributes,
                started_at=call.spawned_at,
            ) as span:
                traces.join(spans)
                if code:
                    telemetry.fail(span, code)


def message(follower: Follower, result: Outcome) -> Outgoing:
    """An outcome on its way to the orchestrator, in the trace of its command."""
    key = follower.command.key
    return outgoing(
        _CHANNELS[type(result)],
        result,
        message_id=f"{key}.outcome",
        key=key,
        source=SOURCE,
        traceparent=follower.traceparent or "",
    )


_CHANNELS: Final[Mapping[type[Outcome], Channel[Any]]] = {
    PhaseSucceeded: PHASE_SUCCEEDED,
    PhaseFailed: PHASE_FAILED,
    PhaseDeferred: PHASE_DEFERRED,
}


async def _cost(conn: AsyncConnection, call: Call, run: Run, now: datetime) -> list[Outgoing]:
    """What the epoch that has just ended was billed, on its way to whoever shows it; nothing where nothing was."""
    bill, device = run.bill, run.device or ""
    if bill is None or not bill.billed_s or (device == CPU and bill.cost == 0):
        return []
    payer = await store.asked_first(conn, call.key)
    billed = CostNoted(
        call=call.key,
        epoch=call.epoch,
        tenant=call.tenant,
        job_id=payer.job_id,
        phase=payer.phase,
        provider=call.provider,
        device=device,
        billed_s=bill.billed_s,
        cost=bill.cost,
        currency=None if bill.cost is None else run.currency,
        priced_on=bill.priced_on,
        at=now,
    )
    return [outgoing(COST_NOTED, billed, message_id=billed.id, key=str(billed.job_id), source=SOURCE)]


def _moved(call: Call, regions: Sequence[str], objects: Sequence[str]) -> Outgoing:
    """The audit's line of what a provider is given to read: links to these objects, until the deadline.

    No region: the provider may run anywhere. Told again, it is the same line.
    """
    return noted(
        f"provider:{call.provider}",
        "data.moved",
        call.key,
        call.tenant,
        name=f"{call.key}.{call.epoch}.moved",
        details={
            "function": call.function,
            "epoch": call.epoch,
            "objects": list(objects),
            "regions": list(regions),
            "until": call.deadline.isoformat(),
            "sealed": call.sealed is not None,
            "sensitive": call.sensitive,
        },
    )
