"""One submission: what a provider is handed, and how long it may take to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from contracts.envelope import CallRequest
from contracts.errors import error
from gpu_bridge.call import Call, must_end_by
from gpu_bridge.catalog import Function
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.port import Provider
from gpu_bridge.store import Follower
from runtime import clock

SUBMIT_S: Final = 20.0  # a submission that has no answer by then is open


async def submitted(
    provider: Provider,
    function: Function,
    calls: Sequence[Call],
    commands: Mapping[str, Follower],
    marks: MarkStore,
) -> str:
    """Give a provider one submission of these calls, which are of one function. Returns its handle.

    Raises:
        SafelightError: see `Provider.submit`; PROVIDER_TIMEOUT when it did not answer in time; OBJECT_MISSING.
    """
    outside = provider.capabilities.shared  # one that is not runs in a process of ours, and reaches storage as we do
    asked = await request(function, calls, commands, marks, public=outside)
    try:
        async with asyncio.timeout(SUBMIT_S):
            return await provider.submit(asked)
    except TimeoutError as problem:
        raise error("PROVIDER_TIMEOUT") from problem


async def request(
    function: Function,
    calls: Sequence[Call],
    commands: Mapping[str, Follower],
    marks: MarkStore,
    *,
    public: bool = False,
) -> CallRequest:
    """The envelope of one submission. Its name is of this try: a provider that is asked twice sees two."""
    now = clock.now()
    deadline = must_end_by(function.clocks, len(calls), max(call.deadline for call in calls), now)
    lives = max(deadline - now, timedelta(seconds=1))
    items = [await marks.item(call, function, commands[call.key].command, lives, public=public) for call in calls]
    first = calls[0]
    return CallRequest(
        call_id=f"{first.key[:16]}.{first.epoch}.{now.timestamp():.6f}",
        function=function.name,
        function_version=function.version,
        items=items,
        deadline=deadline,
        traceparent=commands[first.key].traceparent,
    )
