"""A GPU command follows a call of the ledger; the work itself is the submitter's and the watcher's, at their pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind

from contracts.errors import SafelightError, error
from contracts.phases import RunPhase, StopPhase
from contracts.uploads import UploadReceived
from gpu_bridge import store
from gpu_bridge.call import alike, failed, idempotency_key, succeeded
from gpu_bridge.catalog import FUNCTIONS, Function, function_of
from gpu_bridge.ledger import Ledger, message
from gpu_bridge.marks import MarkStore
from gpu_bridge.store import Follower
from gpu_bridge.tables import ERASED
from runtime import clock, erased, logs, telemetry
from runtime.outbox import Outgoing

if TYPE_CHECKING:
    from gpu_bridge.vendors import Vendors
    from runtime.settle import Delivery

PREWARM_S = 10.0
log = logs.get()


@dataclass(frozen=True, slots=True)
class _Given:
    """A command, the call that does its work, and the trace that it came with. No key: it lacks an input."""

    command: RunPhase
    function: Function
    key: str | None
    traceparent: str | None

    @property
    def order(self) -> tuple[str, str]:
        return (self.key or "", self.command.key)


@dataclass(frozen=True, slots=True)
class Handlers:
    """`arrived` wakes the submitter; `stop_here` tells the watcher of a call that it may be watching."""

    ledger: Ledger
    marks: MarkStore
    vendors: Vendors
    arrived: asyncio.Event
    stop_here: Callable[[str], None]
    functions: Sequence[Function] = FUNCTIONS

    async def commands(self, deliveries: Sequence[Delivery]) -> None:
        """Write the commands down behind their calls, commit; settle acks. The key is the inbox.

        One whose result is there already is answered in the same commit.

        Raises:
            SafelightError: FUNCTION_UNKNOWN for a lane that the catalogue does not serve.
            ValidationError: for a body that is no command.
        """
        given = sorted((_given(delivery) for delivery in deliveries), key=lambda one: one.order)
        gone = await self._gone([one.key for one in given if one.key])
        messages: list[Outgoing] = []
        async with self.ledger.engine.begin() as conn:
            late = await erased.among(conn, ERASED, [one.command.job_id for one in given])
            for key in gone:
                await store.forget(conn, key)
            for one in given:
                if one.command.job_id in late:
                    continue
                with telemetry.span(
                    f"accept {one.function.name}",
                    traceparent=one.traceparent,
                    kind=SpanKind.CONSUMER,
                    attributes={"safelight.key": one.command.key},
                ):
                    follower = Follower(one.command, telemetry.traceparent())
                    now = clock.now()
                    if one.key is None:
                        lacks = failed(one.command, "OBJECT_MISSING", "the command lacks an input", None, now)
                        messages.append(message(follower, lacks))
                        continue
                    together = alike(one.command, one.function)
                    kept = await store.follow(
                        conn, one.key, one.function, together, one.command, follower.traceparent, now
                    )
                    if kept is not None:
                        log.info("call.known", key=one.command.key, call=one.key)
                        messages.append(message(follower, succeeded(one.command, kept, now, now)))
            if messages:
                await self.ledger.outbox.add(conn, messages)
        if messages:
            await self.ledger.publish(messages)
        self.arrived.set()

    async def _gone(self, keys: Sequence[str]) -> list[str]:
        """Those of the calls whose result cannot be had any more, since somebody has deleted its objects."""
        async with self.ledger.engine.connect() as conn:
            kept = await store.kept_of(conn, keys)
        gone = []
        for key, result in sorted(kept.items()):
            sizes = [await self.marks.objects.size(artifact.key) for artifact in result.artifacts]
            if None in sizes:
                gone.append(key)
        return gone

    async def stops(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the stops; settle acks. One that is delivered again, or of an erased job, finds nothing left to do.

        Raises:
            ValidationError: for a body that is no stop.
        """
        given = sorted((StopPhase.model_validate_json(delivery.body) for delivery in deliveries), key=lambda s: s.key)
        stopped = []
        for one in given:  # one commit each: the order of their calls is not known before
            async with self.ledger.engine.begin() as conn:
                if not await erased.among(conn, ERASED, [one.job_id]):
                    stopped.append(await store.stop(conn, one.key, clock.now()))
        for call in stopped:
            if call is not None:
                self.stop_here(call)

    async def uploads(self, deliveries: Sequence[Delivery]) -> None:
        """The first upload of a batch: more are about to come, so the providers are asked for capacity, once.

        Raises:
            ValidationError: for a body that is no upload.
        """
        received = [UploadReceived.model_validate_json(delivery.body) for delivery in deliveries]
        async with self.ledger.engine.begin() as conn:
            batches = {upload.batch_id for upload in received if upload.batch_id is not None}
            batches -= await erased.among(conn, ERASED, list(batches))
            fresh = [batch for batch in sorted(batches) if await store.expect(conn, batch)]
        if fresh:
            log.info("batch.expected", batches=len(fresh))
            warmable = self._warmable()
            await asyncio.gather(*(self._prewarm(name, function) for name, function in warmable.items()))

    def _warmable(self) -> dict[str, str]:
        """Of each provider that can be asked for capacity and takes work: a function that it does."""
        now = clock.now()
        found: dict[str, str] = {}
        for function in self.functions:
            for name, opening in self.vendors.openings(function, {}, now).items():
                provider = self.vendors.named(name)
                if provider and provider.capabilities.prewarms and opening.takes_work:
                    found.setdefault(name, function.name)
        return found

    async def _prewarm(self, name: str, function: str) -> None:
        provider = self.vendors.named(name)
        if provider is None:
            return
        try:
            async with asyncio.timeout(PREWARM_S):
                await provider.prewarm(function)
        except Exception as problem:  # a hint: without it the first photo waits for the cold start
            code = problem.code if isinstance(problem, SafelightError) else type(problem).__name__
            log.warning("provider.not_warmed", provider=name, error=code)


def _given(delivery: Delivery) -> _Given:
    command = RunPhase.model_validate_json(delivery.body)
    lane = delivery.subject.rsplit(".", 1)[-1]
    function = function_of(lane)
    if function is None:
        raise error("FUNCTION_UNKNOWN", f"no function serves the lane {lane}")
    try:
        key = idempotency_key(command, function)
    except SafelightError:
        key = None
    return _Given(command, function, key, delivery.traceparent)
