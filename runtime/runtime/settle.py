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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
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
from runtime import logs, telemetry, wire
from runtime.outbox import Outgoing, dressed, publish
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
    return dressed(dead_id, f"dead.{message.subject}", headers, message.data)


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
            async with _in_progress(raw._client, row, [raw.reply.encode()]):
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
async def _in_progress(
    nc: Client, consumer: topology.Consumer, replies: Sequence[bytes], waiting: Callable[[], Sequence[bytes]] = tuple
) -> AsyncIterator[None]:
    async def beat() -> None:
        while True:
            await asyncio.sleep(consumer.ack_wait_s / 3)
            with contextlib.suppress(NatsError):
                await wire.send(nc, [wire.answer(reply, Msg.Ack.Progress) for reply in (*replies, *waiting())])

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


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One message of a batch, before its body is trusted. `head` are its headers as they came over the wire."""

    subject: str
    reply: bytes
    head: bytes
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        return wire.headers_of(self.head)

    @property
    def message_id(self) -> str:
        """What the inbox knows it by: its CloudEvents id, which a message keeps when it is sent again.

        A message of a stranger, without one, goes by its Nats-Msg-Id, or by its place in the stream.
        """
        known = wire.value_of(self.head, _ID) or wire.value_of(self.head, _MESSAGE_ID)
        return known or f"{self.message().metadata.stream}.{self.sequence}"

    @property
    def key(self) -> str:
        """The work that it is about: `job`, `job.phase.attempt`. Empty for a message of a stranger."""
        return wire.value_of(self.head, _SUBJECT) or ""

    @property
    def traceparent(self) -> str | None:
        return wire.value_of(self.head, _TRACE)

    @property
    def sequence(self) -> int:
        """Its place in the stream."""
        return self.message().metadata.sequence.stream

    def message(self, nc: Client | None = None) -> Msg:
        """As nats-py has it; without a connection it can only be read."""
        return Msg(nc, self.subject, self.reply.decode(), self.body, self.headers)  # type: ignore[arg-type]


_ID, _MESSAGE_ID, _SUBJECT, _TRACE = (
    name.encode() for name in (HEADER_ID, HEADER_MESSAGE_ID, HEADER_SUBJECT, HEADER_TRACE)
)
BatchHandler = Callable[[Sequence[Delivery]], Awaitable[None]]


async def consume_batches(
    nc: Client,
    consumer: topology.Consumer,
    handle: BatchHandler,
    *,
    batch_max: int = 100,
    at_once: int = 1,
    about: Callable[[Delivery], str] = lambda _: "",
) -> None:
    """Hand over whatever has arrived, up to `batch_max` in stream order, until cancelled.

    `handle` is all or nothing: when it raises for a batch, each message is handled alone, so
    that one bad message costs its neighbours nothing.

    So many batches are handled `at_once`: one is decided while another waits for the database. No two of them hold
    messages `about` the same thing, so that whatever is said about it is heard in its order.
    """
    js = nc.jetstream()
    busy: dict[asyncio.Task[None], frozenset[str]] = {}
    line: list[tuple[str, Delivery]] = []  # what has to wait for what is being handled
    async with _Pull(nc, consumer, batch_max) as pull:

        async def work(batch: Sequence[Delivery]) -> None:
            replies = [delivery.reply for delivery in batch]
            async with _in_progress(nc, consumer, replies, lambda: [*pull.waiting(), *(d.reply for _, d in line)]):
                together = await _attempt(handle, batch)
                if together is None or len(batch) == 1:
                    outcomes = [together] * len(batch)
                else:
                    outcomes = [await _attempt(handle, [one]) for one in batch]
            with contextlib.suppress(NatsError):  # not settled is delivered again
                await acknowledge(nc, [one for one, outcome in zip(batch, outcomes, strict=True) if outcome is None])
            for delivery, outcome in zip(batch, outcomes, strict=True):
                if outcome is not None:
                    with contextlib.suppress(NatsError):
                        await settle(js, delivery.message(nc), consumer, outcome)

        try:
            while True:
                if busy:  # a second batch is worth its transaction when it is a large one, and what waits is first
                    more = () if line or len(busy) >= at_once else (pull.half_full(),)
                    await _first(busy, *more)
                for task in [task for task in busy if task.done()]:
                    del busy[task]
                    task.result()
                if not line and len(busy) < at_once:
                    try:
                        line = [(about(one), one) for one in await pull.take()]
                    except NatsError as problem:
                        log.warning("settle.pull_failed", consumer=consumer.name, error=type(problem).__name__)
                        await asyncio.sleep(BROKEN_PULL_PAUSE_S)
                taken = frozenset[str]().union(*busy.values())
                batch = [one for key, one in line if key not in taken]
                if batch:
                    keys = frozenset(key for key, _ in line) - taken
                    busy[asyncio.create_task(work(batch))] = keys
                    line = [(key, one) for key, one in line if key in taken]
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)


async def _first(tasks: Iterable[asyncio.Task[None]], *more: Awaitable[object]) -> None:
    """Wait until one of these is done."""
    others = [asyncio.ensure_future(one) for one in more]
    try:
        await asyncio.wait([*tasks, *others], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for other in others:
            other.cancel()


async def acknowledge(nc: Client, deliveries: Sequence[Delivery]) -> None:
    """Ack what was handled, all at once: the broker takes an empty answer as an ack."""
    await wire.send(nc, [wire.answer(delivery.reply) for delivery in deliveries])


async def _attempt(handle: BatchHandler, deliveries: Sequence[Delivery]) -> Exception | None:
    try:
        await handle(deliveries)
    except Exception as problem:
        return problem
    return None


class _Pull:
    """Standing pull requests: while one batch is being handled, the next arrives, and is a whole one."""

    def __init__(self, nc: Client, consumer: topology.Consumer, batch_max: int) -> None:
        self._nc = nc
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{consumer.stream}.{consumer.name}"
        self._consumer = consumer
        self._batch_max = batch_max
        self._inbox = nc.new_inbox()
        self._round = 0
        self._owed = 0  # messages that requests may still bring
        self._ends_at = 0.0  # of the last request
        self._arrived: deque[Delivery] = deque()
        self._subjects: dict[bytes, str] = {}
        self._refused: list[str] = []
        self._any = asyncio.Event()
        self._half = asyncio.Event()

    async def __aenter__(self) -> _Pull:
        self._subscription = await wire.listen(self._nc, f"{self._inbox}.*", self._came)
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(NatsError):
            await wire.unlisten(self._nc, self._subscription)

    def _came(self, subject: bytes, reply: bytes, head: bytes, body: bytes) -> None:
        status = None if body or reply else wire.status_of(head)
        if status is None:
            self._owed -= 1
            known = self._subjects.get(subject) or self._subjects.setdefault(subject, subject.decode())
            self._arrived.append(Delivery(known, reply, head, body))
        else:  # a request has ended
            left = wire.value_of(head, _NOT_BROUGHT)
            self._owed -= int(left) if left else self._owed
            if status not in _ORDINARY:
                self._refused.append(status)
        self._any.set()
        if len(self._arrived) >= self._batch_max // 2:
            self._half.set()

    async def half_full(self) -> None:
        """Wait until at least half a batch is there."""
        self._half.clear()
        if len(self._arrived) < self._batch_max // 2:
            await self._half.wait()

    def waiting(self) -> list[bytes]:
        """Where to answer those that have arrived and were not taken yet."""
        return [delivery.reply for delivery in self._arrived]

    async def take(self) -> list[Delivery]:
        """Wait for the first message, then take what else is there. Empty when a request ran out."""
        clock = asyncio.get_running_loop()
        await self._ask(clock.time())
        if not self._arrived:
            self._any.clear()
            try:
                async with asyncio.timeout(max(0.01, self._ends_at - clock.time())):
                    await self._any.wait()
            except TimeoutError:
                self._owed = 0  # its end was not heard of
                return []
        taken = [self._arrived.popleft() for _ in range(min(len(self._arrived), self._batch_max))]
        if self._refused:  # e.g. 503: nobody answers for this consumer
            log.warning("settle.pull_refused", consumer=self._consumer.name, statuses=self._refused)
            self._refused = []
            if not taken:
                await asyncio.sleep(BROKEN_PULL_PAUSE_S)
        else:
            await self._ask(clock.time())
        return taken

    async def _ask(self, now: float) -> None:
        if now >= self._ends_at:
            self._owed = 0
        if self._owed + len(self._arrived) < self._batch_max:
            self._round += 1
            self._owed += self._batch_max
            self._ends_at = now + PULL_EXPIRES_S + PULL_GRACE_S
            request = {"batch": self._batch_max, "expires": int(PULL_EXPIRES_S * 1e9)}
            await self._nc.publish(self._next, json.dumps(request).encode(), reply=f"{self._inbox}.{self._round}")


_ORDINARY = ("404", "408")  # none there, request expired
_NOT_BROUGHT = b"Nats-Pending-Messages"  # of a request that has ended
