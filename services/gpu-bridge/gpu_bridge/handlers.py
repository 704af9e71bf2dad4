"""A GPU command becomes a row of the ledger; the work itself is the runner's, at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import error
from contracts.phases import RunPhase, StopPhase
from gpu_bridge import store
from gpu_bridge.catalog import function_of
from runtime import clock, telemetry
from runtime.settle import Delivery


@dataclass(frozen=True, slots=True)
class Handlers:
    """`arrived` wakes the runner; `stop_here` tells it of a call that it may be watching."""

    engine: AsyncEngine
    arrived: asyncio.Event
    stop_here: Callable[[str], None]

    async def commands(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the calls; settle acks. The key is the inbox: a redelivered command finds its row.

        Raises:
            SafelightError: FUNCTION_UNKNOWN for a lane that the catalogue does not serve.
            ValidationError: for a body that is no command.
        """
        given = [(RunPhase.model_validate_json(delivery.body), delivery) for delivery in deliveries]
        given.sort(key=lambda one: one[0].key)  # locked in the order of stops: see `stop_if_not_over`
        async with self.engine.begin() as conn:
            for command, delivery in given:
                lane = delivery.subject.rsplit(".", 1)[-1]
                function = function_of(lane)
                if function is None:
                    raise error("FUNCTION_UNKNOWN", f"no function serves the lane {lane}")
                with telemetry.span(
                    f"accept {function.name}",
                    traceparent=delivery.traceparent,
                    kind=SpanKind.CONSUMER,
                    attributes={"safelight.key": command.key},
                ):
                    await store.insert_if_new(conn, function.name, command, telemetry.traceparent())
        self.arrived.set()

    async def stops(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the stops; settle acks. One that is delivered again finds nothing left to do.

        Raises:
            ValidationError: for a body that is no stop.
        """
        keys = [StopPhase.model_validate_json(delivery.body).key for delivery in deliveries]
        async with self.engine.begin() as conn:
            await store.stop_if_not_over(conn, keys, clock.now())
        for key in keys:
            self.stop_here(key)
