"""Output as its callers see it, what tells it of jobs, and who follows them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI
from httpx_sse import ServerSentEvent, aconnect_sse
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import Transient
from output.app import build
from output.projection import Projection
from output.settings import Settings
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import Outgoing
from runtime.settle import Delivery
from tests.integration.conftest import until
from tests.integration.wire import Site, served

KEY, OTHER_KEY, OPERATORS_KEY = "a-key-of-the-tests-1", "a-key-of-the-tests-2", "a-key-of-the-tests-3"
KEYS = {"api_keys": f"demo:{KEY},other:{OTHER_KEY}", "operator_keys": f"ops:{OPERATORS_KEY}"}


@dataclass
class Output:
    """Output as its callers see it; `stranger` is another tenant, `operator` nobody's."""

    app: FastAPI
    site: Site
    engine: AsyncEngine
    objects: Objects
    client: httpx.AsyncClient = field(init=False)
    stranger: httpx.AsyncClient = field(init=False)
    operator: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client, self.stranger, self.operator = (
            httpx.AsyncClient(base_url=self.site.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
            for key in (KEY, OTHER_KEY, OPERATORS_KEY)
        )

    async def job(self, job_id: UUID) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/jobs/{job_id}")
        found: dict[str, Any] = answer.raise_for_status().json()
        return found

    async def items(self, job_id: UUID, phase: str, **query: str) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/jobs/{job_id}/phases/{phase}/items", params=query)
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


@asynccontextmanager
async def desk(known: Settings) -> AsyncIterator[Output]:
    """Output, served with these settings."""
    engine = postgres.create_engine(known.postgres_url.get_secret_value(), service="test")
    objects = Objects(known)
    async with served(app := build(known)) as site:
        made = Output(app, site, engine, objects)
        yield made
        for client in (made.client, made.stranger, made.operator):
            await client.aclose()
    objects.close()
    await engine.dispose()


def deliveries(events: Sequence[Outgoing]) -> list[Delivery]:
    return [Delivery(one.subject, b"", one.head.encode(), one.body) for one in events]


async def project(engine: AsyncEngine, events: Sequence[Outgoing], sizes: Iterator[int] = repeat(1)) -> None:  # noqa: B008
    """Project in batches of these sizes; what is refused for now comes again after the others, as settle does it."""
    projection, left = Projection(engine), deliveries(events)
    for _ in range(len(events) + 1):
        again = []
        while left:
            size = next(sizes)
            batch, left = left[:size], left[size:]
            try:
                await projection.events(batch)
            except Transient:
                again += await refused(projection, batch)
        if not again:
            return
        left = again
    raise AssertionError("an event is refused for ever")


async def refused(projection: Projection, batch: Sequence[Delivery]) -> list[Delivery]:
    """Those of a batch that are refused even alone."""
    found = []
    for one in batch:
        try:
            await projection.events([one])
        except Transient:
            found.append(one)
    return found


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, job_id: UUID, after: str | None = None
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    headers = {"Last-Event-ID": after} if after else {}
    async with aconnect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.response.status_code == 200
        yield (one async for one in stream.aiter_sse() if one.data)  # "retry:" alone is no event


async def all_of(client: httpx.AsyncClient, job_id: UUID, after: str | None = None) -> list[ServerSentEvent]:
    """Every event until the stream ends by itself."""
    async with asyncio.timeout(20), following(client, job_id, after) as events:
        return [one async for one in events]


@asynccontextmanager
async def process(given: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    """Output as a process of its own, ready; killed in the end if it is still there."""
    env = {"PATH": os.environ["PATH"], "MALLOC_ARENA_MAX": "2", **given}
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "output", env=env)
    key = given["SAFELIGHT_API_KEYS"].partition(":")[2]
    url = f"http://127.0.0.1:{given['SAFELIGHT_HTTP_PORT']}"
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/ready")).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            await until(ready)
            yield child, client
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
