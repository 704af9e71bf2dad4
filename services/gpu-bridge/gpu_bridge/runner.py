"""Runs the ledger's calls: lease, submit, watch, record, publish.

The order that survives a crash at any point: the call is in the ledger before it is submitted,
the lease says who is at it, the outcome and its outbox row are one commit. A process that dies
leaves a lease that runs out; whoever takes the call then writes the same object keys again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import CallRequest, CallResponse, Item, ReadUrl, WriteUrl
from contracts.errors import SafelightError, error
from contracts.phases import PHASE_FAILED, PHASE_PROGRESSED, PHASE_SUCCEEDED, PhaseProgressed, PhaseSucceeded
from gpu_bridge import store, traces
from gpu_bridge.call import Call, Outcome, failed, outcome
from gpu_bridge.catalog import Function, function_named
from gpu_bridge.providers.port import Pending, Provider
from runtime import clock, logs, telemetry
from runtime.objects import Objects
from runtime.outbox import Outbox, Outgoing, outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

SOURCE: Final = "gpu-bridge"
LEASE_S: Final = 15.0  # a dead bridge's calls move on after this
POLL_S: Final = 4.0  # so a lease is extended at least three times before it runs out
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

    async def run_forever(self) -> None:
        """Take calls until cancelled; what is running then is told to stop and left to its lease."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self.slots):
                slots.create_task(self._slot())

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
        function = function_named(call.function)
        with (
            logs.work(call.key),
            telemetry.span(
                f"call {function.name}",
                traceparent=call.traceparent,
                attributes={"safelight.key": call.key, "safelight.tries": call.tries},
            ) as span,
        ):
            provider: Provider | None = None
            try:
                provider = await self._provider(function)
                span.set_attribute("safelight.provider", provider.name)
                response = await self._watched(call, function, provider)
                traces.join(response.spans)
                result = outcome(call.command, function, response, started_at, clock.now())
                message = _message(call, result)
            except Exception as problem:
                known = problem if isinstance(problem, SafelightError) else error("INTERNAL", type(problem).__name__)
                log.warning("runner.failed", code=known.code, exc_info=None if known is problem else problem)
                result = failed(call.command, known.code, known.detail, started_at, clock.now())
                message = _message(call, result)
            if not isinstance(result, PhaseSucceeded):
                telemetry.fail(span, result.code)
            await self._record(call, provider.name if provider else None, result, message)

    async def _provider(self, function: Function) -> Provider:
        for name in function.providers:
            for provider in self.providers:
                if provider.name == name and await provider.healthy():
                    return provider
        raise error("NO_PROVIDER")

    async def _watched(self, call: Call, function: Function, provider: Provider) -> CallResponse:
        if clock.now() >= call.command.deadline:
            raise error("CALL_DEADLINE", "the call waited past its deadline")
        handle = await provider.submit(await self._request(call, function))
        told: float | None = None
        try:
            while True:
                state = await provider.poll(handle, POLL_S)
                if not isinstance(state, Pending):
                    return state
                if clock.now() >= call.command.deadline:  # a provider that has not noticed does not hold the call
                    raise error("CALL_DEADLINE")
                if state.fraction is not None and state.fraction != told:
                    told = state.fraction
                    await self._tell_progress(call, told)
                await self._extend(call)
        except BaseException:
            await provider.cancel(handle)
            raise

    async def _extend(self, call: Call) -> None:
        until = clock.now() + timedelta(seconds=LEASE_S)
        async with self.engine.begin() as conn:
            if not await store.extend_if_mine(conn, call.key, self._me, until):
                raise error("CALL_LOST", "the lease went to another process")

    async def _tell_progress(self, call: Call, fraction: float) -> None:
        command = call.command
        message = PhaseProgressed(
            job_id=command.job_id, phase=command.phase, attempt=command.attempt, fraction=fraction, at=clock.now()
        )
        message_id = f"{call.key}.progress.{fraction:.3f}"
        try:
            hint = outgoing(PHASE_PROGRESSED, message, message_id=message_id, key=call.key, source=SOURCE)
            await publish(self.js, [hint])
        except SafelightError:
            log.info("runner.progress_lost")

    async def _request(self, call: Call, function: Function) -> CallRequest:
        command = call.command
        lives = max(command.deadline - clock.now(), timedelta(seconds=1))
        inputs = {}
        for role in function.inputs:
            if role not in command.inputs:
                raise error("OBJECT_MISSING", f"the command names no object for the role {role}")
            ref = command.inputs[role]
            inputs[role] = ReadUrl(url=await self.objects.read_url(ref.key, lives), sha256=ref.sha256, size=ref.size)
        outputs = {}
        for role, name in function.outputs.items():
            key = f"jobs/{command.job_id}/{command.phase}/{command.attempt}/{name}"
            outputs[role] = WriteUrl(url=await self.objects.write_url(key, lives), key=key)
        item = Item(id=call.key, inputs=inputs, outputs=outputs, parameters=command.parameters)
        return CallRequest(
            call_id=f"{call.key}.{call.tries}",
            function=function.name,
            items=[item],
            deadline=command.deadline,
            traceparent=telemetry.traceparent(),
        )

    async def _record(self, call: Call, provider: str | None, result: Outcome, message: Outgoing) -> None:
        async with self.engine.begin() as conn:
            if not await store.record_if_mine(conn, call, self._me, provider, result):
                log.warning("runner.lease_lost")
                return
            await self.outbox.add(conn, [message])
        try:
            await self.outbox.flush([message])
        except SafelightError as problem:
            log.warning("outbox.left_to_sweep", code=problem.code, messages=1)


def _message(call: Call, result: Outcome) -> Outgoing:
    message_id = f"{call.key}.outcome"
    if isinstance(result, PhaseSucceeded):
        return outgoing(PHASE_SUCCEEDED, result, message_id=message_id, key=call.key, source=SOURCE)
    return outgoing(PHASE_FAILED, result, message_id=message_id, key=call.key, source=SOURCE)
