"""The routes of tus 1.0 under /v1/uploads/tus.

Every answer says Tus-Resumable; every error is a problem document. Once the last byte is in, Safelight-Upload-Id and
Safelight-Job-Id name what became of it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from email.utils import format_datetime
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Header, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Message

from contracts.errors import SafelightError, error
from ingest.api import IdempotencyKey
from ingest.gate import Bringing, Uploader
from ingest.transfers import Transfer
from ingest.tus import headers
from ingest.tus.server import Tus
from runtime.http import problem_response, responses
from runtime.idempotency import Answers
from runtime.keys import asking

LINGER_S: Final = 2.0
ROOT: Final = "/v1/uploads/tus"
MORE: Final = "X-HTTP-Method-Override"  # for clients whose networks let no PATCH and no DELETE through


class _Body:
    """A request's body, known to be over or not."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._coming = _has_body(request)

    async def receive(self) -> Message:
        message = await self._receive()
        self._coming = message.get("more_body", False)
        return message

    async def refused(self, problem: SafelightError) -> Response:
        """The answer to a request whose body may still be coming.

        Who hangs up on a client that is sending may take its answer from it. So what comes is thrown away for a while.
        """
        more = {"Tus-Version": headers.VERSION} if problem.code == "TUS_VERSION_UNSUPPORTED" else {}
        try:
            async with asyncio.timeout(LINGER_S):
                while self._coming:
                    await self.receive()
        except TimeoutError:
            more["Connection"] = "close"
        return problem_response(problem, headers=more)


class TusRoute(APIRoute):
    """A route that speaks the protocol's version, in its errors too."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def speaking(request: Request) -> Response:
            body = _Body(request)
            try:
                if request.method != "OPTIONS" and request.headers.get("Tus-Resumable") != headers.VERSION:
                    raise error("TUS_VERSION_UNSUPPORTED")
                answer = await handle(Request(request.scope, body.receive))
            except SafelightError as problem:
                answer = await body.refused(problem)
            except RequestValidationError:  # nothing but the id in the path is held to a form by the framework
                answer = await body.refused(error("NOT_FOUND"))
            answer.headers["Tus-Resumable"] = headers.VERSION
            return answer

        return speaking


router = APIRouter(prefix=ROOT, route_class=TusRoute, tags=["tus"])
Text = Annotated[str | None, Header()]
Id = Annotated[UUID, Path(description="as Location says it")]
_ASKING: Final = ("UNAUTHENTICATED", "FORBIDDEN", "TUS_VERSION_UNSUPPORTED", "REQUEST_INVALID", "DATABASE_UNAVAILABLE")
_WHOLE: Final = ("PIPELINE_UNKNOWN", "STYLE_UNKNOWN", "MEDIA_TYPE_UNSUPPORTED", "BROKER_UNAVAILABLE")
_LET_IN: Final = ("GRANT_SPENT", "RATE_LIMITED", "QUOTA_EXCEEDED", "PIPELINE_FULL")
_WRITING: Final = ("UPLOAD_EMPTY", "UPLOAD_TOO_LARGE", "CHECKSUM_MISMATCH", "UPLOAD_INCOMPLETE", "STORAGE_UNAVAILABLE")
_ONCE: Final = ("IDEMPOTENCY_KEY_REUSED", "IDEMPOTENCY_KEY_IN_USE")
_FOUND: Final = ("NOT_FOUND", "UPLOAD_EXPIRED", "UPLOAD_LOCKED")


@router.options("", status_code=204, response_class=Response)
@router.options("/{transfer_id}", status_code=204, response_class=Response, include_in_schema=False)
async def discover(request: Request) -> Response:
    """What this server can do of the protocol."""
    use: Tus = request.app.state.tus
    known = {
        "Tus-Version": headers.VERSION,
        "Tus-Extension": headers.EXTENSIONS,
        "Tus-Max-Size": str(use.uploads.bytes_max),
        "Tus-Checksum-Algorithm": ",".join(headers.ALGORITHMS),
    }
    return Response(status_code=204, headers=known)


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses=responses(*_ASKING, *_LET_IN, *_WHOLE, *_WRITING, *_ONCE, "NOT_FOUND", "STATE_CONFLICT", "UPLOAD_LOCKED"),
)
async def create(
    request: Request,
    who: Bringing,
    upload_length: Text = None,
    upload_metadata: Text = None,
    upload_concat: Text = None,
    upload_checksum: Text = None,
    content_type: Text = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Begin an upload; its fields (`pipeline`, `style`, ...) come in Upload-Metadata, its first bytes may in the body.

    With `Upload-Concat: final;...` it is made of partial ones at once. The same `Idempotency-Key` with the same headers
    is told the same address; how far it is says HEAD.
    """

    async def act() -> Response:
        said = (upload_length, upload_metadata, upload_concat, upload_checksum, content_type)
        return await _created(request, who, *said)

    if idempotency_key is None:
        return await act()
    answers: Answers = request.app.state.answers
    said = json.dumps([upload_length, upload_metadata, upload_concat]).encode()
    return await answers.once(request, said, await asking(request), act)


