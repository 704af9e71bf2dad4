"""What every HTTP surface shares: problem documents (RFC 9457), bounded bodies, and from `keys` who asks.

Every error a client sees has a stable code from `contracts.errors`; what is unforeseen is
INTERNAL, and its text stays in our logs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute
from opentelemetry.trace import SpanKind
from pydantic import AfterValidator, BaseModel, StringConstraints
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from contracts.errors import ERRORS, SafelightError, error
from contracts.message import HEADER_TRACE
from runtime import logs, telemetry
from runtime.keys import Anybody as Anybody
from runtime.keys import Asker as Asker
from runtime.keys import Caller as Caller
from runtime.keys import Follower as Follower
from runtime.keys import Operator as Operator
from runtime.keys import Tenant as Tenant
from runtime.keys import asking

if TYPE_CHECKING:
    from runtime.idempotency import Answers  # which needs a database, and the front door has none

log = logs.get()


class Problem(BaseModel):
    """An RFC 9457 problem document. `code` is stable; `fixer` says who can do something about it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    fixer: str
    trace_id: str | None = None
    retry_after_s: float | None = None
    errors: list[dict[str, Any]] | None = None


def problem_response(
    problem: SafelightError, *, headers: Mapping[str, str] | None = None, errors: Any = None
) -> JSONResponse:
    """The answer that tells `problem`."""
    row = problem.row
    body = Problem(
        type=f"urn:safelight:error:{row.code.lower().replace('_', '-')}",
        title=row.title,
        status=row.status,
        detail=problem.detail,
        code=row.code,
        fixer=row.fixer,
        trace_id=telemetry.trace_id(telemetry.traceparent()),
        retry_after_s=problem.retry_after_s,
        errors=errors,
    )
    extra = {**problem.headers, **(headers or {})}
    if row.status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    if problem.retry_after_s is not None:
        extra.setdefault("Retry-After", str(max(1, math.ceil(problem.retry_after_s))))
    elif row.status == 503:
        extra.setdefault("Retry-After", "5")
    return JSONResponse(
        body.model_dump(exclude_none=True), row.status, headers=extra, media_type="application/problem+json"
    )


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entry of a route that may answer with these error codes."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        by_status.setdefault(ERRORS[code].status, []).append(f"{code}: {ERRORS[code].title}")
    schema = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": " ".join(texts), "content": schema} for status, texts in by_status.items()}


class Link(BaseModel):
    """A signed link: it works for a while, for whoever has it."""

    url: str


LINKED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "With `redirect=false`: the link itself", "model": Link}
}


def link_response(link: str, *, redirect: bool) -> RedirectResponse | JSONResponse:
    """The answer that leads to a signed link, or, for a page that cannot follow one with its key, holds it."""
    fresh = {"Cache-Control": "no-store"}
    return RedirectResponse(link, 307, headers=fresh) if redirect else JSONResponse({"url": link}, headers=fresh)


class TraceRequests:
    """ASGI middleware: one SERVER span per request, named by its route, under the caller's traceparent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ("/live", "/ready"):
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_and_note(message: ASGIMessage) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        given = Headers(scope=scope).get(HEADER_TRACE)
        with telemetry.span(scope["method"], traceparent=given, kind=SpanKind.SERVER) as span:
            await self._app(scope, receive, send_and_note)
            route = getattr(scope.get("route"), "path", "unknown")
            span.update_name(f"{scope['method']} {route}")
            span.set_attributes({"http.request.method": scope["method"], "http.route": route})
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                telemetry.fail(span, str(status))


def install(app: FastAPI) -> None:
    """Trace every request of this app, and answer every error with a problem document that its OpenAPI describes."""
    app.add_middleware(TraceRequests)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault("Problem", Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way of extending the document

    @app.exception_handler(SafelightError)
    async def _known(_request: Request, problem: SafelightError) -> JSONResponse:
        return problem_response(problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_request: Request, problem: RequestValidationError) -> JSONResponse:
        where = [{"where": [str(p) for p in e["loc"]], "what": e["msg"]} for e in problem.errors()]  # never the value
        return problem_response(error("REQUEST_INVALID"), errors=where)

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, problem: HTTPException) -> JSONResponse:
        title = str(problem.detail)
        return JSONResponse(
            {"type": "about:blank", "title": title, "status": problem.status_code, "detail": title, "code": "HTTP"},
            problem.status_code,
            headers=dict(problem.headers or {}),
            media_type="application/problem+json",
        )

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, problem: Exception) -> JSONResponse:
        route = request.scope.get("route")
        log.error("http.unforeseen", route=getattr(route, "path", None), exc_info=problem)
        return problem_response(error("INTERNAL"))


# -- what a request may hold -----------------------------------------------------------------

BODY_BYTES_MAX: Final = 256 * 1024  # parameters of 64 KiB, each byte of them escaped, and some


IDEMPOTENCY_KEY: Final = "Idempotency-Key"
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255


class Bounded(APIRoute):
    """A route whose requests are read no further than they may be long, and whose POSTs act once per Idempotency-Key.

    One that takes `idempotency_key` as a parameter sees to that itself.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **about: Any) -> None:
        itself = "idempotency_key" in inspect.signature(endpoint).parameters
        self.acts_once = "POST" in (about.get("methods") or ()) and not itself
        if self.acts_once:
            about["openapi_extra"] = {"parameters": [_KEY_HEADER], **(about.get("openapi_extra") or {})}
            about["responses"] = {**responses("IDEMPOTENCY_KEY_IN_USE"), **(about.get("responses") or {})}
        super().__init__(path, endpoint, **about)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def bounded(request: Request) -> Response:
            body = bytearray()
            async for piece in request.stream():
                body += piece
                if len(body) > BODY_BYTES_MAX:
                    raise error("REQUEST_INVALID", f"a body may have {BODY_BYTES_MAX} bytes at most")

            async def again() -> ASGIMessage:
                return {"type": "http.request", "body": bytes(body), "more_body": False}

            async def act() -> Response:
                return await handle(Request(request.scope, again))

            answers: Answers | None = getattr(request.app.state, "answers", None)
            if answers is None or not self.acts_once or IDEMPOTENCY_KEY not in request.headers:
                return await act()
            return await answers.once(request, bytes(body), await asking(request), act)

        return bounded


_KEY_HEADER: Final = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARS_MAX},
    "description": "The same key with the same request gets the same answer, and nothing is done twice.",
}


def storable(text: str) -> str:
    """The text, if a database takes it. Raises ValueError."""
    text.encode()  # raises for half a character
    if "\x00" in text:
        raise ValueError("a text may hold every character but NUL")
    return text


Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500), AfterValidator(storable)]
"""Why somebody does something, in their own words."""
