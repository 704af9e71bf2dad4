"""Settling on a real broker: what is acked is gone, what fails is paced, what is dead is kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from faststream.nats import NatsBroker
from faststream.security import SASLPlaintext
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig
from pydantic import BaseModel

from contracts import topology
from contracts.errors import error
from contracts.message import HEADER_ERROR_CODE, HEADER_ERROR_MESSAGE, HEADER_MESSAGE_ID
from runtime.settle import Delivery, SettleMiddleware, consume_batches, subscribe
from tests.integration.conftest import until
from tests.servers.models import NatsServer

RETRY_S = (0.3, 0.6)


class Order(BaseModel):
    number: int


@dataclass
class Desk:
    """A consumer of its own for one test, and what its handler was given."""

    nc: Client
    row: topology.Consumer
    seen: list[tuple[int, float]] = field(default_factory=list)

    async def send(self, body: bytes, message_id: str | None = None) -> str:
        message_id = message_id or uuid4().hex
        headers = {HEADER_MESSAGE_ID: message_id, "content-type": "application/json"}
        await self.nc.jetstream().publish(self.row.subjects[0], body, headers=headers)
        return message_id

    async def left(self) -> int:
        """Messages that the consumer still holds or has to deliver."""
        info = await self.nc.jetstream().consumer_info(self.row.stream, self.row.name)
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def stored(self) -> int:
        """Messages on the work queue."""
        info = await self.nc.jetstream().stream_info("COMMANDS", subjects_filter=self.row.subjects[0])
        return sum((info.state.subjects or {}).values())

    async def dead(self) -> list[Any]:
        """This desk's dead letters."""
        sub = await self.nc.jetstream().pull_subscribe(
            f"dead.{self.row.subjects[0]}", stream="DEAD", config=ConsumerConfig(ack_policy=AckPolicy.NONE)
        )
        try:
            return list(await sub.fetch(10, timeout=0.3))
        except TimeoutError:
            return []


@pytest.fixture
async def desk(nc: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    word = "".join(chr(ord("a") + byte % 26) for byte in uuid4().bytes)
    name, subject = f"test-{word}", f"cmd.{word}.v1.run"
    row = topology.Consumer(name, "COMMANDS", "test", (subject,), 1.0, RETRY_S, 100)
    monkeypatch.setitem(topology._BY_NAME, name, row)
    from runtime.topology import _consumer_config

    await nc.jetstream().add_consumer("COMMANDS", _consumer_config(row))
    yield Desk(nc, row)
    await nc.jetstream().delete_consumer("COMMANDS", name)
    await nc.jetstream().purge_stream("COMMANDS", subject=row.subjects[0])


@pytest.fixture
async def broker(nats_server: NatsServer, desk: Desk) -> AsyncIterator[NatsBroker]:
    made = NatsBroker(
        nats_server.url,
        security=SASLPlaintext("setup", nats_server.passwords["setup"]),
        middlewares=[SettleMiddleware],
        graceful_timeout=5,
    )
    await made.connect()
    yield made
    await made.stop()


async def test_a_handled_message_is_gone(desk: Desk, broker: NatsBroker) -> None:
    async def handle(order: Order) -> None:
        desk.seen.append((order.number, time.monotonic()))

    subscribe(broker, desk.row, handle, workers=1)
    await broker.start()
    await desk.send(b'{"number": 7}')
    await until(lambda: desk.seen)
    await until(lambda: _is_zero(desk.stored()))
    assert [number for number, _ in desk.seen] == [7]


async def test_a_transient_failure_comes_again_in_its_own_time_and_then_is_dead(desk: Desk, broker: NatsBroker) -> None:
    async def handle(order: Order) -> None:
        desk.seen.append((order.number, time.monotonic()))
        raise error("STORAGE_UNAVAILABLE", "down")

    subscribe(broker, desk.row, handle, workers=1)
    await broker.start()
    message_id = await desk.send(b'{"number": 7}')
    letters = await until(desk.dead)
    times = [at for _, at in desk.seen]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == len(RETRY_S) + 1
    assert all(gap >= delay * 0.95 for gap, delay in zip(gaps, RETRY_S, strict=True)), gaps
    [letter] = letters
    assert letter.data == b'{"number": 7}'
    assert letter.headers[HEADER_ERROR_CODE] == "STORAGE_UNAVAILABLE"
    assert letter.headers[HEADER_MESSAGE_ID] == f"dead.{desk.row.name}.{message_id}"
    await until(lambda: _is_zero(desk.stored()))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'{"number": 7}', "IMAGE_CORRUPT", id="a permanent error"),
        pytest.param(b'{"number": "a private word"}', "MESSAGE_INVALID", id="a body of another shape"),
        pytest.param(b"\xff\xfe not json", "MESSAGE_INVALID", id="no JSON at all"),
    ],
)
async def test_what_can_never_succeed_is_dead_at_once_and_kept_as_it_came(
    desk: Desk, broker: NatsBroker, body: bytes, code: str
) -> None:
    async def handle(order: Order) -> None:
        desk.seen.append((order.number, 0))
        raise error("IMAGE_CORRUPT")

    subscribe(broker, desk.row, handle, workers=1)
    await broker.start()
    await desk.send(body)
    [letter] = await until(desk.dead)
    assert letter.data == body
    assert letter.headers[HEADER_ERROR_CODE] == code
    assert "private" not in letter.headers[HEADER_ERROR_MESSAGE]
    assert len(desk.seen) <= 1
    await until(lambda: _is_zero(desk.stored()))


