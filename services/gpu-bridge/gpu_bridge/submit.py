"""To whom a call goes, what is handed over, and how one listens to a provider and stops it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from contracts.envelope import CallRequest, CallResponse, Item, ReadUrl, WriteUrl
from contracts.errors import error
from contracts.phases import PhaseDeferred, RunPhase
from gpu_bridge.call import Call, deferred, output_keys
from gpu_bridge.catalog import Function, allowed
from gpu_bridge.providers.port import Available, Pending, Provider, Unavailable
from runtime import clock, logs, telemetry
from runtime.objects import Objects

POLL_S: Final = 4.0  # so a lease of 15 s is extended at least three times before it runs out
CANCEL_S: Final = 5.0  # with the poll before it, a stop ends well within the lease
log = logs.get()


class Stopped(Exception):
    """The call was asked to stop."""


async def chosen(providers: Sequence[Provider], command: RunPhase, function: Function) -> Provider | PhaseDeferred:
    """The first that may do it and takes work now; without one, whom to wait for.

    Raises:
        SafelightError: NO_PROVIDER when none of those that are here may do it.
    """
    waits: list[PhaseDeferred] = []
    names = allowed(function, command.engine, command.providers)
    for provider in (one for name in names for one in providers if one.name == name):
        match await provider.availability():
            case Available():
                return provider
            case Unavailable(code, until):
                waits.append(deferred(command, provider.name, code, until, clock.now()))
    if not waits:
        raise error("NO_PROVIDER")
    return min(waits, key=lambda wait: wait.until)


async def item_of(objects: Objects, call: Call, function: Function) -> Item:
    """The call's one item: links to single objects, alive no longer than its deadline. Raises OBJECT_MISSING."""
    command = call.command
    lives = max(command.deadline - clock.now(), timedelta(seconds=1))
    inputs = {}
    for role in function.inputs:
        if role not in command.inputs:
            raise error("OBJECT_MISSING", f"the command names no object for the role {role}")
        ref = command.inputs[role]
        inputs[role] = ReadUrl(url=await objects.read_url(ref.key, lives), sha256=ref.sha256, size=ref.size)
    outputs = {
        role: WriteUrl(url=await objects.write_url(key, lives), key=key)
        for role, key in output_keys(command, function).items()
    }
    return Item(id=call.key, inputs=inputs, outputs=outputs, parameters=command.parameters)


def request(call: Call, item: Item) -> CallRequest:
    """What a provider is given: one lease of one call."""
    return CallRequest(
        call_id=f"{call.key}.{call.tries}",
        function=call.function,
        items=[item],
        deadline=call.command.deadline,
        traceparent=telemetry.traceparent(),
    )


async def news(provider: Provider, handle: str, stop: asyncio.Event) -> Pending | CallResponse:
    """What the provider says next. Raises Stopped as soon as `stop` is set."""
    poll = asyncio.ensure_future(provider.poll(handle, POLL_S))
    asked = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((poll, asked), return_when=asyncio.FIRST_COMPLETED)
        if not poll.done():
            raise Stopped
        return poll.result()
    finally:
        poll.cancel()
        asked.cancel()
        await asyncio.gather(poll, asked, return_exceptions=True)


async def tell_to_stop(provider: Provider, handle: str) -> None:
    """Once, and for `CANCEL_S` at most: a provider that does not hear it is left to the call's own deadline."""
    try:
        async with asyncio.timeout(CANCEL_S):
            await provider.cancel(handle)
    except Exception as problem:
        log.warning("runner.cancel_unheard", provider=provider.name, error=type(problem).__name__)
