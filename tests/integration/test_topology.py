"""One owner creates streams and consumers; services refuse a broker that differs and say what differs."""

from __future__ import annotations

import asyncio
import os
import sys

import nats
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from contracts.topology import CONSUMERS, STREAMS, inbox_of
from runtime import topology
from runtime.topology import TopologyMismatch
from tests.servers.fixtures import EnvironmentOf
from tests.servers.models import NatsServer


async def test_applying_twice_changes_nothing_the_second_time(nc: Client) -> None:
    await topology.apply(nc.jetstream())
    assert await topology.apply(nc.jetstream()) == []
    await topology.check(nc.jetstream())
    assert {info.config.name for info in await nc.jetstream().streams_info()} == {row.name for row in STREAMS}


async def test_a_missing_consumer_is_named_and_made_again(nc: Client) -> None:
    js, row = nc.jetstream(), CONSUMERS[0]
    await js.delete_consumer(row.stream, row.name)
    with pytest.raises(TopologyMismatch, match=f"consumer {row.name} is missing"):
        await topology.check(js, owner=row.owner)
    await topology.check(js, owner="gpu-bridge")  # nobody else is concerned
    assert await topology.apply(js) == [f"created consumer {row.name}"]


async def test_a_changed_consumer_is_described_and_repaired(nc: Client) -> None:
    js, row = nc.jetstream(), CONSUMERS[1]
    found = (await js.consumer_info(row.stream, row.name)).config
    await js.add_consumer(row.stream, ConsumerConfig(**{**found.__dict__, "max_deliver": 99}))
    with pytest.raises(TopologyMismatch, match=f"max_deliver is 99, declared {row.max_deliver}"):
        await topology.check(js, owner=row.owner)
    assert await topology.apply(js) == [f"updated consumer {row.name}"]
    await topology.check(js)


async def test_a_service_refuses_to_start_and_says_why(nc: Client, environment_of: EnvironmentOf) -> None:
    js = nc.jetstream()
    await js.delete_consumer("EVENTS", "orchestrator-inputs")
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "orchestrator",
            env={**os.environ, **environment_of("orchestrator")},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await asyncio.wait_for(process.communicate(), 30)
    finally:
        await topology.apply(js)
    assert process.returncode not in (0, None)
    assert b"consumer orchestrator-inputs is missing" in said
    assert b"safelight topology apply" in said


@pytest.mark.parametrize("user", ["ingest", "orchestrator", "gpu-bridge", "output"])
async def test_a_service_may_not_change_the_topology(nc: Client, nats_server: NatsServer, user: str) -> None:
    refused: list[Exception] = []

    async def note(problem: Exception) -> None:
        refused.append(problem)

    password = nats_server.passwords[user]
    service = await nats.connect(
        nats_server.url, user=user, password=password, error_cb=note, inbox_prefix=inbox_of(user)
    )
    js = service.jetstream(timeout=0.3)
    for attempt in (
        js.delete_stream("EVENTS"),
        js.add_stream(name="MINE", subjects=["mine.>"]),
        js.add_consumer("EVENTS", ConsumerConfig(durable_name="mine")),
        js.delete_consumer("EVENTS", "output-projection"),
    ):
        with pytest.raises(nats.errors.TimeoutError):
            await attempt
    await service.close()
    assert len([problem for problem in refused if "permissions violation" in str(problem).lower()]) == 4
    await topology.check(nc.jetstream())
