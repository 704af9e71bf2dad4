"""An endpoint of somebody else's: a small real HTTP server that writes down what it is told and answers as scripted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Heard:
    """One request. `headers` have lower-case names."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Endpoints:
    """Every path is an endpoint. Its script is answered one by one, then 200 for ever.

    200, 500, 410, ...   that status          "429 7"    with Retry-After: 7
    "hang"               no answer, ever      "close"    the connection ends without one
    "drip"               200, and a body that never ends
    """

    port: int = 0
    scheme: str = "http"
    heard: defaultdict[str, list[Heard]] = field(default_factory=lambda: defaultdict(list))
    scripts: defaultdict[str, deque[int | str]] = field(default_factory=lambda: defaultdict(deque))
    always: dict[str, int | str] = field(default_factory=dict)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            try:
                while await self._answer(reader, writer):
                    pass
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = first.split(" ")[1]
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.heard[path].append(Heard(path, headers, body))
        script = self.scripts[path]
        answer = script.popleft() if script else self.always.get(path, 200)
        if answer == "hang":
            await reader.read(1)  # until the other side gives up
            return False
        if answer == "close":
            return False
        if answer == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not writer.is_closing():
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
            return False
        status, _, after = str(answer).partition(" ")
        extra = f"Retry-After: {after}\r\n" if after else ""
        extra += "Location: http://169.254.169.254/\r\n" if status.startswith("3") else ""
        writer.write(f"HTTP/1.1 {status} Scripted\r\n{extra}Content-Length: 2\r\n\r\nok".encode())
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def endpoints(tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoints]:
    """Served on a free port of 127.0.0.1."""
    made = Endpoints(scheme="https" if tls else "http")
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
