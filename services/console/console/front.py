"""The front door: one base URL, behind it the services.

Bytes pass through in both directions as they come, so memory stays constant and events flow at
once. The path goes on exactly as it was sent (nothing is decoded or normalised in between, so no
`..` leaves its row of the table), redirects go back to the caller, and what belongs to one
connection stays on it (RFC 9110 section 7.6.1). A service may answer before it has been sent
everything: a refusal does not wait for the gigabyte that it refuses. A service that does not
answer is a 503 with a code; one that breaks off in mid-answer breaks the caller's connection too,
because a shortened body must not look whole.

Why not a library: fastapi-proxy-lib 0.3.0 forwards Transfer-Encoding, logs request headers (with
the API key) when a service is down, and has its own shape of errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Self

import anyio
import httpcore
import httpx
from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from contracts.errors import error
from contracts.message import HEADER_TRACE
from runtime import logs, telemetry

log = logs.get()

# The first row that fits answers: its path, and all that lies under it. {} stands for one name.
BEHIND: Final = (
    # path                     service
    ("/v1/uploads",            "ingest"),
    ("/v1/styles",             "ingest"),
    ("/v1/jobs/{}/re-edit",    "ingest"),
    ("/v1/tenants",            "ingest"),
    ("/v1/grants",             "ingest"),
    ("/v1/usage",              "ingest"),
    ("/v1/jobs/{}/cancel",     "orchestrator"),
    ("/v1/jobs/{}/pause",      "orchestrator"),
    ("/v1/jobs/{}/resume",     "orchestrator"),
    ("/v1/jobs/{}/retry",      "orchestrator"),
    ("/v1/jobs/{}/history",    "orchestrator"),
    ("/v1/jobs/upgrade",       "orchestrator"),
    ("/v1/jobs",               "output"),
    ("/v1/batches/{}/groups",  "output"),
    ("/v1/batches/{}/cost",    "output"),
    ("/v1/batches/{}/events",  "output"),
    ("/v1/batches/{}/zip",     "output"),
    ("/v1/batches/{}/links",   "output"),
    ("/v1/downloads",          "output"),
    ("/v1/links",              "output"),
    ("/v1/batches",            "orchestrator"),
    ("/v1/webhooks",           "output"),
    ("/v1/dead-letters",       "orchestrator"),
    ("/v1/audit",              "orchestrator"),
    ("/v1/erasures",           "orchestrator"),
    ("/v1/holds",              "orchestrator"),
    ("/v1/retention",          "orchestrator"),
    ("/v1/providers",          "gpu-bridge"),
)  # fmt: skip
SERVICES: Final = tuple(sorted({service for _, service in BEHIND}))

METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

# A silent event stream sends a comment every 15 s, so a minute without a byte means that nobody is there.
TIMEOUT: Final = httpx.Timeout(60, connect=5, pool=None)
# An event stream holds its connection for as long as its job runs: a limit here would lock everybody out.
READS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=50)
# A body goes over a connection of its own: it cannot meet one that is just being closed, and `_Line` sees it open.
BODIES: Final = httpx.Limits(max_connections=None, max_keepalive_connections=0)
EARLY_S: Final = 0.1  # how often a service is asked whether it has answered, while the caller sends nothing
# After an early answer the caller may still be sending. Closing at once would reset its connection, and the reset
# may overtake the answer: so the rest is read and thrown away until the caller goes, for so long at most.
LINGER_S: Final = 3.0

_ONE_CONNECTION: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# The server in front has answered Expect itself; Host and the trace are ours to write.
_OURS: Final = frozenset((b"host", b"expect", HEADER_TRACE.encode()))

RawHeaders = list[tuple[bytes, bytes]]


def service_of(path: str) -> str | None:
    """Who answers at this path, which may be one of a document with `{names}` in it. None: nobody behind the door."""
    asked = path.split("/")
    for row, service in BEHIND:
        wanted = row.split("/")
        if len(asked) >= len(wanted) and all(w == a or (w == "{}" and a) for w, a in zip(wanted, asked, strict=False)):
            return service
    return None


def passed_on(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The headers that are for the other end: without those of this connection and those it names."""
    given = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in given if name == b"connection" for token in value.split(b",")}
    chunked = any(name == b"transfer-encoding" for name, _ in given)
    dropped = _ONE_CONNECTION | named | ({b"content-length"} if chunked else set())
    return [(name, value) for name, value in given if name not in dropped]


