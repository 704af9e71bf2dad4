"""Settling messages. This is the only file that acks, naks or terms.

    handler returns                      -> ack
    transient error, deliveries left     -> nak with the consumer's delay for that delivery
    permanent error | invalid body |
      last delivery                      -> dead letter published and confirmed, then term
    process dies                         -> nothing: the message comes again after ack_wait

FastStream's default policy terminates a failed message (silent loss) and an immediate nak
burns every delivery within milliseconds, so every subscriber is made by `subscribe`, which
says MANUAL and leaves the verdict to this file. While a handler works, in-progress is sent
every third of ack_wait. Two ways to take messages:

- `subscribe`: one by one through FastStream, for handlers that do real work;
- `consume_batches`: everything that is there, for hot paths that settle a batch per
  transaction. It pulls by itself because FastStream's batch pull stalls (see the messaging
  design notes).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from faststream import AckPolicy, BaseMiddleware
from faststream.nats import JStream, NatsBroker, PullSub
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from contracts import topology
from contracts.errors import Permanent, SafelightError
from contracts.message import (
    HEADER_CONSUMER,
    HEADER_DELIVERIES,
    HEADER_ERROR_CODE,
    HEADER_ERROR_MESSAGE,
    HEADER_ID,
    HEADER_MESSAGE_ID,
    HEADER_ORIGINAL_ID,
    HEADER_SUBJECT,
    HEADER_TRACE,
)
from runtime import logs, telemetry
from runtime.outbox import Outgoing, publish
from runtime.vault import sealing

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

PULL_EXPIRES_S = 5.0
PULL_GRACE_S = 1.0  # after this a pull whose end was not heard of (reconnect) is asked anew
BROKEN_PULL_PAUSE_S = 0.5
log = logs.get()


@dataclass(frozen=True, slots=True)
class Retry:
    """Deliver again after so many seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Dead:
    """Never deliver again; keep it as a dead letter under this code."""

    code: str
    detail: str


def verdict(problem: Exception, deliveries: int, consumer: topology.Consumer) -> Retry | Dead:
    """What a failed delivery deserves. Pure; `deliveries` counts this one, from 1."""
    if isinstance(problem, Permanent):
        return Dead(problem.code, problem.detail)
    if isinstance(problem, ValidationError):
        return Dead("MESSAGE_INVALID", f"{problem.error_count()} fields do not fit {problem.title}")
    if isinstance(problem, json.JSONDecodeError | UnicodeDecodeError):
        return Dead("MESSAGE_INVALID", "the body is no JSON")
    known = isinstance(problem, SafelightError)
    if deliveries > len(consumer.retry_s):
        return Dead(problem.code if known else "INTERNAL", problem.detail if known else type(problem).__name__)  # type: ignore[attr-defined]
    return Retry(consumer.retry_s[deliveries - 1])


async def settle(js: JetStreamContext, message: Msg, consumer: topology.Consumer, problem: Exception | None) -> None:
    """Carry out the verdict on one message; `problem` is None when it was handled.

    A dead letter that the broker did not confirm leaves the message alone: it comes again.
    """
    if problem is None:
        await message.ack()
        return
    deliveries = message.metadata.num_delivered
    match verdict(problem, deliveries, consumer):
        case Retry(delay_s):
            log.warning("settle.retry", consumer=consumer.name, deliveries=deliveries, error=_name(problem))
            await message.nak(delay=delay_s)
        case Dead(code, detail):
            log.error("settle.dead", consumer=consumer.name, deliveries=deliveries, code=code, exc_info=problem)
            try:
                await publish(js, [dead_letter(message, consumer, Dead(code, detail))])
            except SafelightError:
                log.error("settle.dead_letter_unconfirmed", consumer=consumer.name)
                return
            await message.term()


