"""Runs the ledger's calls: lease, submit, watch, record, publish.

The order that survives a crash at any point: the call is in the ledger before it is submitted,
the lease says who is at it, the outcome and its outbox row are one commit. A process that dies
leaves a lease that runs out; whoever takes the call then writes the same object keys again.

A call is asked to stop by its row. The process that took the stop wakes its own watcher at
once, any other notices when it extends its lease, and whoever holds the lease tells the
provider and ends the call without an outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import CallResponse, Item
from contracts.errors import SafelightError, error
from contracts.phases import (
    PHASE_DEFERRED,
    PHASE_FAILED,
    PHASE_PROGRESSED,
    PHASE_SUCCEEDED,
    PhaseDeferred,
    PhaseFailed,
    PhaseProgressed,
    PhaseSucceeded,
)
from gpu_bridge import store, traces
from gpu_bridge.call import Call, Outcome, State, Submission, about, failed, outcome
from gpu_bridge.catalog import function_named
from gpu_bridge.providers.port import Pending, Provider
from gpu_bridge.submit import Stopped, chosen, item_of, news, request, tell_to_stop
from runtime import clock, logs, telemetry
from runtime.objects import Objects
from runtime.outbox import Outbox, Outgoing, outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

SOURCE: Final = "gpu-bridge"
LEASE_S: Final = 15.0  # a dead bridge's calls move on after this
LOOK_EVERY_S: Final = 3.0  # for leases that ran out and for calls that another process wrote down
log = logs.get()


@dataclass
class Runner:
    """`slots` calls at once in this process. `arrived` is set when the handler wrote new calls down."""

    engine: AsyncEngine
    outbox: Outbox
    js: JetStreamContext
    objects: Objects
    providers: Sequence[Provider]
    arrived: asyncio.Event
    slots: int

    def __post_init__(self) -> None:
        self._me: UUID = uuid4()
        self._stops: dict[str, asyncio.Event] = {}  # of the calls that run here

    async def run_forever(self) -> None:
        """Take calls until cancelled; what is running then is told to stop and left to its lease."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self.slots):
                slots.create_task(self._slot())

    def stop_here(self, key: str) -> None:
        """The ledger asks this call to stop: if it runs here, its watcher need not find out by itself."""
        if key in self._stops:
            self._stops[key].set()

    async def _slot(self) -> None:
        while True:
            try:
                call = await self._lease()
                if call is not None:
                    self.arrived.set()  # there may be more: let a waiting slot look
                    await self._run(call)
                    continue
            except Exception as problem:  # database or broker away: the lease decides who goes on
                log.warning("runner.interrupted", error=type(problem).__name__, exc_info=problem)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):  # Python 3.11's wait_for may swallow a cancellation
                    await self.arrived.wait()
            self.arrived.clear()

    async def _lease(self) -> Call | None:
        now = clock.now()
        async with self.engine.begin() as conn:
            return await store.lease_if_free(conn, self._me, now, now + timedelta(seconds=LEASE_S))

    async def _run(self, call: Call) -> None:
        started_at = clock.now()
        provider: str | None = None
        with (
            logs.work(call.key),
            telemetry.span(
                f"call {call.function}",
                traceparent=call.traceparent,
                attributes={"safelight.key": call.key, "safelight.tries": call.tries},
            ) as span,
            self._stoppable(call.key) as stop,
        ):
            try:
                if call.state is State.STOPPING:
                    await self._stop_left_behind(call)
                    raise Stopped
                if started_at >= call.command.deadline:
                    raise error("CALL_DEADLINE", "the call waited past its deadline")
                function = function_named(call.function)
                result: Outcome
                match await chosen(self.providers, call.command, function):
                    case PhaseDeferred() if call.submission:  # bought already, by a process that fell silent
                        raise error("CALL_LOST", "its process died, and no provider takes it over now")
                    case PhaseDeferred() as result:
                        provider = result.provider
                        log.info("runner.deferred", provider=provider, code=result.code, until=str(result.until))
                    case taker:
                        provider = taker.name
                        span.set_attribute("safelight.provider", provider)
                        item = await item_of(self.objects, call, function)
                        response = await self._watched(call, item, taker, stop)
                        traces.join(response.spans)
                        result = outcome(call.command, function, item, response, started_at, clock.now())
                message = _message(call, result)
            except Stopped:
                await self._record_cancelled(call)
                return
            except Exception as problem:
                known = problem if isinstance(problem, SafelightError) else error("INTERNAL", type(problem).__name__)
                log.warning("runner.failed", code=known.code, exc_info=None if known is problem else problem)
                result = failed(call.command, known.code, known.detail, started_at, clock.now())
                message = _message(call, result)
            if isinstance(result, PhaseFailed):
                telemetry.fail(span, result.code)
            await self._record(call, provider, result, message)

    @contextlib.contextmanager
    def _stoppable(self, key: str) -> Iterator[asyncio.Event]:
        stop = self._stops[key] = asyncio.Event()
        try:
            yield stop
        finally:
            if self._stops.get(key) is stop:  # else this process leased the call again
                del self._stops[key]

    async def _watched(self, call: Call, item: Item, provider: Provider, stop: asyncio.Event) -> CallResponse:
        """Submit and wait for the answer. Whatever else ends the wait, the provider is told. Raises Stopped."""
        if stop.is_set():
            raise Stopped
        handle = await provider.submit(request(call, item))
        told: float | None = None
        try:
            await self._extend(call, Submission(provider.name, handle))
            while True:
                state = await news(provider, handle, stop)
                if not isinstance(state, Pending):
                    return state
                if clock.now() >= call.command.deadline:  # a provider that has not noticed does not hold the call
                    raise error("CALL_DEADLINE")
                if state.fraction is not None and state.fraction != told:
                    told = state.fraction
                    await self._tell_progress(call, told)
                await self._extend(call)
        except BaseException:
            await tell_to_stop(provider, handle)
            raise

    async def _extend(self, call: Call, submission: Submission | None = None) -> None:
        until = clock.now() + timedelta(seconds=LEASE_S)
        async with self.engine.begin() as conn:
            state = await store.extend_if_mine(conn, call, until, submission)
        if state is None:
            raise error("CALL_LOST", "the lease went to another process")
        if state is State.STOPPING:
            raise Stopped

    async def _stop_left_behind(self, call: Call) -> None:
        """Tell the provider in the stead of a process that fell silent before it did."""
        for provider in self.providers:
            if call.submission and provider.name == call.submission.provider:
                await tell_to_stop(provider, call.submission.handle)

    async def _tell_progress(self, call: Call, fraction: float) -> None:
        message = PhaseProgressed(**about(call.command), fraction=fraction, at=clock.now())
        message_id = f"{call.key}.progress.{fraction:.3f}"
        try:
            hint = outgoing(PHASE_PROGRESSED, message, message_id=message_id, key=call.key, source=SOURCE)
            await publish(self.js, [hint])
        except SafelightError:
            log.info("runner.progress_lost")

    async def _record(self, call: Call, provider: str | None, result: Outcome, message: Outgoing) -> None:
        async with self.engine.begin() as conn:
            recorded = await store.record_if_mine(conn, call, provider, result)
            if recorded:
                await self.outbox.add(conn, [message])
        if not recorded:
            await self._record_cancelled(call)  # the stop came first, unless the lease is gone
            return
        try:
            await self.outbox.flush([message])
        except SafelightError as problem:
            log.warning("outbox.left_to_sweep", code=problem.code, messages=1)

    async def _record_cancelled(self, call: Call) -> None:
        async with self.engine.begin() as conn:
            cancelled = await store.cancel_if_mine(conn, call, clock.now())
        if cancelled:
            log.info("runner.cancelled")
        else:
            log.warning("runner.lease_lost")


def _message(call: Call, result: Outcome) -> Outgoing:
    message_id = f"{call.key}.outcome"
    match result:
        case PhaseSucceeded():
            return outgoing(PHASE_SUCCEEDED, result, message_id=message_id, key=call.key, source=SOURCE)
        case PhaseFailed():
            return outgoing(PHASE_FAILED, result, message_id=message_id, key=call.key, source=SOURCE)
        case PhaseDeferred():
            return outgoing(PHASE_DEFERRED, result, message_id=message_id, key=call.key, source=SOURCE)
