"""The orchestrator's composition root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from fastapi import FastAPI

from contracts import topology
from orchestrator import api, store
from orchestrator.api.asked import UseCases
from orchestrator.audit import Audit
from orchestrator.capacity import Capacity
from orchestrator.closing import Closing
from orchestrator.erasures import Erasures
from orchestrator.handlers import Handlers, job_of
from orchestrator.operations import Operations
from orchestrator.pipelines import built_in, in_folder
from orchestrator.receipts import Signer
from orchestrator.replays import Replays
from orchestrator.retention import enforce
from orchestrator.settings import Settings
from orchestrator.shell import DUE_MAX, SOURCE, Shell
from orchestrator.tables import ANSWERS, INBOX, OUTBOX
from orchestrator.upgrades import Upgrades
from orchestrator.watch import LOOK_EVERY_S, Watch
from runtime import inbox, logs, postgres, service
from runtime.idempotency import Answers
from runtime.outbox import Outbox
from runtime.settle import consume_batches

TICK_S = 0.8  # under the second within which a timer must fire
RETAIN_EVERY_S = 600.0
BATCH_MAX = 200  # inputs in a transaction: beyond that it gets no cheaper, only longer
log = logs.get()


async def _repeat(name: str, work: Callable[[], Awaitable[object]], wait: Callable[[], Awaitable[object]]) -> None:
    """Do the work again and again, for ever."""
    while True:
        try:
            await work()
        except Exception as problem:  # the database is away: time goes on, so do we
            log.warning("orchestrator.interrupted", work=name, error=type(problem).__name__)
            await asyncio.sleep(TICK_S)
        await wait()


async def _tick() -> None:
    await asyncio.sleep(TICK_S)


async def _now_and_then() -> None:
    await asyncio.sleep(LOOK_EVERY_S)


async def _wake(shell: Shell) -> None:
    await shell.look()
    while await shell.wake() == DUE_MAX:
        pass
    shell.freed.set()  # what another replica freed, or let wait, is seen now at the latest


async def _freed(shell: Shell) -> None:
    await shell.freed.wait()
    shell.freed.clear()


@contextlib.asynccontextmanager
async def compose(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Wire database, broker, shell and loops; what was opened is closed in reverse."""
    declared = built_in(bench=settings.bench_pipelines)
    declared += in_folder(settings.pipelines_dir) if settings.pipelines_dir else []
    url = settings.postgres_url.get_secret_value()
    engine = postgres.create_engine(url, service=SOURCE, connections_max=10)
    hot = postgres.create_engine(url, service=f"{SOURCE}-hot", connections_max=4, connections_kept=2, pre_ping=False)
    try:
        async with service.nats_broker(app, settings, SOURCE) as (_, nc):
            async with engine.begin() as conn:
                known = await store.declare_pipelines(conn, declared)
            app.state.answers = Answers(engine, ANSWERS)
            app.state.checks.append(partial(postgres.check, engine))
            js = nc.jetstream()
            outbox = Outbox(engine, OUTBOX, js)
            capacity = Capacity(settings.running_max, settings.tenant_weights)
            shell = Shell(hot, outbox, {(p.name, p.version): p for p in known}, declared, capacity)
            handlers = Handlers(shell, engine, js)
            operations = Operations(shell)
            replays = Replays(engine, js, shell, operations, settings.gpu_usd_per_s)
            audit, closing = Audit(engine), Closing(engine, outbox, js)
            erasures = Erasures(engine, js, outbox, operations, Signer(settings.receipt_key.get_secret_value()))
            upgrades = Upgrades(engine, shell)
            app.state.use_cases = UseCases(engine, shell, operations, replays, upgrades, audit, closing, erasures)
            async with service.background(
                app.state.answers.sweep_forever(),
                # One reader, and no two batches at a time with the same job: the stream's order is a job's order, also
                # when it is read again after a restore.
                consume_batches(
                    nc,
                    topology.consumer("orchestrator-inputs"),
                    handlers.inputs,
                    batch_max=BATCH_MAX,
                    at_once=2,
                    about=job_of,
                ),
                consume_batches(nc, topology.consumer("orchestrator-dead"), handlers.dead_letters),
                consume_batches(nc, topology.consumer("orchestrator-lost"), handlers.lost),
                consume_batches(nc, topology.consumer("orchestrator-audit"), audit.noted),
                consume_batches(nc, topology.consumer("orchestrator-erasures"), erasures.heard),
                _repeat("wake", partial(_wake, shell), _tick),
                _repeat("admit", shell.admit, partial(_freed, shell)),
                _repeat("replay", replays.work, _tick),
                _repeat("end batches", closing.end_due, _tick),
                _repeat("erase", erasures.work, _tick),
                _repeat("retain", partial(enforce, engine, erasures), partial(asyncio.sleep, RETAIN_EVERY_S)),
                _repeat("watch", Watch(engine, js).look, _now_and_then),
                inbox.prune_forever(engine, INBOX, topology.EVENTS),
                outbox.sweep_forever(),
            ):
                yield
            await handlers.drained()
    finally:
        await hot.dispose()
        await engine.dispose()


def build(settings: Settings) -> FastAPI:
    """The orchestrator as an app."""
    return service.create_app(SOURCE, settings, partial(compose, settings), api.router)


def main() -> None:
    """Run the orchestrator until SIGTERM."""
    service.run(SOURCE, Settings, build)