class Door:
    """Hands requests on to the services."""

    def __init__(self, services: Mapping[str, str]) -> None:
        """`services` maps a service's name to its base URL. Use as an async context manager."""
        self._services = {name: httpx.URL(url) for name, url in services.items()}
        self._reads = httpx.AsyncClient(timeout=TIMEOUT, limits=READS, trust_env=False)
        self._bodies = httpx.AsyncClient(timeout=TIMEOUT, limits=BODIES, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._reads.aclose()
        await self._bodies.aclose()

    def router(self) -> APIRouter:
        """One route per row of `BEHIND` and all that lies under it."""
        router = APIRouter(include_in_schema=False)
        for row, service in BEHIND:
            path = row.replace("{}", "{name}")
            for route in (path, path + "/{rest:path}"):
                router.add_api_route(route, self._route(service), methods=METHODS, name=service)
        return router

    def _route(self, service: str) -> Callable[[Request], Awaitable[Response]]:
        async def hand_on(request: Request) -> Response:
            return await self.hand_on(service, request)

        return hand_on

    async def hand_on(self, service: str, request: Request) -> Response:
        """The service's own answer to this request. Raises SERVICE_UNAVAILABLE."""
        has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
        line = _Line()
        try:
            if has_body:
                outgoing = self._outgoing(service, request, content=line.carry(request), trace=line.note)
                answer = await self._bodies.send(outgoing, stream=True)
            else:
                answer = await self._reads.send(self._outgoing(service, request), stream=True)
        except httpx.TransportError as problem:
            log.warning("front.unavailable", upstream=service, problem=type(problem).__name__)
            raise error("SERVICE_UNAVAILABLE", f"{service} does not answer") from problem
        except ClientDisconnect:
            return Response(status_code=499)  # nobody is there to read it; the span keeps it
        return _Relayed(answer, last=line.answered_early)

    def _outgoing(
        self, service: str, request: Request, content: AsyncIterator[bytes] | None = None, **extensions: Any
    ) -> httpx.Request:
        target = request.scope["raw_path"]
        if query := request.scope["query_string"]:
            target += b"?" + query
        headers = [pair for pair in passed_on(request.headers.raw) if pair[0] not in _OURS]
        if parent := telemetry.traceparent():
            headers.append((HEADER_TRACE.encode(), parent.encode()))
        # Built without the client's defaults: an Accept-Encoding that the caller did not send would change the answer.
        return httpx.Request(
            request.method,
            self._services[service],
            headers=headers,
            content=content,
            extensions={"target": target, **extensions},
        )

    async def document(self, service: str) -> dict[str, object]:
        """The service's own OpenAPI document. Raises SERVICE_UNAVAILABLE."""
        answer = await self._ask(service, "/openapi.json")
        document: dict[str, object] = answer.json()
        return document

    async def reach(self, service: str) -> None:
        """Returns when the service answers. Raises SERVICE_UNAVAILABLE."""
        await self._ask(service, "/live")

    async def _ask(self, service: str, path: str) -> httpx.Response:
        try:
            answer = await self._reads.get(self._services[service].join(path))
            return answer.raise_for_status()
        except (httpx.TransportError, httpx.HTTPStatusError) as problem:
            raise error("SERVICE_UNAVAILABLE", f"{service} does not answer") from problem


class _Line:
    """One request's body on its way to a service, which may answer before it has come to its end."""

    def __init__(self) -> None:
        self.answered_early = False
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def note(self, event: str, info: Mapping[str, Any]) -> None:
        """httpcore tells what it does; this is how we learn which connection it opened."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._stream = None  # TLS has messages of its own: that something can be read is no answer yet

    async def carry(self, request: Request) -> AsyncIterator[bytes]:
        """The caller's body, piece by piece, for as long as the service has not answered.

        Raises httpcore.WriteError when it has: that tells httpcore to send no more and to read the answer.
        """
        pieces = request.stream()
        chunked = "transfer-encoding" in request.headers  # then it has no length, whatever another header says
        missing = -1 if chunked else int(request.headers["content-length"])
        while missing:
            piece = asyncio.ensure_future(anext(pieces, None))
            try:
                while not piece.done():
                    await asyncio.wait({piece}, timeout=EARLY_S)
                    if self._stream and self._stream.get_extra_info("is_readable"):
                        self.answered_early = True
                        raise httpcore.WriteError
                sent = piece.result()
            finally:
                piece.cancel()
            if sent is None:
                return
            missing -= len(sent)
            yield sent


class _Relayed(StreamingResponse):
    """A service's answer on its way to the caller. However it ends, the connection behind it is let go.

    `last`: the caller's connection ends with it, for the rest of the caller's body is nobody's any more.
    """

    def __init__(self, answer: httpx.Response, *, last: bool) -> None:
        self._answer = answer
        super().__init__(self._body(last), status_code=answer.status_code)
        # The server in front dates the answer itself.
        self.raw_headers = [pair for pair in passed_on(answer.headers.raw) if pair[0] != b"date"]
        if last:
            self.raw_headers.append((b"connection", b"close"))

    async def _body(self, last: bool) -> AsyncIterator[bytes]:
        async for piece in self._answer.aiter_raw():
            yield piece
        if last:
            await asyncio.sleep(LINGER_S)  # cancelled when the caller goes; StreamingResponse reads meanwhile

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._answer.aclose()


def install(app: FastAPI, door: Door) -> None:
    """Route the table's paths to the services, and be ready when each of them can be reached.

    Reached, not ready: while ingest waits for its broker, jobs can still be read, and an upload
    is answered with the reason.
    """
    app.include_router(door.router())
    for service in SERVICES:

        async def reached(service: str = service) -> None:
            await door.reach(service)

        app.state.checks.append(reached)
