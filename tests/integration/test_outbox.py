"""Messages leave with the state that caused them, whatever dies in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import SafelightError
from contracts.phases import PHASE_PROGRESSED, PhaseProgressed
from ingest.tables import OUTBOX
from runtime.outbox import Outbox, Outgoing, outgoing, publish
from tests.integration.conftest import until
from tests.servers.models import NatsServer

EngineOf = Callable[[str], AsyncEngine]


@pytest.fixture
async def engine(engine_of: EngineOf) -> AsyncIterator[AsyncEngine]:
    made = engine_of("ingest")
    async with made.begin() as conn:  # what a service was stopped with, before it came to forget it
        await conn.execute(text("DELETE FROM ingest.outbox"))
    yield made
    async with made.begin() as conn:
        await conn.execute(text("DELETE FROM ingest.outbox"))
    await made.dispose()


def message() -> Outgoing:
    body = PhaseProgressed(job_id=uuid4(), phase="x", attempt=1, fraction=0.5, at=datetime.now(UTC))
    return outgoing(PHASE_PROGRESSED, body, message_id=uuid4().hex, key="k", source="test")


async def waiting(engine: AsyncEngine) -> int:
    async with engine.connect() as conn:
        return int((await conn.execute(text("SELECT count(*) FROM ingest.outbox"))).scalar_one())


async def stored(nc: Client) -> int:
    return (await nc.jetstream().stream_info("EVENTS")).state.messages


async def test_flushing_publishes_and_forgets(engine: AsyncEngine, nc: Client) -> None:
    outbox, before = Outbox(engine, OUTBOX, nc.jetstream()), await stored(nc)
    messages = [message() for _ in range(3)]
    async with engine.begin() as conn:
        await outbox.add(conn, messages)
    await outbox.flush(messages)
    await outbox.forget_confirmed()
    assert (await waiting(engine), await stored(nc) - before) == (0, 3)


async def test_a_rolled_back_message_never_leaves(engine: AsyncEngine, nc: Client) -> None:
    outbox, before = Outbox(engine, OUTBOX, nc.jetstream()), await stored(nc)
    async with engine.connect() as conn:
        await outbox.add(conn, [message()])
        await conn.rollback()
    assert (await outbox.sweep(0), await stored(nc) - before) == (0, 0)


@pytest.mark.parametrize("form", ["a column for each part", "packed and not compressed"])
async def test_a_row_of_old_is_swept_too(engine: AsyncEngine, nc: Client, form: str) -> None:
    one, before = message(), await stored(nc)
    forms: dict[str, dict[str, Any]] = {
        "a column for each part": {
            "message_ids": [one.message_id],
            "subjects": [one.subject],
            "headers": [json.dumps(one.headers)],
            "bodies": [one.body],
        },
        "packed and not compressed": {
            "message_ids": [],
            "subjects": [],
            "headers": [],
            "bodies": [msgspec.msgpack.encode([one])],
        },
    }
    async with engine.begin() as conn:
        await conn.execute(OUTBOX.insert().values(id=one.message_id, **forms[form]))
    assert await Outbox(engine, OUTBOX, nc.jetstream()).sweep(age_s=0) == 1
    assert await stored(nc) - before == 1
    found = await nc.jetstream().get_last_msg("EVENTS", one.subject)
    assert (found.data, found.headers) == (one.body, one.headers)


async def test_a_crash_after_the_commit_is_swept(engine: AsyncEngine, nc: Client) -> None:
    outbox, before = Outbox(engine, OUTBOX, nc.jetstream()), await stored(nc)
    async with engine.begin() as conn:
        await outbox.add(conn, [message(), message()])
    assert await outbox.sweep(age_s=60) == 0, "young rows belong to whoever committed them"
    assert await outbox.sweep(age_s=0) == 2
    assert (await waiting(engine), await stored(nc) - before) == (0, 2)


async def test_a_crash_after_publishing_publishes_nothing_twice(engine: AsyncEngine, nc: Client) -> None:
    outbox, before = Outbox(engine, OUTBOX, nc.jetstream()), await stored(nc)
    one = message()
    async with engine.begin() as conn:
        await outbox.add(conn, [one])
    await publish(nc.jetstream(), [one])  # and then the process dies
    assert await outbox.sweep(0) == 1
    assert await stored(nc) - before == 1


async def test_two_sweepers_share_the_rows(engine: AsyncEngine, nc: Client) -> None:
    outbox, before = Outbox(engine, OUTBOX, nc.jetstream()), await stored(nc)
    async with engine.begin() as conn:
        await outbox.add(conn, [message() for _ in range(50)])
    await asyncio.gather(outbox.sweep(0), outbox.sweep(0))
    assert (await waiting(engine), await stored(nc) - before) == (0, 50)


async def test_headers_and_body_survive_the_table(engine: AsyncEngine, nc: Client) -> None:
    outbox, one = Outbox(engine, OUTBOX, nc.jetstream()), message()
    async with engine.begin() as conn:
        await outbox.add(conn, [one])
    await outbox.sweep(0)
    found = await nc.jetstream().get_last_msg("EVENTS", one.subject)
    assert (found.data, {k.lower(): v for k, v in (found.headers or {}).items()}) == (
        one.body,
        {k.lower(): v for k, v in one.headers.items()},
    )


async def test_while_the_broker_is_away_rows_wait_and_then_leave(
    engine: AsyncEngine, nc: Client, nats_server: NatsServer
) -> None:
    outbox, one = Outbox(engine, OUTBOX, nc.jetstream()), message()
    await asyncio.to_thread(nats_server.kill)
    try:
        async with engine.begin() as conn:
            await outbox.add(conn, [one])
        with pytest.raises(SafelightError, match="BROKER_UNAVAILABLE"):
            await outbox.flush([one])
        assert await waiting(engine) == 1
    finally:
        await asyncio.to_thread(nats_server.restart)
    await until(lambda: nc.is_connected)
    await outbox.sweep(0)
    assert await waiting(engine) == 0