async def _created(
    request: Request,
    who: Uploader,
    upload_length: str | None,
    upload_metadata: str | None,
    upload_concat: str | None,
    upload_checksum: str | None,
    content_type: str | None,
) -> Response:
    use: Tus = request.app.state.tus
    fields = headers.metadata(upload_metadata)
    kind, ids = headers.concat(upload_concat)
    if kind == "final":
        assert upload_concat is not None
        return _answer(await use.join(who, ids, fields, upload_metadata, upload_concat), 201)
    size = headers.number("Upload-Length", upload_length)
    begins = content_type == headers.BODY
    if _has_body(request) and not begins:
        raise error("MEDIA_TYPE_UNSUPPORTED", f"A body is {headers.BODY}.")
    checksum = headers.checksum(upload_checksum)
    made = await use.create(who, size, fields, upload_metadata, kind)
    if begins:
        made = await use.write(made, 0, _length(request), checksum, request.stream())
    return _answer(made, 201)


@router.head(
    "/{transfer_id}", status_code=200, response_class=Response, responses=responses(*_ASKING, *_FOUND, *_WHOLE)
)
async def look(request: Request, who: Bringing, transfer_id: Id) -> Response:
    """How many bytes are safe; of a complete upload, its job."""
    use: Tus = request.app.state.tus
    answer = _answer(await use.find(who, transfer_id), 200)
    del answer.headers["Location"]
    return answer


@router.patch(
    "/{transfer_id}",
    status_code=204,
    response_class=Response,
    responses=responses(*_ASKING, *_FOUND, *_WHOLE, *_WRITING, "OFFSET_CONFLICT"),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {headers.BODY: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def write(
    request: Request,
    who: Bringing,
    transfer_id: Id,
    upload_offset: Text = None,
    upload_checksum: Text = None,
    content_type: Text = None,
) -> Response:
    """Bytes at the offset that HEAD told. The last ones make an upload of them, and a job."""
    use: Tus = request.app.state.tus
    if content_type != headers.BODY:
        raise error("MEDIA_TYPE_UNSUPPORTED", f"The body is {headers.BODY}.")
    offset = headers.number("Upload-Offset", upload_offset)
    checksum = headers.checksum(upload_checksum)
    found = await use.find(who, transfer_id)
    after = await use.write(found, offset, _length(request), checksum, request.stream())
    return _answer(after, 204)


@router.delete("/{transfer_id}", status_code=204, response_class=Response, responses=responses(*_ASKING, *_FOUND))
async def end(request: Request, who: Bringing, transfer_id: Id) -> Response:
    """Give it up, with its bytes. An upload that it has become, and its job, stay."""
    use: Tus = request.app.state.tus
    await use.end(who, transfer_id)
    return Response(status_code=204)


@router.post("/{transfer_id}", status_code=204, response_class=Response, include_in_schema=False)
async def override(
    request: Request,
    who: Bringing,
    transfer_id: Id,
    upload_offset: Text = None,
    upload_checksum: Text = None,
    content_type: Text = None,
) -> Response:
    """PATCH or DELETE, where a network lets only POST through."""
    meant = request.headers.get(MORE)
    if meant == "PATCH":
        return await write(request, who, transfer_id, upload_offset, upload_checksum, content_type)
    if meant == "DELETE":
        return await end(request, who, transfer_id)
    raise error("REQUEST_INVALID", f"{MORE} must be PATCH or DELETE.")


def _answer(transfer: Transfer, status: int) -> Response:
    known = {
        "Cache-Control": "no-store",
        "Location": f"{ROOT}/{transfer.id}",
        "Upload-Offset": str(transfer.offset),
        "Upload-Length": str(transfer.size),
    }
    if transfer.state == "open":
        known["Upload-Expires"] = format_datetime(transfer.expires_at, usegmt=True)
    if transfer.metadata:
        known["Upload-Metadata"] = transfer.metadata
    if transfer.concat:
        known["Upload-Concat"] = transfer.concat
    if transfer.upload_id:
        known["Safelight-Upload-Id"] = str(transfer.upload_id)
    if transfer.job_id:  # a photo of a style's draft has none
        known["Safelight-Job-Id"] = str(transfer.job_id)
    return Response(status_code=status, headers=known)


def _length(request: Request) -> int | None:
    """How many bytes are announced. A chunked body announces none."""
    if "transfer-encoding" in request.headers:
        return None
    return headers.number("Content-Length", request.headers.get("content-length", "0"))


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
