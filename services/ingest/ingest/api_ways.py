"""The HTTP surface of the other ways in: parts straight into storage by signed links, and import of an address."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.errors import error
from ingest.fetching import Fetching
from ingest.gate import Bringing
from ingest.options import Options
from ingest.sessions import PartLink, Sessions
from ingest.transfers import Transfer
from ingest.uploads import UploadAnswer
from runtime.http import Bounded, responses

SESSIONS: Final = "/v1/uploads/sessions"
router = APIRouter(route_class=Bounded)

_ASKING: Final = ("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID", "DATABASE_UNAVAILABLE", "STORAGE_UNAVAILABLE")
_WANTING: Final = ("PIPELINE_UNKNOWN", "STYLE_UNKNOWN", "UPLOAD_EMPTY", "UPLOAD_TOO_LARGE")
_LET_IN: Final = ("GRANT_SPENT", "RATE_LIMITED", "QUOTA_EXCEEDED", "PIPELINE_FULL")
_WHOLE: Final = ("MEDIA_TYPE_UNSUPPORTED", "UPLOAD_INFECTED", "SCANNER_UNAVAILABLE", "BROKER_UNAVAILABLE")
_FOUND: Final = ("NOT_FOUND", "UPLOAD_EXPIRED", "UPLOAD_LOCKED")


class Wanted(Options):
    """What is to be done with the file: the fields of `POST /v1/uploads`."""

    model_config = ConfigDict(extra="forbid")

    def fields(self) -> dict[str, Any]:
        """What was said of it, and no default."""
        return self.model_dump(mode="json", exclude_unset=True)


class NewSession(BaseModel):
    """A file that will come in parts; `size` in bytes."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"size": 24_000_000, "options": {"crop": "4:5"}}]}
    )

    size: int = Field(ge=0, lt=2**62)
    options: Wanted = Wanted()


class NewImport(BaseModel):
    """An address that leads to a file on the public internet."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"url": "https://example.com/photo.jpg", "options": {"crop": "4:5"}}]},
    )

    url: str = Field(max_length=2048)
    options: Wanted = Wanted()


class WantedPart(BaseModel):
    """A part to be put, and its hash in hex if it is known: then the store takes no other bytes."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1, le=10_000)
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None


class WantedParts(BaseModel):
    """Which links are wanted."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"parts": [{"number": 2, "sha256": "9f86d081" * 8}]}]}
    )

    parts: Annotated[list[WantedPart], Field(min_length=1, max_length=1000)]


class PartView(BaseModel):
    """A part of `size` bytes. Of one that is not `stored`: PUT it to `url` with exactly these `headers`."""

    number: int
    size: int
    stored: bool
    url: str | None = None
    headers: dict[str, str] | None = None


class SessionView(BaseModel):
    """A file that comes in parts, each of `part_bytes` but the last. Once `complete` it has an upload and a job."""

    id: UUID
    state: Literal["open", "complete"]
    size: int
    part_bytes: int
    expires_at: datetime
    upload_id: UUID | None
    job_id: UUID | None
    parts: list[PartView]


@router.post(SESSIONS, status_code=201, responses=responses(*_ASKING, *_LET_IN, *_WANTING))
async def begin(request: Request, response: Response, who: Bringing, body: NewSession) -> SessionView:
    """Begin a file whose parts go straight into storage; the answer holds a signed link for each."""
    use: Sessions = request.app.state.sessions
    made = await use.begin(who, body.size, body.options.fields())
    response.headers["Location"] = f"{SESSIONS}/{made.id}"
    return await _view(use, made)


@router.get(SESSIONS + "/{session_id}", responses=responses(*_ASKING, *_FOUND))
async def show(request: Request, who: Bringing, session_id: UUID) -> SessionView:
    """Which parts are stored; of the others fresh links."""
    use: Sessions = request.app.state.sessions
    return await _view(use, await use.find(who, session_id))


@router.post(SESSIONS + "/{session_id}/parts", responses=responses(*_ASKING, *_FOUND))
async def sign(request: Request, who: Bringing, session_id: UUID, body: WantedParts) -> list[PartView]:
    """Fresh links for these parts, whose checksums are signed where they are given."""
    use: Sessions = request.app.state.sessions
    found = await use.find(who, session_id)
    return [_part(await use.link(found, part.number, part.sha256)) for part in body.parts]


@router.post(
    SESSIONS + "/{session_id}/complete",
    status_code=202,
    responses=responses(*_ASKING, *_FOUND, *_WHOLE, "UPLOAD_INCOMPLETE"),
)
async def complete(request: Request, response: Response, who: Bringing, session_id: UUID) -> SessionView:
    """All parts are put: read them, and start the job."""
    use: Sessions = request.app.state.sessions
    done = await use.complete(await use.find(who, session_id))
    if done.job_id:
        response.headers["Location"] = f"/v1/jobs/{done.job_id}"
    return await _view(use, done)


@router.delete(
    SESSIONS + "/{session_id}",
    status_code=204,
    response_class=Response,
    responses=responses(*_ASKING, "NOT_FOUND", "UPLOAD_LOCKED", "STATE_CONFLICT"),
)
async def end(request: Request, who: Bringing, session_id: UUID) -> Response:
    """Give the session up, with the parts that were put."""
    use: Sessions = request.app.state.sessions
    await use.end(who, session_id)
    return Response(status_code=204)


@router.post(
    "/v1/uploads/import",
    status_code=202,
    responses=responses(*_ASKING, *_LET_IN, *_WANTING, *_WHOLE, "ADDRESS_REFUSED", "SOURCE_UNAVAILABLE"),
)
async def import_(request: Request, response: Response, who: Bringing, body: NewImport) -> UploadAnswer:
    """Fetch a file from the public internet and start its job. The answer comes when the file is there."""
    use: Fetching = request.app.state.fetching
    if who.grant:
        raise error("FORBIDDEN", "An upload grant may not do that.")
    answer = await use.take(who, body.url, body.options.fields())
    response.headers["Location"] = f"/v1/jobs/{answer.job_id}"
    return answer


async def _view(use: Sessions, session: Transfer) -> SessionView:
    parts = await use.parts(session) if session.state == "open" else []
    return SessionView(
        id=session.id,
        state="open" if session.state == "open" else "complete",
        size=session.size,
        part_bytes=session.part_bytes or session.size,
        expires_at=session.expires_at,
        upload_id=session.upload_id,
        job_id=session.job_id,
        parts=[_part(part) for part in parts],
    )


def _part(link: PartLink) -> PartView:
    return PartView(**asdict(link))