def dead_letter(message: Msg, consumer: topology.Consumer, reason: Dead) -> Outgoing:
    """The message as it came, on `dead.<its subject>`, with the reason in headers."""
    headers = dict(message.headers or {})
    message_id = headers.get(HEADER_MESSAGE_ID) or f"{message.metadata.stream}.{message.metadata.sequence.stream}"
    dead_id = f"dead.{consumer.name}.{message_id}"
    headers |= {
        HEADER_MESSAGE_ID: dead_id,
        HEADER_ID: dead_id,
        HEADER_ORIGINAL_ID: headers.get(HEADER_ID, message_id),
        HEADER_ERROR_CODE: reason.code,
        HEADER_ERROR_MESSAGE: reason.detail.replace("\r", " ").replace("\n", " ")[:500],
        HEADER_DELIVERIES: str(message.metadata.num_delivered),
        HEADER_CONSUMER: consumer.name,
    }
    return Outgoing(dead_id, f"dead.{message.subject}", headers, message.data)


def _name(problem: Exception) -> str:
    return problem.code if isinstance(problem, SafelightError) else type(problem).__name__


# -- one by one, through FastStream ---------------------------------------------------------


class SettleMiddleware(BaseMiddleware):
    """Spans, in-progress and the verdict around every handler."""

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: Any) -> Any:
        raw: Msg = msg.raw_message
        row = topology.consumer(raw.metadata.consumer)
        headers = raw.headers or {}
        problem: Exception | None = None
        with (
            telemetry.span(
                f"process {raw.subject}",
                traceparent=headers.get(HEADER_TRACE),
                kind=SpanKind.CONSUMER,
                attributes=_attributes(raw, row),
            ) as span,
            logs.work(headers.get(HEADER_SUBJECT, "")),
        ):
            async with _in_progress([raw], row):
                try:
                    with sealing(_sealed_under(raw.data)):
                        await call_next(msg)
                except Exception as caught:
                    problem = caught
                    telemetry.fail(span, _name(caught))
            await settle(raw._client.jetstream(), raw, row, problem)


def _sealed_under(body: bytes) -> str | None:
    """The key of the original that a command works on: whatever the work makes is sealed under it too."""
    if b'"sealed":"' not in body:
        return None
    try:
        return str(UUID(json.loads(body)["inputs"]["original"]["sealed"]))
    except (ValueError, KeyError, TypeError):
        return None  # no command, or one of work that is not sealed


def subscribe(
    broker: NatsBroker, consumer: topology.Consumer, handler: Callable[..., Awaitable[None]], workers: int
) -> None:
    """Let `handler` take messages of a durable that the topology owner created, `workers` at a time.

    Each worker pulls one message when it is free, so nothing waits prefetched in a busy process.
    """
    for _ in range(workers):
        broker.subscriber(
            consumer.subjects[0],
            stream=JStream(consumer.stream, declare=False),
            durable=consumer.name,
            pull_sub=PullSub(batch_size=1, timeout=PULL_EXPIRES_S),
            inbox_prefix=f"{topology.inbox_of(consumer.owner)}.".encode(),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,
        )(handler)


@contextlib.asynccontextmanager
async def _in_progress(messages: Sequence[Msg], consumer: topology.Consumer) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(consumer.ack_wait_s / 3)
            for message in messages:
                with contextlib.suppress(NatsError):
                    await message.in_progress()

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()


def _attributes(message: Msg, consumer: topology.Consumer) -> dict[str, str | int]:
    return {
        "messaging.system": "nats",
        "messaging.destination.name": message.subject,
        "messaging.consumer.group.name": consumer.name,
        "messaging.nats.deliveries": message.metadata.num_delivered,
        "safelight.key": (message.headers or {}).get(HEADER_SUBJECT, ""),
    }


# -- in batches -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message of a batch, before its body is trusted."""

    raw: Msg

    @property
    def subject(self) -> str:
        return self.raw.subject

    @property
    def body(self) -> bytes:
        return self.raw.data

    @property
    def headers(self) -> dict[str, str]:
        return self.raw.headers or {}

    @property
    def message_id(self) -> str:
        """What the inbox knows it by: its CloudEvents id, which a message keeps when it is sent again.

        A message of a stranger, without one, goes by its Nats-Msg-Id, or by its place in the stream.
        """
        known = self.headers.get(HEADER_ID) or self.headers.get(HEADER_MESSAGE_ID)
        return known or f"{self.raw.metadata.stream}.{self.sequence}"

    @property
    def traceparent(self) -> str | None:
        return self.headers.get(HEADER_TRACE)

    @property
    def sequence(self) -> int:
        """Its place in the stream."""
        return self.raw.metadata.sequence.stream


