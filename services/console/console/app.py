"""The console's composition root: the front door, the merged API document, the page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from console import apidoc, front
from console.front import SERVICES, Door
from console.page import Page
from console.settings import Settings
from runtime import service

SOURCE = "console"


@contextlib.asynccontextmanager
async def compose(door: Door, _app: FastAPI) -> AsyncIterator[None]:
    """Nothing runs beside the requests; at the end the connections to the services close."""
    async with door:
        yield


def build(settings: Settings) -> FastAPI:
    """The console as an app."""
    door = Door(
        {
            "ingest": settings.ingest_url,
            "orchestrator": settings.orchestrator_url,
            "gpu-bridge": settings.gpu_bridge_url,
            "output": settings.output_url,
        }
    )
    app = service.create_app(SOURCE, settings, partial(compose, door))

    async def document() -> JSONResponse:
        """What can be asked of this base URL, from what the services say now."""
        said = await asyncio.gather(*map(door.document, SERVICES))
        return JSONResponse(apidoc.merge(dict(zip(SERVICES, said, strict=True)), front.service_of, version=app.version))

    # First, because the app has its own route of that path, which knows nothing of the services.
    app.router.routes.insert(0, APIRoute("/openapi.json", document, include_in_schema=False))
    front.install(app, door)
    app.mount("/", Page(settings.pictures_from))
    return app


def main() -> None:
    """Run the console until SIGTERM."""
    service.run(SOURCE, Settings, build)
