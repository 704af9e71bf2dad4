"""The orchestrator's composition root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI

from contracts import topology
from orchestrator import api, store
from orchestrator.handlers import Handlers
from orchestrator.machine.pipeline import mistakes
from orchestrator.pipelines import CHANNELS, NOOP, PIPELINES
from orchestrator.settings import Settings
from orchestrator.shell import DUE_MAX, SOURCE, Shell
from orchestrator.tables import INBOX, OUTBOX
from runtime import inbox, logs, postgres, service
from runtime.outbox import Outbox
from runtime.settle import consume_batches

WAKE_EVERY_S = 0.8  # under the second within which a timer must fire
log = logs.get()


class PipelineInvalid(Exception):
    """A declared pipeline cannot run; the message says why."""


async def _wake_forever(shell: Shell) -> None:
    while True:
        try:
            while await shell.wake() == DUE_MAX:
                pass
        except Exception as problem:  # the database is away: time goes on, so do we
            log.warning("orchestrator.wake_failed", error=type(problem).__name__)
        await asyncio.sleep(WAKE_EVERY_S)


@contextlib.asynccontextmanager
async def compose(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Wire database, broker, shell and loops; what was opened is closed in reverse."""
    declared = [p for p in PIPELINES if settings.bench_pipelines or p is not NOOP]
    for pipeline in declared:
        if wrong := mistakes(pipeline, frozenset(CHANNELS)):
            raise PipelineInvalid(f"pipeline {pipeline.name}@{pipeline.version}: {'; '.join(wrong)}")
    engine = postgres.create_engine(settings.postgres_url.get_secret_value(), service=SOURCE)
    try:
        async with service.nats_broker(app, settings, SOURCE) as (_, nc):
            async with engine.begin() as conn:
                known = await store.declare_pipelines(conn, declared)
            app.state.checks.append(partial(postgres.check, engine))
            app.state.newest = {p.name: p for p in declared}
            outbox = Outbox(engine, OUTBOX, nc.jetstream())
            shell = Shell(engine, outbox, {(p.name, p.version): p for p in known})
            handlers = Handlers(shell, app.state.newest)
            async with service.background(
                consume_batches(nc, topology.consumer("orchestrator-inputs"), handlers.inputs),
                consume_batches(nc, topology.consumer("orchestrator-dead"), handlers.dead_commands),
                _wake_forever(shell),
                inbox.prune_forever(engine, INBOX, topology.EVENTS),
                outbox.sweep_forever(),
            ):
                yield
    finally:
        await engine.dispose()


def build(settings: Settings) -> FastAPI:
    """The orchestrator as an app."""
    return service.create_app(SOURCE, settings, partial(compose, settings), api.router)


def main() -> None:
    """Run the orchestrator until SIGTERM."""
    service.run(SOURCE, Settings, build)
