"""A service process from start to drain.

`run` reads settings, installs logs and telemetry, and serves an app whose lifespan is the
service's composition root. SIGTERM stops new work first and waits for what runs; a composition
that cannot start (topology mismatch, bad settings) ends the process with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from contracts.errors import SafelightError, error
from contracts.topology import inbox_of
from runtime import cors, http, logs, telemetry
from runtime.keys import Keys, known_to_ingest
from runtime.settings import HttpSettings, KeysSettings, NatsSettings

if TYPE_CHECKING:
    from faststream.nats import NatsBroker
    from nats.aio.client import Client

TICK_S = 1.0  # the resolution of the Date header
DRAIN_S = 20  # handlers get this long to end; then their messages come again elsewhere
log = logs.get()

Check = Callable[[], Awaitable[None]]
Compose = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(service: str, settings: HttpSettings, compose: Compose, *routers: APIRouter) -> FastAPI:
    """The HTTP side of a service: /live, /ready, problem documents, its routes, and `compose` as its lifespan.

    `compose` appends readiness checks to `app.state.checks`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keys = known_to_ingest(app, settings) if isinstance(settings, KeysSettings) else contextlib.nullcontext()
        async with keys, compose(app):
            log.info("service.started")
            yield
            app.state.draining.set()
            log.info("service.draining")
        log.info("service.stopped")

    app = FastAPI(title=f"Safelight {service}", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.checks = []
    app.state.draining = asyncio.Event()
    app.state.keys = Keys(settings.api_keys.get_secret_value(), settings.operator_keys.get_secret_value())
    http.install(app)
    cors.allow(app, settings.cors_origins)

    @app.get("/live", include_in_schema=False)
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/ready", include_in_schema=False)
    async def ready() -> JSONResponse:
        results = await asyncio.gather(*(_passes(check) for check in app.state.checks))
        wrong = sorted(filter(None, results))
        return JSONResponse({"ready": not wrong, "waiting_for": wrong}, 503 if wrong else 200)

    for router in routers:
        app.include_router(router)
    return app


async def _passes(check: Check) -> str | None:
    try:
        async with asyncio.timeout(3):
            await check()
    except SafelightError as problem:
        return problem.code
    except Exception as problem:
        return type(problem).__name__
    return None


class Server(uvicorn.Server):
    """uvicorn with two differences.

    It is told when to end instead of looking ten times a second: an idle service wakes for nothing else. And it tells
    the app that it drains before it waits for open connections: an event stream ends only when told.
    """

    async def main_loop(self) -> None:
        self._asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):  # on_tick(0) renews the Date header
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), TICK_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        if hasattr(self, "_asked") and not self._loop.is_closed():  # else it will look by itself, or is over
            self._loop.call_soon_threadsafe(self._asked.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.draining.set()  # type: ignore[union-attr]  # it is the app that `run` was given
        await super().shutdown(sockets)


def run(service: str, settings: Callable[[], HttpSettings], build: Callable[[Any], FastAPI]) -> None:
    """Serve until SIGTERM or SIGINT. Exits 1 when the service cannot start, with the reason on stderr."""
    try:
        known = settings()
    except ValidationError as problem:
        names = ", ".join(".".join(map(str, e["loc"])) + f" ({e['msg']})" for e in problem.errors())
        sys.exit(f"safelight {service}: settings are wrong: {names}")
    logs.configure(service, known.log_level)
    provider = telemetry.configure(service)
    server = Server(
        uvicorn.Config(
            build(known),
            host=known.http_host,
            port=known.http_port,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            timeout_keep_alive=30,
        )
    )
    # Who is asked to stop before the server listens to signals stops as soon as it has started. And once drained,
    # uvicorn raises the signal that stopped it again, which would end us before the last spans are out.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    # What was loaded so far stays: the collector need not look at it again. And it looks less often: at the default
    # of 700 new objects it takes a third of a busy orchestrator's time, and finds next to nothing.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    try:
        server.run()
    finally:
        provider.shutdown()
    if not server.started:
        sys.exit(1)


@contextlib.asynccontextmanager
async def nats_broker(app: FastAPI, settings: NatsSettings, service: str) -> AsyncIterator[tuple[NatsBroker, Client]]:
    """A connected broker whose topology was checked; the caller subscribes, then starts it.

    Raises:
        TopologyMismatch: the broker lacks what `service` needs; it says what.
    """
    # Imported here: a process without a broker, such as the front door, is 25 MB smaller without them.
    from faststream.nats import NatsBroker
    from faststream.nats.security import NatsUserPassword
    from faststream.security import BaseSecurity

    from runtime import topology
    from runtime.settle import SettleMiddleware

    password = settings.nats_password.get_secret_value() if settings.nats_password else ""
    context = settings.nats_tls
    security: BaseSecurity | None = None
    if settings.nats_user:
        security = NatsUserPassword(
            settings.nats_user, password, ssl_context=context, tls_handshake_first=context is not None
        )
    broker = NatsBroker(
        settings.nats_url,
        security=security,
        name=f"safelight-{service}",
        inbox_prefix=inbox_of(service),
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        middlewares=[SettleMiddleware],
        graceful_timeout=DRAIN_S,
        logger=logs.get(),
        log_level=logging.DEBUG,  # received/processed lines; errors come as errors
    )
    nc = await broker.connect()
    try:
        await topology.check(nc.jetstream(), owner=service)

        async def connected() -> None:
            if not nc.is_connected:
                raise error("BROKER_UNAVAILABLE")

        app.state.checks.append(connected)
        yield broker, nc
    finally:
        await broker.stop()


@contextlib.asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Endless works beside the service. One that ends by itself is a defect: the process stops, to be restarted."""
    tasks = [asyncio.create_task(work) for work in works]

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.critical("service.background_ended", work=task.get_coro().__qualname__, exc_info=task.exception())  # type: ignore[union-attr]
            os.kill(os.getpid(), signal.SIGTERM)

    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