BatchHandler = Callable[[Sequence[Delivery]], Awaitable[None]]


async def consume_batches(
    nc: Client, consumer: topology.Consumer, handle: BatchHandler, *, batch_max: int = 100
) -> None:
    """Hand over whatever has arrived, up to `batch_max` in stream order, until cancelled.

    `handle` is all or nothing: when it raises for a batch, each message is handled alone, so
    that one bad message costs its neighbours nothing.
    """
    js = nc.jetstream()
    async with _Pull(nc, consumer, batch_max) as pull:
        while True:
            try:
                taken = await pull.take()
            except NatsError as problem:
                log.warning("settle.pull_failed", consumer=consumer.name, error=type(problem).__name__)
                await asyncio.sleep(BROKEN_PULL_PAUSE_S)
                continue
            if not taken:
                continue
            async with _in_progress(taken, consumer):
                deliveries = [Delivery(message) for message in taken]
                together = await _attempt(handle, deliveries)
                if together is None or len(deliveries) == 1:
                    outcomes = [together] * len(deliveries)
                else:
                    outcomes = [await _attempt(handle, [one]) for one in deliveries]
            for message, outcome in zip(taken, outcomes, strict=True):
                with contextlib.suppress(NatsError):  # not settled is delivered again
                    await settle(js, message, consumer, outcome)


async def _attempt(handle: BatchHandler, deliveries: Sequence[Delivery]) -> Exception | None:
    try:
        await handle(deliveries)
    except Exception as problem:
        return problem
    return None


class _Pull:
    """One standing pull request: messages arrive while the last batch is being handled."""

    def __init__(self, nc: Client, consumer: topology.Consumer, batch_max: int) -> None:
        self._nc = nc
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"
        self._batch_max = batch_max
        self._inbox = nc.new_inbox()
        self._round = 0
        self._owed = 0  # messages that the current request may still bring
        self._ends_at = 0.0
        self._arrived: deque[Msg] = deque()
        self._any = asyncio.Event()

    async def __aenter__(self) -> _Pull:
        # A callback that only appends: `next_msg` makes a task and a UUID for each message.
        self._subscription = await self._nc.subscribe(f"{self._inbox}.*", cb=self._came)
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(NatsError):
            await self._subscription.unsubscribe()

    async def _came(self, message: Msg) -> None:
        self._arrived.append(message)
        self._any.set()

    async def take(self) -> list[Msg]:
        """Wait for the first message, then take what else is there. Empty when the request ran out."""
        clock = asyncio.get_running_loop()
        if not self._arrived and (self._owed <= 0 or clock.time() >= self._ends_at):
            self._round += 1
            self._owed = self._batch_max
            self._ends_at = clock.time() + PULL_EXPIRES_S + PULL_GRACE_S
            request = {"batch": self._batch_max, "expires": int(PULL_EXPIRES_S * 1e9)}
            await self._nc.publish(self._next, json.dumps(request).encode(), reply=f"{self._inbox}.{self._round}")
        if not self._arrived:
            self._any.clear()
            try:
                async with asyncio.timeout(max(0.01, self._ends_at - clock.time())):
                    await self._any.wait()
            except TimeoutError:
                return []
        arrived = [self._arrived.popleft() for _ in range(min(len(self._arrived), self._batch_max))]
        statuses = [status for message in arrived if (status := _status(message))]
        messages = [message for message in arrived if message.data or not _status(message)]
        self._owed = 0 if statuses else self._owed - len(messages)
        if any(status not in _ORDINARY for status in statuses):  # e.g. 503: nobody answers for this consumer
            log.warning("settle.pull_refused", statuses=statuses)
            await asyncio.sleep(BROKEN_PULL_PAUSE_S)
        return messages


_ORDINARY = ("404", "408")  # none there, request expired


def _status(message: Msg) -> str | None:
    """The code of a message by which the server ends a pull request, None for one of the stream's."""
    return None if message.data else (message.headers or {}).get("Status")
