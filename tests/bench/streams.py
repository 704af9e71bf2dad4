"""`just bench streams`: a thousand clients follow a thousand jobs in one process of output.

Told: how long until each has its own line after the commit that made it, memory and CPU of the process with and
without them, how many connections it holds to the database, and how many transactions it makes for streams that are
silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

import psutil
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from output.projection import Projection
from runtime.outbox import Outgoing
from runtime.postgres import driver_url
from runtime.settle import Delivery
from stack import services
from stack.home import Home
from stack.ports import HOST
from tests.unit.output.stories import Story

STREAMS = 1000
MIB = 1024 * 1024
LAST = b"event: job.v1.cancelled"


@dataclass
class Follower:
    """One real connection; `told_at` is when its job's end arrived."""

    job_id: UUID
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    told_at: float = 0.0
    heard: bytes = b""

    async def follow(self, host: str, port: int, key: str) -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=2**20)
        try:
            ask = f"GET /v1/jobs/{self.job_id}/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n"
            writer.write(ask.encode())
            while piece := await reader.read(65536):
                self.heard += piece
                if b"event: " in self.heard:
                    self.begun.set()
                if LAST in self.heard:
                    self.told_at = time.monotonic()
                    return
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class Figures:
    """What a crowd of streams costs. Memory in bytes, times in seconds."""

    opened_s: float
    first_s: float
    last_s: float
    idle_bytes: int
    held_bytes: int
    cpu_s: float
    connections: int
    silent_transactions: int


async def project(engine: AsyncEngine, stories: Sequence[Story], part: slice) -> None:
    """The events of all stories in transactions of 400."""
    told = [event for story in stories for event in story.events[part]]
    for at in range(0, len(told), 400):
        await Projection(engine).events([_delivery(one) for one in told[at : at + 400]])


def _delivery(one: Outgoing) -> Delivery:
    return Delivery(one.subject, b"", one.head.encode(), one.body)


async def crowd(
    engine: AsyncEngine, output: psutil.Process, host: str, port: int, key: str, *, count: int, tenant: str = "demo"
) -> Figures:
    """Open the streams, let every job end, and see each of them told of its own."""
    stories = [Story(tenant=tenant).begins() for _ in range(count)]
    await project(engine, stories, slice(0, None))
    told = len(stories[0].events)
    idle = output.memory_info().rss
    before = sum(output.cpu_times()[:2])
    began = time.monotonic()
    followers = [Follower(story.job_id) for story in stories]
    tasks = [asyncio.create_task(one.follow(host, port, key)) for one in followers]
    try:
        async with asyncio.timeout(120):
            for one in followers:
                await one.begun.wait()
        opened = time.monotonic()
        held = output.memory_info().rss
        connections, silent = await _counted(engine), await _transactions(engine, 1.0)
        for story in stories:
            story.is_cancelled()
        committed = time.monotonic()
        await project(engine, stories, slice(told, None))
        async with asyncio.timeout(120):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    for one in followers:
        others = one.heard.count(b'"job_id": "') - one.heard.count(f'"job_id": "{one.job_id}"'.encode())
        assert not others, "a stream was told of another job"
    times = sorted(one.told_at - committed for one in followers)
    used = sum(output.cpu_times()[:2]) - before
    return Figures(opened - began, times[0], times[-1], idle, held, used, connections, silent)


async def _counted(engine: AsyncEngine) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('safelight-output', 'safelight-news')"
    async with engine.connect() as conn:
        return int((await conn.execute(text(query))).scalar_one())


async def _transactions(engine: AsyncEngine, seconds: float) -> int:
    query = text("SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()")
    async with engine.connect() as conn:
        before = int((await conn.execute(query)).scalar_one())
        await conn.commit()
        await asyncio.sleep(seconds)  # the measurement itself: who asks while nothing happens?
        return int((await conn.execute(query)).scalar_one()) - before


def told(found: Figures, count: int) -> None:
    """The figures, as lines."""
    each = (found.held_bytes - found.idle_bytes) / count / 1024
    print(f"streams {count}   opened in {found.opened_s:.1f} s; told of their ends ", end="")
    print(f"{found.first_s * 1000:.0f} to {found.last_s * 1000:.0f} ms after the first was projected")
    print(f"  memory {found.idle_bytes / MIB:.0f} MiB without, {found.held_bytes / MIB:.0f} with: {each:.0f} KiB each")
    print(f"  CPU {found.cpu_s:.1f} s for all of it; {found.connections} connections to the database")
    print(f"  {found.silent_transactions} transactions in the whole database in a second of silence")


async def measure(home: Home, count: int = STREAMS) -> None:
    """Against the stack that runs in `home`."""
    ports, secrets = home.read_state()["ports"], home.secrets()
    row = next(service for service in services.SERVICES if service.name == "output")
    given = services.environment(row, ports, secrets)
    engine = create_async_engine(driver_url(given["SAFELIGHT_POSTGRES_URL"]))
    process = psutil.Process(home.read_state()["processes"]["output"]["pid"])
    try:
        found = await crowd(engine, process, HOST, ports["output"], secrets["SAFELIGHT_API_KEY"], count=count)
        told(found, count)
    finally:
        await engine.dispose()
