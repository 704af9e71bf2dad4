"""A small real object store over HTTP, calls against it, and pictures to work on."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from contracts.envelope import CallRequest, Item, ReadUrl, WriteUrl
from tests.pixels.gpu_functions import pictures

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Storage:
    """Presigned URLs against a dict. `answers` scripts a status per key; a key in `stalled` waits for `release`."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)

    def put(self, key: str, content: bytes) -> ReadUrl:
        self.objects[key] = content
        return ReadUrl(url=f"{self.url}/{key}", sha256=hashlib.sha256(content).hexdigest(), size=len(content))

    def target(self, key: str) -> WriteUrl:
        return WriteUrl(url=f"{self.url}/{key}", key=key)

    def request(self, function: str, *items: Item, seconds: float = 60.0) -> CallRequest:
        deadline = datetime.now(UTC) + timedelta(seconds=seconds)
        return CallRequest(
            call_id="call-1", function=function, items=list(items), deadline=deadline, traceparent=TRACEPARENT
        )

    def item(self, name: str, parameters: Mapping[str, Any] | None = None, **inputs: bytes) -> Item:
        sources = {role: self.put(f"{name}.{role}", content) for role, content in inputs.items()}
        return Item(
            id=name, inputs=sources, outputs={"image": self.target(f"{name}.out")}, parameters=dict(parameters or {})
        )


@pytest.fixture
def storage() -> Iterator[Storage]:
    store = Storage()

    class Handler(BaseHTTPRequestHandler):
        def _begin(self) -> str | None:
            key = self.path.lstrip("/")
            if key in store.stalled:
                store.release.wait(30)
            if status := store.answers.get(key):
                self._reply(status, b"")
                return None
            return key

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if (key := self._begin()) is not None:
                self._reply(200 if key in store.objects else 404, store.objects.get(key, b""))

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if (key := self._begin()) is not None:
                store.objects[key] = body
                self._reply(200, b"")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that gave up is part of the tests
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield store
    store.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def astronaut() -> npt.NDArray[np.uint8]:
    """512×512, one face; NASA, public domain, in the scikit-image wheel."""
    return pictures.shipped("astronaut")


@pytest.fixture(scope="session")
def rocket() -> npt.NDArray[np.uint8]:
    """427×640, dusk sky between lattice towers; SpaceX, public domain, in the scikit-image wheel."""
    return pictures.shipped("rocket")
