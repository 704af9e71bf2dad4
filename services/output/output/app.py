"""Output's composition root."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from fastapi import FastAPI

from contracts import topology
from output import api, downloads, links
from output.accesses import Accesses
from output.costs import Costs
from output.documents import Documents
from output.erasing import Erasing
from output.handlers import Handlers
from output.listen import Bell, News
from output.paper import templates
from output.projection import Projection
from output.settings import Settings
from output.signing import SigningKeys
from output.streams import Streams
from output.tables import ANSWERS, ERASED, INBOX
from output.webhooks import api as webhooks
from output.webhooks.deliverer import Deliverer
from runtime import inbox, outside, postgres, service
from runtime.idempotency import Answers
from runtime.objects import Objects
from runtime.phases import Phases
from runtime.sandbox import Sandbox
from runtime.settle import consume_batches, subscribe

SOURCE: Final = "output"
BATCH: Final = 400  # events a transaction: measured, 400 cost two thirds of the CPU that four times 100 do


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
    bell = Bell()
    streams = Streams(engine)
    news = News(url, bell, streams)
    keys, open_ = SigningKeys.read(settings.signing_keys.get_secret_value()), outside.allowed(settings)
    deliverer = Deliverer(engine, keys, open_, bell, settings.webhook_timeout_s, settings.webhook_lease_s)
    app.state.engine, app.state.objects, app.state.news, app.state.streams = engine, objects, news, streams
    app.state.link_s, app.state.signing, app.state.open = settings.link_s, keys, open_
    app.state.public_url = settings.public_url
    try:
        async with service.nats_broker(app, settings, SOURCE) as (broker, nc):
            app.state.answers = Answers(engine, ANSWERS)
            app.state.checks += [partial(postgres.check, engine), objects.check]
            projection = Projection(engine, settings.public_url, keys.current)
            phases = Phases(SOURCE, nc.jetstream(), engine, ERASED, objects)
            handlers = Handlers(phases, objects, sandbox)
            subscribe(broker, topology.consumer("output-render"), handlers.render, workers=settings.render_workers)
            documents = Documents(phases, objects, papers, templates.load(settings.templates_dir))
            subscribe(broker, topology.consumer("output-assemble"), documents.assemble, workers=1)
            subscribe(broker, topology.consumer("output-deliver"), documents.deliver, workers=1)
            app.state.accesses = Accesses(nc.jetstream())
            erasing = Erasing(nc.jetstream(), engine, objects)
            subscribe(broker, topology.consumer("output-erasures"), erasing.erase, workers=1)
            subscribe(broker, topology.consumer("output-costs"), Costs(engine).noted, workers=1)
            await broker.start()
            async with service.background(
                app.state.answers.sweep_forever(),
                consume_batches(nc, topology.consumer("output-projection"), projection.events, batch_max=BATCH),
                deliverer.deliver_forever(),
                deliverer.prune_forever(),
                links.prune_forever(engine),
                news.listen_forever(),
                streams.read_forever(),
                streams.close_when(app.state.draining),
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
    return service.create_app(
        SOURCE, settings, partial(compose, settings), api.router, api.batches, webhooks.router, downloads.router
    )


def main() -> None:
    """Run output until SIGTERM."""
    service.run(SOURCE, Settings, build)
