"""The HTTP surface of links and archives: artifacts without a key, and a ZIP of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy import Row

from contracts.errors import error
from output import links, store
from output.accesses import note
from output.archive import Archive, members
from output.opened import opened
from runtime import clock
from runtime.http import Bounded, Tenant, responses

router = APIRouter(tags=["downloads"], route_class=Bounded)

ArtifactName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,199}$", examples=["variants.web.jpg"])]
RangeHeader = Annotated[str | None, Header(alias="Range", max_length=100)]
_ASKED: Final = ("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID", "NOT_FOUND")
_ENDED: Final = ("LINK_EXPIRED", "LINK_USED", "LINK_REVOKED")
_STORED: Final = ("STORAGE_UNAVAILABLE", "OBJECT_MISSING", "KEY_DESTROYED", "BROKER_UNAVAILABLE")
_ZIP: Final[dict[int | str, dict[str, Any]]] = {200: {"description": "The archive", "content": {"application/zip": {}}}}
_BYTES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The content", "content": {"application/octet-stream": {}}},
    206: {"description": "The range of it that was asked for"},
}


class _LinkTerms(BaseModel):
    ttl_s: int = Field(default=3600, ge=1, le=links.TTL_S_MOST, description="for how many seconds it works")
    single_use: bool = Field(default=False, description="it works for one request, ranges among them")


class NewLinks(_LinkTerms):
    """Links to artifacts of a job, each by its name, or `original`."""

    artifacts: list[ArtifactName] = Field(min_length=1, max_length=100)


class NewArchiveLink(_LinkTerms):
    """A link to a ZIP of a batch. `artifacts` say which of each job; none: what its last phase made."""

    artifacts: list[ArtifactName] = Field(default_factory=list, max_length=20)


class LinkView(BaseModel):
    """A link, as its tenant may know it later: without its address."""

    id: UUID
    artifacts: list[str]
    state: Literal["working", "used", "revoked", "expired"]
    single_use: bool
    created_at: datetime
    expires_at: datetime


class MadeLink(LinkView):
    """A new link. Whoever has `url` needs no key: it leads to the content itself."""

    url: str


class MadeLinks(BaseModel):
    """New links, in the order of the artifacts."""

    items: list[MadeLink]


class Links(BaseModel):
    """Links, newest first, 500 at most."""

    items: list[LinkView]


@router.post("/v1/jobs/{job_id}/links", status_code=201, responses=responses(*_ASKED))
async def make_links(request: Request, tenant: Tenant, job_id: UUID, given: NewLinks) -> MadeLinks:
    """Links to artifacts of a job that work without a key, for a while or for one request."""
    state: Any = request.app.state
    names = list(dict.fromkeys(given.artifacts))
    async with state.engine.begin() as conn:
        for name in names:
            if await store.artifact(conn, tenant, job_id, name) is None:
                raise error("NOT_FOUND", "The job is not yours, or has no artifact of one of these names.")
        leads_to = [{"job_id": job_id, "artifacts": [name]} for name in names]
        rows = await links.make(conn, tenant, state.signing.current, given.ttl_s, given.single_use, leads_to)
        await note(request, tenant, "artifact.linked", job_id, artifacts=", ".join(names), single_use=given.single_use)
    by_name = {row.artifacts[0]: row for row in rows}
    return MadeLinks(items=[_made(request, by_name[name]) for name in names])


@router.get("/v1/jobs/{job_id}/links", responses=responses(*_ASKED))
async def list_links(request: Request, tenant: Tenant, job_id: UUID) -> Links:
    """The links to a job that were made, and whether they work."""
    async with request.app.state.engine.connect() as conn:
        return Links(items=[_view(row) for row in await links.of(conn, tenant, job_id=job_id)])


@router.post("/v1/batches/{batch_id}/links", status_code=201, responses=responses(*_ASKED))
async def make_archive_link(request: Request, tenant: Tenant, batch_id: UUID, given: NewArchiveLink) -> MadeLink:
    """A link to a ZIP of a batch that works without a key. What is in it is decided when it is used."""
    state: Any = request.app.state
    async with state.engine.begin() as conn:
        if not await store.has_jobs(conn, tenant, batch_id):
            raise error("NOT_FOUND", "The batch is not yours, or has no jobs.")
        leads_to = [{"batch_id": batch_id, "artifacts": list(dict.fromkeys(given.artifacts))}]
        [row] = await links.make(conn, tenant, state.signing.current, given.ttl_s, given.single_use, leads_to)
        await note(request, tenant, "artifact.linked", batch_id, single_use=given.single_use)
    return _made(request, row)


@router.get("/v1/batches/{batch_id}/links", responses=responses(*_ASKED))
async def list_archive_links(request: Request, tenant: Tenant, batch_id: UUID) -> Links:
    """The links to a ZIP of a batch that were made, and whether they work."""
    async with request.app.state.engine.connect() as conn:
        return Links(items=[_view(row) for row in await links.of(conn, tenant, batch_id=batch_id)])


@router.delete("/v1/links/{link_id}", status_code=204, responses=responses(*_ASKED, "BROKER_UNAVAILABLE"))
async def revoke_link(request: Request, tenant: Tenant, link_id: UUID) -> Response:
    """Let a link not work any more; a download that runs goes on."""
    async with request.app.state.engine.begin() as conn:
        if await links.revoke(conn, tenant, link_id):
            await note(request, tenant, "link.revoked", link_id)
    return Response(status_code=204)


@router.get(
    "/v1/downloads/{token}",
    response_class=StreamingResponse,
    responses={**_BYTES, **responses("NOT_FOUND", "REQUEST_INVALID", *_ENDED, *_STORED)},
)
async def download(
    request: Request, token: Annotated[str, Path(max_length=200)], range_: RangeHeader = None
) -> StreamingResponse:
    """What a link leads to; no key is asked for. An artifact can be read in ranges, an archive cannot."""
    state: Any = request.app.state
    link_id = links.read_token(state.signing, token)
    async with state.engine.connect() as conn:
        link = await links.working(conn, link_id)
        found = await store.artifact(conn, link.tenant, link.job_id, link.artifacts[0]) if link.job_id else None
    if link.batch_id:
        answer = await _archive(request, link.tenant, link.batch_id, link.artifacts)
    elif found:
        answer = await opened(state.objects, found, range_, disposition="attachment")
    else:
        raise error("NOT_FOUND")  # what it led to was deleted, or made anew under another name
    if link.single_use:
        async with state.engine.begin() as conn:
            await links.use(conn, link_id)
    what = "artifact.read" if link.job_id else "batch.zipped"
    await state.accesses.note(f"link:{link_id}", link.tenant, what, str(link.job_id or link.batch_id))
    return answer


@router.get(
    "/v1/batches/{batch_id}/zip",
    response_class=StreamingResponse,
    responses={**_ZIP, **responses(*_ASKED, *_STORED)},
)
async def read_archive(
    request: Request,
    tenant: Tenant,
    batch_id: UUID,
    artifacts: Annotated[
        str, Query(max_length=2000, pattern=r"^[a-z0-9._,-]*$", description="which of each job: `web.jpg,thumb.jpg`")
    ] = "",
) -> StreamingResponse:
    """A ZIP of a batch's artifacts, written while it is read. Without `artifacts`, what each job's last phase made."""
    answer = await _archive(request, tenant, batch_id, [name for name in artifacts.split(",") if name])
    await note(request, tenant, "batch.zipped", batch_id)
    return answer


async def _archive(request: Request, tenant: str, batch_id: UUID, artifacts: list[str]) -> StreamingResponse:
    state: Any = request.app.state
    async with state.engine.connect() as conn:
        rows = await store.made_in_batch(conn, tenant, batch_id)
    contents = members(rows, artifacts)
    if not contents:
        raise error("NOT_FOUND", "The batch is not yours, or has none of these artifacts yet.")
    archive = Archive(contents)
    pieces = archive.pieces(state.objects.stream)
    begun = [await anext(pieces), await anext(pieces)]  # so that a first object that is away is told by the status

    async def content() -> AsyncIterator[bytes]:
        for piece in begun:
            yield piece
        async for piece in pieces:
            yield piece

    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": f'attachment; filename="batch-{batch_id}.zip"',
        "Content-Length": str(archive.size),
        "Content-Security-Policy": "sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(content(), headers=headers, media_type="application/zip")


def _view(row: Row[Any]) -> LinkView:
    known = {name: getattr(row, name) for name in LinkView.model_fields if name != "state"}
    return LinkView(**known, state=links.state(row, clock.now()))


def _made(request: Request, row: Row[Any]) -> MadeLink:
    state: Any = request.app.state
    url = f"{state.public_url}/v1/downloads/{links.token(state.signing, row.id, row.key_id)}"
    return MadeLink(**_view(row).model_dump(), url=url)
