"""The HTTP surface of output: the status of jobs, their event streams, links to their artifacts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import error
from contracts.jobs import Status
from output import costs, groups, store
from output.accesses import note
from output.costs import BatchCostView
from output.listen import News
from output.opened import opened
from output.streams import Topic, follow
from output.views import GroupedPhotoView, GroupsView, GroupView, ItemPage, JobPage, JobView, Moment, VersionsView
from runtime.http import LINKED, Asker, Caller, Follower, Tenant, link_response, responses

router = APIRouter(prefix="/v1/jobs")
batches = APIRouter(prefix="/v1/batches")

SETTLE_S = 2.0  # a job's first event may be a moment behind the upload's answer: wait so long before saying 404
T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200)]
Whose = Annotated[str | None, Query(max_length=64, description="whose; operators have to say it")]
Cursor = Annotated[str | None, Query(max_length=256)]


def _wanted(
    status: Annotated[list[Status], Query(description="one or several")] = [],  # noqa: B006  # FastAPI copies it
    pipeline: Annotated[str | None, Query(pattern=r"^[a-z0-9-]{1,64}$")] = None,
    batch: UUID | None = None,
    upload: UUID | None = None,
    degraded: bool | None = None,
    code: Annotated[str | None, Query(pattern=r"^[A-Z_]{1,64}$", description="the error that it ended with")] = None,
    created_from: Moment | None = None,
    created_before: Moment | None = None,
) -> store.Wanted:
    return store.Wanted(status, pipeline, batch, upload, degraded, code, created_from, created_before)


@router.get("", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def list_jobs(
    request: Request,
    caller: Caller,
    wanted: Annotated[store.Wanted, Depends(_wanted)],
    tenant: Whose = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> JobPage:
    """A tenant's jobs, newest first."""
    whose = _whose(caller, tenant)
    engine: AsyncEngine = request.app.state.engine
    async with engine.connect() as conn:
        return await store.page(conn, whose, wanted=wanted, limit=limit, cursor=cursor)


@router.get("/{job_id}", responses=responses("UNAUTHENTICATED", "NOT_FOUND", "REQUEST_INVALID"))
async def show_job(request: Request, caller: Follower, job_id: UUID) -> JobView:
    """One job with its phases and artifacts. An operator may read any, an upload grant those that came with it."""
    return await _job(request, caller, job_id)


@router.get("/{job_id}/versions", responses=responses("UNAUTHENTICATED", "NOT_FOUND", "REQUEST_INVALID"))
async def list_versions(request: Request, caller: Caller, job_id: UUID) -> VersionsView:
    """Every version of the job's upload, this one among them: which job made it, and what that was asked for."""
    await _job(request, caller, job_id)
    engine: AsyncEngine = request.app.state.engine
    async with engine.connect() as conn:
        found = await store.versions(conn, caller.tenant, job_id)
    if found is None:
        raise error("NOT_FOUND")
    return found