async def test_long_work_is_not_delivered_twice(desk: Desk, broker: NatsBroker) -> None:
    go_on = asyncio.Event()

    async def handle(order: Order) -> None:
        desk.seen.append((order.number, time.monotonic()))
        await go_on.wait()

    subscribe(broker, desk.row, handle, workers=2)
    await broker.start()
    await desk.send(b'{"number": 7}')
    await until(lambda: desk.seen)
    started = time.monotonic()
    await until(lambda: time.monotonic() - started > 2.5 * desk.row.ack_wait_s)
    assert len(desk.seen) == 1
    go_on.set()
    await until(lambda: _is_zero(desk.stored()))


async def test_one_bad_message_costs_its_batch_nothing(desk: Desk) -> None:
    taken: list[bytes] = []

    async def handle(deliveries: Sequence[Delivery]) -> None:
        orders = [Order.model_validate_json(delivery.body) for delivery in deliveries]
        taken.extend(b"%d" % order.number for order in orders)

    for number in (1, 2):
        await desk.send(b'{"number": %d}' % number)
    await desk.send(b"broken")
    await desk.send(b'{"number": 3}')
    work = asyncio.create_task(consume_batches(desk.nc, desk.row, handle))
    [letter] = await until(desk.dead)
    await until(lambda: len(taken) == 3)
    work.cancel()
    assert taken == [b"1", b"2", b"3"]
    assert letter.data == b"broken"


async def test_a_batch_takes_what_is_there_and_waits_for_no_more(desk: Desk) -> None:
    sizes: list[int] = []

    async def handle(deliveries: Sequence[Delivery]) -> None:
        sizes.append(len(deliveries))

    work = asyncio.create_task(consume_batches(desk.nc, desk.row, handle, batch_max=10))
    took = []
    for number in range(5):
        before = time.monotonic()
        await desk.send(b'{"number": %d}' % number)
        await until(partial(_sums_to, sizes, number + 1))
        took.append(time.monotonic() - before)
    for number in range(40):
        await desk.send(b'{"number": %d}' % number)
    await until(lambda: sum(sizes) == 45)
    work.cancel()
    assert max(sizes) <= 10
    assert sorted(took)[2] < 0.5, "a lone message does not wait for the fetch to fill"


async def test_of_two_batches_at_once_none_passes_what_is_said_about_the_same(desk: Desk) -> None:
    begun: list[list[bytes]] = []
    go_on = [asyncio.Event() for _ in range(3)]

    async def handle(deliveries: Sequence[Delivery]) -> None:
        begun.append([delivery.body for delivery in deliveries])
        await go_on[len(begun) - 1].wait()

    for word in (b"a1", b"b1", b"a2", b"c1"):
        await desk.send(word)
    options: dict[str, Any] = {"batch_max": 2, "at_once": 2, "about": lambda delivery: delivery.body.decode()[0]}
    work = asyncio.create_task(consume_batches(desk.nc, desk.row, handle, **options))
    await until(lambda: len(begun) == 2)
    assert begun == [[b"a1", b"b1"], [b"c1"]], "the second has what is about nothing of the first"
    await desk.send(b"a3")
    go_on[1].set()
    await until(lambda: _is(desk.left(), 4))  # c1 is settled
    assert len(begun) == 2, "a2 waits for a1, and nothing passes a2"
    go_on[0].set()
    await until(lambda: len(begun) == 3)
    assert begun[2] == [b"a2"]
    go_on[2].set()
    go_on += [asyncio.Event()]
    await until(lambda: len(begun) == 4)
    assert begun[3] == [b"a3"]
    go_on[3].set()
    await until(lambda: _is_zero(desk.left()))
    work.cancel()


async def test_consuming_goes_on_after_the_broker_was_restarted(desk: Desk, nats_server: NatsServer) -> None:
    taken: list[str] = []

    async def handle(deliveries: Sequence[Delivery]) -> None:
        taken.extend(delivery.message_id for delivery in deliveries)

    work = asyncio.create_task(consume_batches(desk.nc, desk.row, handle))
    before = await desk.send(b"{}")
    await until(lambda: before in taken)
    await asyncio.to_thread(nats_server.restart)
    await until(lambda: desk.nc.is_connected)
    after = await desk.send(b"{}")
    await until(lambda: after in taken, 30)
    work.cancel()


def _sums_to(numbers: list[int], total: int) -> bool:
    return sum(numbers) == total


async def _is(count: Any, expected: int) -> bool:
    return bool(await count == expected)


async def _is_zero(count: Any) -> bool:
    return await _is(count, 0)
