"""`just bench zip`: a batch read as a ZIP through one process of output, from real storage.

Told: MB/s and files/s, the memory of the process before and its peak while it sends, its CPU. Once few large photos,
once 5,000 small ones, where opening objects is the work.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import httpx
import psutil
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from contracts.artifacts import ObjectRef
from runtime.objects import Objects
from runtime.postgres import driver_url
from runtime.settings import S3Settings
from stack import services
from stack.home import Home
from stack.ports import HOST
from tests.bench.streams import project
from tests.unit.output.stories import Story, artifact

ROWS = ((150, 4_000_000), (5_000, 20_000))  # photos, bytes of each
MB, MIB = 1_000_000, 1024 * 1024


async def _batch(engine: AsyncEngine, objects: Objects, photos: int, size: int) -> str:
    """A batch of finished jobs, each with an artifact of its own bytes."""
    batch, ready = uuid4(), asyncio.Semaphore(16)

    async def one() -> Story:
        async with ready:
            content = os.urandom(size)
            key = f"bench/{uuid4()}"
            sha256, _ = await objects.put(key, content, "image/jpeg")
        ref = ObjectRef(key=key, sha256=sha256, size=size, media_type="image/jpeg")
        story = Story(batch_id=batch).begins().succeeds("analyze", width=1).succeeds("crop")
        return story.succeeds("variants", artifact("web.jpg", ref))

    stories: Sequence[Story] = await asyncio.gather(*(one() for _ in range(photos)))
    await project(engine, stories, slice(0, None))
    return str(batch)


async def _read(url: str, key: str, batch: str, process: psutil.Process) -> tuple[int, float, float, int]:
    """(bytes, seconds, CPU seconds, peak RSS) of one reading."""
    got, peak = 0, process.memory_info().rss
    used, began = sum(process.cpu_times()[:2]), time.perf_counter()
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client,
        client.stream("GET", f"/v1/batches/{batch}/zip") as answer,
    ):
        answer.raise_for_status()
        async for piece in answer.aiter_raw():
            got += len(piece)
            peak = max(peak, process.memory_info().rss)
        assert got == int(answer.headers["content-length"])
    return got, time.perf_counter() - began, sum(process.cpu_times()[:2]) - used, peak


async def measure(home: Home) -> None:
    """Against the stack that runs in `home`."""
    ports, secrets = home.read_state()["ports"], home.secrets()
    row = next(service for service in services.SERVICES if service.name == "output")
    given = services.environment(row, ports, secrets)
    storage = {name.removeprefix("SAFELIGHT_").lower(): value for name, value in given.items()}
    known: dict[str, Any] = {name: storage[name] for name in S3Settings.model_fields if name in storage}
    objects = Objects(S3Settings(**known))
    engine = create_async_engine(driver_url(given["SAFELIGHT_POSTGRES_URL"]))
    process = psutil.Process(home.read_state()["processes"]["output"]["pid"])
    try:
        for photos, size in ROWS:
            batch = await _batch(engine, objects, photos, size)
            idle = process.memory_info().rss
            url = f"http://{HOST}:{ports['output']}"
            got, took, used, peak = await _read(url, secrets["SAFELIGHT_API_KEY"], batch, process)
            print(
                f"zip   {photos:5} photos of {size / MB:.2f} MB   {got / MB / took:.1f} MB/s   {photos / took:.1f}/s   "
                f"CPU {used:.1f} s of {took:.1f}   memory {idle / MIB:.0f} MiB before, {peak / MIB:.0f} at most"
            )
    finally:
        objects.close()
        await engine.dispose()