@router.get("/{job_id}/phases/{phase}/items", responses=responses("UNAUTHENTICATED", "NOT_FOUND", "REQUEST_INVALID"))
async def list_items(
    request: Request,
    caller: Caller,
    job_id: UUID,
    phase: Annotated[str, Path(max_length=64)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> ItemPage:
    """The items of a phase that fans out, with their artifacts, in the order of their names."""
    engine: AsyncEngine = request.app.state.engine
    async with engine.connect() as conn:
        found = await store.items(conn, caller.tenant, job_id, phase, limit=limit, cursor=cursor)
    if found is None:
        raise error("NOT_FOUND")
    return found


LastEventId = Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")]
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Server-sent events until it has ended", "content": {"text/event-stream": {}}},
    **responses("UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND", "REQUEST_INVALID"),
}


@router.get("/{job_id}/events", response_class=StreamingResponse, responses=_STREAM)
async def stream_events(
    request: Request, caller: Follower, job_id: UUID, last_event_id: LastEventId = None
) -> Response:
    """Everything that happens to the job, as it happens; with `Last-Event-ID`, all that came after that one."""
    after = int(last_event_id or 0)
    found = await _settled(
        request, job_id, lambda conn: store.followed_job(conn, caller.tenant, job_id, after, caller.grant)
    )
    return _following(request, Topic(job_id), after, found)


@batches.get("/{batch_id}/events", response_class=StreamingResponse, responses=_STREAM)
async def stream_batch(
    request: Request, caller: Caller, batch_id: UUID, last_event_id: LastEventId = None, tenant: Whose = None
) -> Response:
    """Everything that happens to a batch and to its jobs, until the batch has ended; as the stream of one job."""
    whose, after = _whose(caller, tenant), int(last_event_id or 0)
    found = await _settled(request, batch_id, lambda conn: store.followed_batch(conn, whose, batch_id, after))
    return _following(request, Topic(batch_id, whose), after, found)


def _following(request: Request, topic: Topic, after: int, found: store.Followed) -> Response:
    if found.over and not found.lacks:
        return Response(status_code=204)  # tells a browser's EventSource to stop reconnecting
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = follow(request.app.state.streams, topic, after)
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


@router.get(
    "/{job_id}/artifacts/{name}",
    status_code=307,
    response_class=RedirectResponse,
    response_model=None,
    responses={
        **LINKED,
        **responses(
            "BROKER_UNAVAILABLE",
            "UNAUTHENTICATED",
            "FORBIDDEN",
            "NOT_FOUND",
            "REQUEST_INVALID",
            "STORAGE_UNAVAILABLE",
            "KEY_DESTROYED",
        ),
    },
)
async def read_artifact(
    request: Request,
    tenant: Tenant,
    job_id: UUID,
    name: str,
    redirect: bool = True,
    range_: Annotated[str | None, Header(alias="Range")] = None,
) -> Response:
    """A redirect to a signed link, for the tenant alone.

    `name` is `phase.artifact`, `phase.item.artifact`, `artifact` when only one phase has it, or `original`. A page
    that cannot follow a redirect with its key asks for `redirect=false` and gets the link. What is sealed is no
    redirect but the content itself, and its link is this address, which wants the key.
    """
    state: Any = request.app.state
    async with state.engine.connect() as conn:
        found = await store.artifact(conn, tenant, job_id, name)
    if found is None:
        raise error("NOT_FOUND")
    await note(request, tenant, "artifact.read", job_id, artifact=name)
    if found.sealed:
        if redirect:
            return await opened(state.objects, found, range_)
        return link_response(request.url.path, redirect=False)
    named = {"response-content-disposition": f'inline; filename="{found.name}"'}
    link = await state.objects.read_url(found.key, timedelta(seconds=state.link_s), public=True, headers=named)
    return link_response(link, redirect=redirect)


@batches.get("/{batch_id}/groups", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def list_groups(
    request: Request,
    caller: Caller,
    batch_id: UUID,
    tenant: Whose = None,
) -> GroupsView:
    """Bursts and near-duplicates among the photos of a batch, and the best of each."""
    engine: AsyncEngine = request.app.state.engine
    async with engine.connect() as conn:
        rows = await store.photos(conn, _whose(caller, tenant), batch_id)
    return await asyncio.to_thread(_groups, batch_id, rows)  # seconds of arithmetic, where there are many


@batches.get("/{batch_id}/cost", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def show_cost(request: Request, caller: Caller, batch_id: UUID, tenant: Whose = None) -> BatchCostView:
    """What the jobs of a batch have cost so far, all together."""
    engine: AsyncEngine = request.app.state.engine
    async with engine.connect() as conn:
        return await costs.of_batch(conn, _whose(caller, tenant), batch_id)


def _groups(batch_id: UUID, rows: Sequence[Any]) -> GroupsView:
    photos = [photo for row in rows if (photo := groups.photo_of(*row))]
    found = [
        GroupView(
            kind=group.kind,
            best=group.best.job_id,
            photos=[
                GroupedPhotoView(job_id=one.job_id, captured_at=one.captured_at, cull=one.cull) for one in group.photos
            ],
        )
        for group in groups.groups(photos)
    ]
    return GroupsView(batch_id=batch_id, photos=len(photos), groups=found)


def _whose(caller: Asker, tenant: str | None) -> str:
    """The tenant whose things are listed. Raises REQUEST_INVALID, FORBIDDEN."""
    if caller.tenant is None and tenant is None:
        raise error("REQUEST_INVALID", "An operator says whose jobs: tenant=NAME.")
    if tenant not in (None, caller.tenant) and caller.tenant is not None:
        raise error("FORBIDDEN", "A tenant's API key lists its own jobs only.")
    return caller.tenant or tenant or ""


async def _job(request: Request, caller: Asker, job_id: UUID) -> JobView:
    """The job; waits a moment for one that was accepted just now. Raises NOT_FOUND."""
    return await _settled(request, job_id, lambda conn: store.job(conn, caller.tenant, job_id, caller.grant))


async def _settled(request: Request, id_: UUID, read: Callable[[AsyncConnection], Awaitable[T | None]]) -> T:
    """What is read of a job or batch; one that was accepted just now is waited for a moment. Raises NOT_FOUND."""
    engine: AsyncEngine = request.app.state.engine
    news: News = request.app.state.news
    with news.of(id_) as event:
        for wait_s in (SETTLE_S, 0.0):
            event.clear()
            async with engine.connect() as conn:
                found = await read(conn)
            if found:
                return found
            try:
                await asyncio.wait_for(event.wait(), wait_s)
            except TimeoutError:
                continue
    raise error("NOT_FOUND")
