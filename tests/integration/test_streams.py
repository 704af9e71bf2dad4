"""Event streams on real servers: a thousand at once, whole batches, and nothing missed over a reconnect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.batches import BATCH_CREATED, BATCH_ENDED, BatchCreated, BatchEnded
from output.projection import IN_TURN, Projection
from output.settings import Settings
from runtime.outbox import Outgoing, outgoing
from tests.bench import streams
from tests.integration.conftest import SettingsOf, until
from tests.integration.output_desk import KEYS, Output, deliveries, desk, process, project
from tests.servers.fixtures import EnvironmentOf
from tests.unit.output.stories import START, Story, whole

KIB = 1024


@pytest.fixture(scope="module")
async def output(prepared: object, settings_of: SettingsOf) -> AsyncIterator[Output]:
    async with desk(settings_of(Settings, "output", **KEYS)) as made:
        yield made


async def lines(client: httpx.AsyncClient, batch: UUID, after: str = "", most: int = 10**6) -> list[ServerSentEvent]:
    """So many lines of a batch's stream, or all until it ends."""
    headers = {"Last-Event-ID": after} if after else {}
    found: list[ServerSentEvent] = []
    async with asyncio.timeout(20), aconnect_sse(client, "GET", f"/v1/batches/{batch}/events", headers=headers) as told:
        assert told.response.status_code == 200
        async for one in told.aiter_sse():
            found += [one] if one.data else []
            if len(found) >= most:
                break
    return found


def of_batch(batch: UUID, tenant: str = "demo") -> tuple[Outgoing, Outgoing]:
    """What begins and ends it."""
    about: dict[str, Any] = {"batch_id": batch, "tenant": tenant, "at": START}
    created, ended = BatchCreated(**about), BatchEnded(**about, webhook="https://example.com/", jobs={"succeeded": 1})
    named = {"key": str(batch), "source": "test"}
    return (
        outgoing(BATCH_CREATED, created, message_id=f"{tenant}.{batch}.created", **named),
        outgoing(BATCH_ENDED, ended, message_id=f"{tenant}.{batch}.ended", **named),
    )


async def test_one_connection_follows_a_batch_and_its_jobs_until_it_has_ended(output: Output) -> None:
    batch = uuid4()
    begins, ends = of_batch(batch)
    stories = [Story(batch_id=batch).begins(), Story(batch_id=batch).begins().is_cancelled()]
    foreign = Story(batch_id=batch, tenant="other").begins()
    await project(output.engine, [begins])
    following = asyncio.create_task(lines(output.client, batch))
    await project(output.engine, [event for story in (*stories, foreign, Story().begins()) for event in story.events])
    await project(output.engine, [*stories[0].is_cancelled().events[-1:], ends])
    found = await following
    assert [one.event for one in found][:1] + [one.event for one in found][-1:] == [
        "batch.v1.created",
        "batch.v1.ended",
    ]
    jobs = [json.loads(one.data)["job_id"] for one in found if not one.event.startswith("batch")]
    assert set(jobs) == {str(story.job_id) for story in stories}
    assert len(jobs) == sum(len(story.events) for story in stories)
    assert "webhook" not in found[-1].data
    assert [one.id for one in await lines(output.client, batch, found[2].id)] == [one.id for one in found[3:]]
    path = f"/v1/batches/{batch}/events"
    assert (await output.client.get(path, headers={"Last-Event-ID": found[-1].id})).status_code == 204
    by_operator = await output.operator.get(path, params={"tenant": "demo"}, headers={"Last-Event-ID": found[-1].id})
    assert by_operator.status_code == 204
    assert (await output.operator.get(path)).status_code == 422
    nobody_s = await output.client.get(f"/v1/batches/{uuid4()}/events")
    assert (nobody_s.status_code, nobody_s.json()["code"]) == (404, "NOT_FOUND")


async def test_lines_are_given_their_ids_in_the_order_of_the_commits(output: Output) -> None:
    """Else a reader could see an id, and a smaller one be committed after it."""
    waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    async with output.engine.connect() as other:
        await other.exec_driver_sql(IN_TURN)  # as another process that is about to commit
        telling = asyncio.create_task(project(output.engine, Story().events))

        async def waits() -> bool:
            async with output.engine.connect() as conn:
                return bool((await conn.execute(waiting)).scalar_one())

        await until(waits)
        assert not telling.done()
        await other.rollback()
    await telling


async def test_who_reconnects_again_and_again_while_processes_share_the_events_misses_nothing(output: Output) -> None:
    """A reader that has seen an id has seen all smaller ones, whichever process they came from."""
    batch = uuid4()
    begins, ends = of_batch(batch)
    await project(output.engine, [begins])
    stories = [whole(batch_id=batch) for _ in range(24)]
    expected = 2 + sum(len(story.events) for story in stories)

    async def tells(which: list[Story]) -> None:
        for step in zip(*(story.events for story in which), strict=True):
            await Projection(output.engine).events(deliveries(step))

    async def follows() -> list[ServerSentEvent]:
        found: list[ServerSentEvent] = []
        while len(found) < expected:
            found += await lines(output.client, batch, found[-1].id if found else "", most=7)
        return found

    following = asyncio.create_task(follows())
    await asyncio.gather(*(tells(stories[n::4]) for n in range(4)))
    await project(output.engine, [ends])
    found = await asyncio.wait_for(following, 30)
    ids = [int(one.id) for one in found]
    assert ids == sorted(set(ids))
    assert len(ids) == expected


async def test_a_client_that_does_not_read_holds_a_bounded_number_of_lines(output: Output) -> None:
    batch = uuid4()
    begins, ends = of_batch(batch)
    await project(output.engine, [begins])
    async with aconnect_sse(output.client, "GET", f"/v1/batches/{batch}/events") as told:
        stories = [Story(batch_id=batch).begins() for _ in range(400)]
        events = [event for story in stories for event in story.events]
        for at in range(0, len(events), 400):
            await Projection(output.engine).events(deliveries(events[at : at + 400]))
        held = [len(one.lines) for those in output.app.state.streams._readers.values() for one in those]
        assert max(held) <= 200
        await project(output.engine, [ends])
        found = [one async for one in told.aiter_sse() if one.data]
    assert len(found) == len(events) + 2


async def test_a_thousand_streams_in_one_process_are_each_told_of_their_own(
    prepared: object, environment_of: EnvironmentOf, engine_of: Callable[[str], AsyncEngine]
) -> None:
    engine, given = engine_of("output"), environment_of("output")
    key = given["SAFELIGHT_API_KEYS"].partition(":")[2]
    async with process(given) as (child, _):
        port = int(given["SAFELIGHT_HTTP_PORT"])
        found = await streams.crowd(engine, psutil.Process(child.pid), "127.0.0.1", port, key, count=1000)
    await engine.dispose()
    streams.told(found, 1000)
    assert found.last_s < 20  # 1.5 s on two quiet cores
    assert (found.held_bytes - found.idle_bytes) / 1000 < 200 * KIB
    assert found.connections <= 12  # the pool's 10, and the one that listens
    assert found.silent_transactions < 100  # with a query per stream there would be a thousand
