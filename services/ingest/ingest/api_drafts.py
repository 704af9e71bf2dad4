"""The HTTP surface of drafts: a style's photos, one by one, and the order to learn."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from contracts.uploads import Lane
from ingest.drafts import Draft, Drafts, Half
from ingest.pairing import Matching, Role, match
from ingest.styles import NAME
from ingest.training import Training
from ingest.uploads import UploadAnswer
from runtime.http import Bounded, responses
from runtime.keys import Tenant

router = APIRouter(prefix="/v1/styles/drafts", route_class=Bounded)
_EXAMPLE: Final[dict[str, Any]] = {"name": "wedding"}
_NOT_MINE: Final = responses("UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND", "REQUEST_INVALID")


class NewDraft(BaseModel):
    """What the style will be called. `lane` is that of its training."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    name: Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
    lane: Lane | None = None


class DraftPhoto(BaseModel):
    """A photo of a draft. `paired`: one on the other side belongs to it, as far as names and known times tell."""

    upload_id: UUID
    role: Role
    file_name: str
    size: int
    paired: bool


class DraftView(BaseModel):
    """A style that is to be learnt. Photos may come while it is `open`; once it is `trained` they are gone."""

    id: UUID
    name: str
    state: Literal["open", "packing", "trained"]
    expires_at: datetime
    job_id: UUID | None
    pairs: int
    photos: list[DraftPhoto]


class Unmatched(BaseModel):
    """Photos without a partner, by what they are called."""

    before: list[str]
    after: list[str]


class TrainAnswer(UploadAnswer):
    """The job that learns the style, from `pairs` pairs, of which `by_time` were matched by when they were taken."""

    pairs: int
    by_time: int
    unmatched: Unmatched


@router.post("", status_code=201, responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def make(request: Request, tenant: Tenant, body: NewDraft) -> DraftView:
    """A draft. Uploads come into it by any way, with the fields `draft`, `role` (before or after) and `file_name`."""
    drafts: Drafts = request.app.state.drafts
    return _view(await drafts.make(tenant, body.name, body.lane), [])


@router.get("/{draft_id:uuid}", responses=_NOT_MINE)
async def show(request: Request, tenant: Tenant, draft_id: UUID) -> DraftView:
    """A draft with its photos, and which of them have a partner."""
    drafts: Drafts = request.app.state.drafts
    return _view(*await drafts.find(tenant, draft_id))


@router.delete("/{draft_id:uuid}", status_code=204, responses=_NOT_MINE)
async def discard(request: Request, tenant: Tenant, draft_id: UUID) -> None:
    """Forget a draft, its photos and their names."""
    drafts: Drafts = request.app.state.drafts
    await drafts.discard(tenant, draft_id)


@router.post(
    "/{draft_id:uuid}/train",
    status_code=202,
    responses={
        **_NOT_MINE,
        **responses("STATE_CONFLICT", "TOO_FEW_PAIRS", "REQUEST_INVALID", "STORAGE_UNAVAILABLE", "BROKER_UNAVAILABLE"),
    },
)
async def train(request: Request, response: Response, tenant: Tenant, draft_id: UUID) -> TrainAnswer:
    """Learn the style from the draft's pairs: those of the same name, else of the same second (EXIF).

    It is a job of the pipeline `style-training`; when it has succeeded, the style has a new version. Photos without a
    partner are left out, and named in the answer.
    """
    training: Training = request.app.state.training
    answer, matching = await training.train(tenant, draft_id)
    response.headers["Location"] = f"/v1/jobs/{answer.job_id}"
    return TrainAnswer(
        **answer.model_dump(),
        pairs=len(matching.pairs),
        by_time=len(matching.by_time),
        unmatched=_unmatched(matching),
    )


def _unmatched(matching: Matching) -> Unmatched:
    named: dict[str, list[str]] = {"before": [], "after": []}
    for photo in matching.left:
        named[photo.role].append(photo.name)
    return Unmatched(**named)


def _view(draft: Draft, halves: list[Half]) -> DraftView:
    matching = match([half.photo for half in halves])
    left = {photo.id for photo in matching.left}
    photos = [
        DraftPhoto(
            upload_id=half.photo.id,
            role=half.photo.role,
            file_name=half.photo.name,
            size=half.size,
            paired=half.photo.id not in left,
        )
        for half in halves
    ]
    known = {name: getattr(draft, name) for name in ("id", "name", "state", "expires_at", "job_id")}
    return DraftView(**known, pairs=len(matching.pairs), photos=photos)
