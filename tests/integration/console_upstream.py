"""The console as a process, and a small real service behind it: it does what a request's path says, and remembers."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

CLOSED = b""  # said to a stream: end it
SOON_S = 10.0


class Served:
    """An app, served in a thread of its own until `stop`."""

    def __init__(self, app: FastAPI) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(10)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            self._ready.set()
            await self._server.serve(sockets=[self._socket])

        asyncio.run(serve())


class Upstream(Served):
    """Stands behind the front door. `seen` are the requests, `left` the streams whose reader went."""

    def __init__(self) -> None:
        self.seen: queue.Queue[dict[str, Any]] = queue.Queue()
        self.left: queue.Queue[str] = queue.Queue()
        self._says: asyncio.Queue[bytes] = asyncio.Queue()
        super().__init__(self._app())

    def say(self, piece: bytes) -> None:
        """The next piece of the stream that is open, or of the next one that is opened."""
        self.loop.call_soon_threadsafe(self._says.put_nowait, piece)

    def forget(self) -> None:
        """From here on `seen` holds only what comes now."""
        while not self.seen.empty():
            self.seen.get()

    def _app(self) -> FastAPI:
        app = FastAPI(title="upstream", version="1")

        def note(request: Request, **more: Any) -> None:
            target = (request.scope["raw_path"] + b"?" + request.scope["query_string"]).decode().removesuffix("?")
            self.seen.put({"target": target, "headers": dict(request.headers), **more})

        @app.get("/live")
        async def live() -> None: ...

        @app.post("/v1/uploads")
        async def upload(request: Request) -> dict[str, Any]:
            digest, size = hashlib.sha256(), 0
            async for piece in request.stream():
                digest.update(piece)
                size += len(piece)
            note(request)
            return {"sha256": digest.hexdigest(), "size": size}

        @app.post("/v1/uploads/refused")
        async def refused(request: Request) -> Response:
            """Answers before it reads, and then waits for the caller to go."""
            note(request)
            headers = {"Connection": "close", "Content-Length": "9"}
            self.say(b"too large")
            return StreamingResponse(self._stream(), 413, headers=headers)

        @app.get("/v1/jobs/{job_id}/events")
        async def events(request: Request) -> StreamingResponse:
            note(request)
            return StreamingResponse(self._stream(), media_type="text/event-stream")

        @app.get("/v1/jobs/{job_id}/artifacts/{name}")
        async def artifact(request: Request) -> Response:
            note(request)
            return Response(status_code=307, headers={"Location": "http://storage.invalid/bucket/key?signature=1"})

        @app.get("/v1/{rest:path}")
        @app.post("/v1/{rest:path}")
        async def anything(request: Request) -> Response:
            note(request)
            headers = {"X-Kept": "1", "Keep-Alive": "timeout=5", "X-Dropped": "1", "Connection": "X-Dropped"}
            return Response(b"here", headers=headers)

        return app

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            while (piece := await self._says.get()) != CLOSED:
                yield piece
        except asyncio.CancelledError:
            self.left.put("reader")
            raise


@dataclass
class Console:
    """A console process, the services behind it, and a client of it."""

    process: psutil.Process
    client: httpx.Client
    ingest: Upstream
    output: Upstream
    orchestrator: Upstream
    gpu_bridge: Upstream

    def connection(self) -> http.client.HTTPConnection:
        """For what httpx would not send."""
        url = self.client.base_url
        return http.client.HTTPConnection(url.host, url.port, timeout=SOON_S)


class running:  # noqa: N801  # reads as the function that it stands for
    """The console as a process of its own, before new upstreams or before one that stands for all of them."""

    def __init__(self, folder: Path, behind: Served | None = None) -> None:
        ingest, output, orchestrator, gpu_bridge = Upstream(), Upstream(), Upstream(), Upstream()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._log = (folder / "console.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "console"],
            env={
                **os.environ,
                "SAFELIGHT_HTTP_PORT": str(port),
                "SAFELIGHT_INGEST_URL": (behind or ingest).url,
                "SAFELIGHT_OUTPUT_URL": (behind or output).url,
                "SAFELIGHT_ORCHESTRATOR_URL": (behind or orchestrator).url,
                "SAFELIGHT_GPU_BRIDGE_URL": (behind or gpu_bridge).url,
                "SAFELIGHT_S3_ENDPOINT": "http://storage.invalid:8333",
            },
            stderr=self._log,
        )
        # Connecting is tried again, with growing pauses, until the process listens.
        transport = httpx.HTTPTransport(retries=7)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=transport, timeout=SOON_S)
        self._console = Console(psutil.Process(self._process.pid), client, ingest, output, orchestrator, gpu_bridge)

    def __enter__(self) -> Console:
        assert self._console.client.get("/live").status_code == 200
        return self._console

    def __exit__(self, *_: object) -> None:
        self._console.client.close()
        self._process.terminate()
        self._process.wait(SOON_S)
        mine = self._console
        for upstream in (mine.ingest, mine.output, mine.orchestrator, mine.gpu_bridge):
            upstream.stop()
        self._log.close()
        assert "service.stopped" in Path(self._log.name).read_text(), "it drains on SIGTERM"
