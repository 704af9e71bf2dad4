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

from contracts.envelope import CallRequest, Item, Marks, ReadUrl, WriteUrl
from tests.pixels.gpu_functions import pictures

SIGNATURE = "X-Amz-Signature=a-secret-of-the-storage"
LOST = 0  # in `Storage.next`: do what is asked, and hang up without an answer
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Storage:
    """Presigned URLs against a dict, which knows `If-None-Match: *`.

    `answers` scripts a status per key, `next` one per request of a key (see LOST); a key in
    `stalled` waits for `release`. `log` is every request, `written` every body, in order.
    """

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    next: dict[str, list[int]] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)
    log: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    written: list[tuple[str, bytes]] = field(default_factory=list)

    def link(self, key: str) -> str:
        return f"{self.url}/{key}?{SIGNATURE}"

    def put(self, key: str, content: bytes) -> ReadUrl:
        self.objects[key] = content
        return ReadUrl(url=self.link(key), sha256=hashlib.sha256(content).hexdigest(), size=len(content))

    def target(self, key: str) -> WriteUrl:
        return WriteUrl(url=self.link(key), key=key)

    def marked(self, item: Item) -> Item:
        """The same item with its marks, at `{id}.claim`, `.progress` and `.result`."""
        name = item.id
        marks = Marks(
            claim=self.link(f"{name}.claim"),
            claimed=self.link(f"{name}.claim"),
            progress=self.link(f"{name}.progress"),
            result=self.link(f"{name}.result"),
        )
        return item.model_copy(update={"marks": marks})

    def asked(self, line: str, timeout_s: float = 20.0) -> bool:
        """Whether this was asked ("GET a.image"), as soon as it is."""
        with self.changed:
            return self.changed.wait_for(lambda: line in self.log, timeout_s)

    def of(self, name: str) -> list[str]:
        """What was asked about an item: "PUT claim", "GET image"."""
        return [line.replace(f"{name}.", "") for line in self.log if f" {name}." in line]

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
    store, lock = Storage(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _begin(self) -> tuple[str, int | None]:
            """The key, and the status that the test has scripted."""
            key = self.path.lstrip("/").partition("?")[0]
            with store.changed:
                store.log.append(f"{self.command} {key}")
                store.changed.notify_all()
            if key in store.stalled:
                store.release.wait(30)
            if store.next.get(key):
                return key, store.next[key].pop(0)
            return key, store.answers.get(key)

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            key, scripted = self._begin()
            if scripted:
                self._reply(scripted, b"")
            else:
                self._reply(200 if key in store.objects else 404, store.objects.get(key, b""))

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key, scripted = self._begin()
            if scripted:
                self._reply(scripted, b"")
                return
            with lock:
                refused = self.headers.get("If-None-Match") == "*" and key in store.objects
                if not refused:
                    store.objects[key] = body
                    store.written.append((key, body))
            if scripted == LOST:
                self.close_connection = True
            else:
                self._reply(412 if refused else 200, b"")

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
