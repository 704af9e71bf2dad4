"""The gpu-bridge's composition root."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI

from contracts import topology
from gpu_bridge import api, policy, terms
from gpu_bridge.acts import SOURCE
from gpu_bridge.erasing import Erasing
from gpu_bridge.handlers import Handlers
from gpu_bridge.ledger import LEASE_S, Ledger
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.local import BoxProvider, LocalProvider
from gpu_bridge.providers.port import Provider
from gpu_bridge.settings import Settings
from gpu_bridge.submitter import Submitter
from gpu_bridge.tables import ANSWERS, OUTBOX
from gpu_bridge.vendors import Vendors
from gpu_bridge.watcher import Watcher
from runtime import postgres, service
from runtime.idempotency import Answers
from runtime.objects import Objects
from runtime.outbox import Outbox
from runtime.settle import consume_batches


def providers(settings: Settings) -> list[Provider]:
    """Those that this process is set up for. An SDK is loaded only where its provider is."""
    found: list[Provider] = [
        LocalProvider(
            workers=settings.local_workers,
            memory_bytes=settings.local_memory_bytes,
            idle_s=settings.local_idle_s,
            authorities=settings.s3_ca_file,
        )
    ]
    if settings.box:
        found.append(
            BoxProvider(
                weights=settings.weights_dir,
                allow_noncommercial=settings.allow_noncommercial,
                idle_s=settings.local_idle_s,
                authorities=settings.s3_ca_file,
            )
        )
    if settings.modal_app:
        from gpu_bridge.providers.modal import ModalProvider

        found.append(ModalProvider(app=settings.modal_app, environment=settings.modal_environment))
    return found


@contextlib.asynccontextmanager
async def compose(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Wire storage, ledger, broker, providers; what was opened is closed in reverse."""
    offered = terms.read(settings.gpu_terms)
    rules = policy.read(settings.gpu_policy)
    objects = Objects(settings)
    url = settings.postgres_url.get_secret_value()
    engine = postgres.create_engine(
        url,
        service=SOURCE,
        connections_max=12,
        connections_kept=10,
        transaction_idle_s=LEASE_S,  # who is silent for so long has lost its leases: it is not to keep the rows
    )
    here = providers(settings)
    try:
        async with service.nats_broker(app, settings, SOURCE) as (_, nc):
            js = nc.jetstream()
            ledger = Ledger(engine, Outbox(engine, OUTBOX, js), declared=rules.providers)
            marks = MarkStore(objects)
            vendors = Vendors(here, offered, rules, settings.local_workers)
            arrived = asyncio.Event()
            watcher = Watcher(ledger, marks, vendors, js, arrived)
            submitter = Submitter(ledger, marks, vendors, watcher, arrived, settings.calls_in_flight_max)
            erasing = Erasing(js, engine, objects)
            handlers = Handlers(ledger, marks, vendors, arrived, watcher.stop)
            app.state.answers = Answers(engine, ANSWERS)
            app.state.checks += [partial(postgres.check, engine), objects.check]
            app.state.use_cases = api.UseCases(engine, ledger.outbox, vendors, marks)
            await asyncio.gather(ledger.stay_alive(), vendors.feel())  # before anything is leased or given
            async with service.background(
                app.state.answers.sweep_forever(),
                consume_batches(nc, topology.consumer("gpu-bridge-calls"), handlers.commands),
                consume_batches(nc, topology.consumer("gpu-bridge-stops"), handlers.stops),
                consume_batches(nc, topology.consumer("gpu-bridge-uploads"), handlers.uploads),
                consume_batches(nc, topology.consumer("gpu-bridge-erasures"), erasing.heard),
                vendors.feel_forever(),
                submitter.run_forever(),
                watcher.run_forever(),
                watcher.keep_forever(),
                ledger.outbox.sweep_forever(),
                erasing.sweep_forever(),
            ):
                yield
    finally:
        for provider in here:
            await provider.close()
        await engine.dispose()
        objects.close()


def build(settings: Settings) -> FastAPI:
    """The gpu-bridge as an app."""
    return service.create_app(SOURCE, settings, partial(compose, settings), api.router)


def main() -> None:
    """Run the gpu-bridge until SIGTERM."""
    service.run(SOURCE, Settings, build)
