"""Output's composition root."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI

from contracts import topology
from output import api
from output.documents import Documents
from output.handlers import SOURCE, Handlers
from output.listen import News
from output.paper import templates
from output.projection import Projection
from output.settings import Settings
from output.tables import ANSWERS, INBOX
from runtime import inbox, postgres, service
from runtime.idempotency import Answers
from runtime.objects import Objects
from runtime.sandbox import Sandbox
from runtime.settle import consume_batches, subscribe

BATCH = 400  # events a transaction: measured, 400 cost two thirds of the CPU that four times 100 do


@contextlib.asynccontextmanager
async def compose(settings: Settings, app: FastAPI) -> AsyncIterator[None]:
    """Wire storage, database, broker, sandbox; what was opened is closed in reverse."""
    objects = Objects(settings)
    url = settings.postgres_url.get_secret_value()
    engine = postgres.create_engine(url, service=SOURCE, connections_max=10)
    sandbox = Sandbox(
        workers=settings.render_workers,
        memory_bytes=settings.render_memory_bytes,
        preload=["output.render.phases"],
    )
    papers = Sandbox(
        workers=1,
        memory_bytes=settings.delivery_memory_bytes,
        preload=["output.paper.searchable", "output.paper.fields"],
    )
    news = News(url)
    app.state.engine, app.state.objects, app.state.news = engine, objects, news
    app.state.link_s = settings.link_s
    try:
        async with service.nats_broker(app, settings, SOURCE) as (broker, nc):
            app.state.answers = Answers(engine, ANSWERS)
            app.state.checks += [partial(postgres.check, engine), objects.check]
            handlers = Handlers(nc.jetstream(), objects, sandbox)
            subscribe(broker, topology.consumer("output-render"), handlers.render, workers=settings.render_workers)
            documents = Documents(nc.jetstream(), objects, papers, templates.load(settings.templates_dir))
            subscribe(broker, topology.consumer("output-assemble"), documents.assemble, workers=1)
            subscribe(broker, topology.consumer("output-deliver"), documents.deliver, workers=1)
            await broker.start()
            async with service.background(
                app.state.answers.sweep_forever(),
                consume_batches(nc, topology.consumer("output-projection"), Projection(engine).events, batch_max=BATCH),
                news.listen_forever(),
                inbox.prune_forever(engine, INBOX, topology.EVENTS),
            ):
                yield
    finally:
        sandbox.close()
        papers.close()
        await engine.dispose()
        objects.close()


def build(settings: Settings) -> FastAPI:
    """Output as an app."""
    return service.create_app(SOURCE, settings, partial(compose, settings), api.router, api.batches)


def main() -> None:
    """Run output until SIGTERM."""
    service.run(SOURCE, Settings, build)
