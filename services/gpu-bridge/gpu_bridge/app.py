"""The gpu-bridge's composition root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI

from contracts import topology
from gpu_bridge.handlers import Handlers
from gpu_bridge.providers.local import LocalProvider
from gpu_bridge.runner import SOURCE, Runner
from gpu_bridge.settings import Settings
from gpu_bridge.tables import OUTBOX
from runtime import postgres, service
from runtime.objects import Objects
from runtime.outbox import Outbox
from runtime.settle import consume_batches


@contextlib.asynccontextmanager
async def compose(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Wire storage, ledger, broker, providers; what was opened is closed in reverse."""
    objects = Objects(settings)
    engine = postgres.create_engine(settings.postgres_url.get_secret_value(), service=SOURCE)
    local = LocalProvider(
        workers=settings.local_workers, memory_bytes=settings.local_memory_bytes, idle_s=settings.local_idle_s
    )
    try:
        async with service.nats_broker(app, settings, SOURCE) as (_, nc):
            outbox = Outbox(engine, OUTBOX, nc.jetstream())
            arrived = asyncio.Event()
            runner = Runner(engine, outbox, nc.jetstream(), objects, [local], arrived, slots=settings.local_workers)
            app.state.checks += [partial(postgres.check, engine), objects.check]
            handlers = Handlers(engine, arrived, runner.stop_here)
            async with service.background(
                consume_batches(nc, topology.consumer("gpu-bridge-calls"), handlers.commands),
                consume_batches(nc, topology.consumer("gpu-bridge-stops"), handlers.stops),
                runner.run_forever(),
                outbox.sweep_forever(),
            ):
                yield
    finally:
        await local.close()
        await engine.dispose()
        objects.close()


def build(settings: Settings) -> FastAPI:
    """The gpu-bridge as an app."""
    return service.create_app(SOURCE, settings, partial(compose, settings))


def main() -> None:
    """Run the gpu-bridge until SIGTERM."""
    service.run(SOURCE, Settings, build)
