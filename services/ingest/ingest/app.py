"""Ingest's composition root."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import httpx
from fastapi import FastAPI

from contracts import topology
from ingest import api, api_drafts, api_edits, api_grants, api_tenants, api_ways
from ingest.acts import SOURCE
from ingest.batches import Batches
from ingest.catalog import Catalog
from ingest.documents import Documents
from ingest.drafts import Drafts
from ingest.edits import Edits
from ingest.erasing import Erasing
from ingest.fetching import Fetching
from ingest.finishing import Finishing
from ingest.gate import Gate
from ingest.grants import Grants, Signer
from ingest.handlers import Handlers
from ingest.load import Loads
from ingest.scanner import Scanner
from ingest.seals import Seals
from ingest.sessions import Sessions
from ingest.settings import Settings
from ingest.styles import Styles
from ingest.sweep import Sweep
from ingest.tables import ANSWERS, ERASED, OUTBOX
from ingest.tenants import Askers, Tenants
from ingest.training import Training
from ingest.transfers import Transfers
from ingest.tus import api as tus_api
from ingest.tus.server import Tus
from ingest.uploads import Uploads
from runtime import outside, postgres, service
from runtime.idempotency import Answers
from runtime.keys import Remembered
from runtime.objects import Objects
from runtime.outbox import Outbox
from runtime.phases import Phases
from runtime.sandbox import Sandbox
from runtime.settle import consume_batches, subscribe

ROUTERS = (
    api_drafts.router,
    api.router,
    tus_api.router,
    api_ways.router,
    api_grants.router,
    api_grants.usage,
    api_edits.router,
    api_tenants.router,
    api_tenants.internal,
)


@contextlib.asynccontextmanager
async def compose(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Wire storage, database, broker, sandbox; what was opened is closed in reverse."""
    objects = Objects(settings)
    engine = postgres.create_engine(settings.postgres_url.get_secret_value(), service=SOURCE, connections_max=10)
    sandbox = Sandbox(
        workers=settings.analysis_workers,
        memory_bytes=settings.analysis_memory_bytes,
        preload=["ingest.analysis.warm", "ingest.pages.pictures"],
    )
    pdfs = Sandbox(
        workers=settings.documents_workers,
        memory_bytes=settings.documents_memory_bytes,
        preload=["ingest.pages.pdf"],
    )
    signer = Signer(settings.grant_keys.get_secret_value())
    try:
        async with (
            httpx.AsyncClient(base_url=settings.orchestrator_url, timeout=2) as orchestrator,
            outside.pool(outside.allowed(settings)) as strangers,
            service.nats_broker(app, settings, SOURCE) as (broker, nc),
        ):
            outbox, styles = Outbox(engine, OUTBOX, nc.jetstream()), Styles(engine, objects)
            catalog, batches = Catalog(orchestrator), Batches(orchestrator)
            seals = Seals(objects, catalog, [one.strip() for one in settings.sealed_tenants.split(",")])
            scanner = Scanner(settings.clamav, required=settings.clamav_required) if settings.clamav else None
            tenants, grants = Tenants(engine, outbox), Grants(engine, outbox, signer)
            app.state.tenants, app.state.askers, app.state.outbox = tenants, Askers(tenants, grants), outbox
            app.state.keys.beyond = Remembered(app.state.askers)
            drafts = Drafts(engine, outbox, objects, settings.upload_bytes_max)
            gate = Gate(engine, tenants, grants, Loads(orchestrator), settings.tenant_limits, settings.jobs_open_max)
            app.state.gate = gate
            app.state.uploads = Uploads(
                engine,
                outbox,
                objects,
                catalog,
                styles,
                batches,
                seals,
                drafts,
                gate,
                settings.upload_bytes_max,
                scanner,
            )
            app.state.drafts, app.state.training = drafts, Training(drafts, app.state.uploads, sandbox)
            app.state.edits = Edits(engine, outbox, styles, orchestrator)
            finishing = Finishing(app.state.uploads, Transfers(engine, settings.transfer_s), objects)
            app.state.tus, app.state.sessions = Tus(finishing), Sessions(finishing, settings.link_s)
            app.state.fetching = Fetching(app.state.uploads, strangers, outside.allowed(settings), settings.import_s)
            app.state.styles, app.state.objects, app.state.link_s = styles, objects, settings.link_s
            app.state.answers = Answers(engine, ANSWERS)
            app.state.checks += [partial(postgres.check, engine), objects.check]
            phases = Phases(SOURCE, nc.jetstream(), engine, ERASED, objects)
            handlers = Handlers(phases, objects, sandbox)
            subscribe(broker, topology.consumer("ingest-analysis"), handlers.analyze, workers=settings.analysis_workers)
            documents, pages = Documents(phases, objects, pdfs, sandbox), settings.documents_workers
            subscribe(broker, topology.consumer("ingest-inspect"), documents.inspect, workers=1)
            subscribe(broker, topology.consumer("ingest-rasterize"), documents.rasterize, workers=pages)
            erasing = Erasing(nc.jetstream(), engine, objects)
            subscribe(broker, topology.consumer("ingest-erasures"), erasing.erase, workers=1)
            await broker.start()
            async with service.background(
                app.state.answers.sweep_forever(),
                seals.tidy_forever(engine),
                Sweep(engine, objects).forever(),
                catalog.learn_forever(),
                outbox.sweep_forever(),
                drafts.expire_forever(),
                consume_batches(nc, topology.consumer("ingest-styles"), styles.succeeded),
            ):
                yield
    finally:
        sandbox.close()
        pdfs.close()
        await engine.dispose()
        objects.close()


def build(settings: Settings) -> FastAPI:
    """Ingest as an app."""
    return service.create_app(SOURCE, settings, partial(compose, settings), *ROUTERS)


def main() -> None:
    """Run ingest until SIGTERM."""
    service.run(SOURCE, Settings, build)
