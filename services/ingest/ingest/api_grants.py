"""The HTTP surface of upload grants: a tenant's server makes one, its page in the browser uploads with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ingest.gate import Gate, Uploader
from ingest.grants import Grant, Grants
from ingest.limits import Limits
from ingest.options import Options
from ingest.uploads import Uploads
from runtime import clock
from runtime.http import Bounded, Caller, Tenant, responses, storable

router = APIRouter(prefix="/v1/grants", tags=["grants"], route_class=Bounded)
usage = APIRouter(tags=["tenants"])

DAY_S: Final = 24 * 3600
FILES_MAX: Final = 10_000
_CODES: Final = ("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID", "DATABASE_UNAVAILABLE")
_OPTIONS: Final = ("PIPELINE_UNKNOWN", "STYLE_UNKNOWN", "BATCH_UNKNOWN", "BATCH_CLOSED", "SERVICE_UNAVAILABLE")


def _option(name: str) -> str:
    if name not in Options.model_fields:
        raise ValueError("it is no option of an upload")
    return name


Name = Annotated[str, AfterValidator(_option)]
Value = Annotated[str, Field(max_length=4096), AfterValidator(storable)]
MediaType = Annotated[str, Field(pattern=r"^[a-z]+/[a-z0-9.+-]{1,60}$")]


def _grants(request: Request) -> Grants:
    found: Grants = request.app.state.gate.grants
    return found


Hands = Annotated[Grants, Depends(_grants)]
_EXAMPLE: Final[dict[str, Any]] = {
    "files": 20,
    "bytes_max": 50_000_000,
    "media_types": ["image/jpeg"],
    "fields": {"style": "wedding", "batch": "7b1c7c1e-6a0e-4f0e-9a43-0d5f0f1f6f7a"},
    "lives_s": 900,
}


class NewGrant(BaseModel):
    """What a browser may do with it: how many files, how large each, of which types, with which options.

    `fields` are the options as they are for each of its uploads; those in `open_fields` the browser may choose.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    files: int = Field(default=1, ge=1, le=FILES_MAX)
    bytes_max: int | None = Field(default=None, ge=1, lt=2**63, description="of each file; default: as for all")
    media_types: list[MediaType] | None = Field(default=None, min_length=1, max_length=20)
    fields: dict[Name, Value] = Field(default_factory=dict)
    open_fields: list[Name] = Field(default_factory=list, max_length=20)
    lives_s: int = Field(default=900, ge=10, le=DAY_S)


class GrantView(BaseModel):
    """A grant, and how many of its `files` have been `used`."""

    id: UUID
    files: int
    used: int
    bytes_max: int
    media_types: list[str] | None
    fields: dict[str, str]
    open_fields: list[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class GrantMade(GrantView):
    """A new grant. `token` is what the browser sends as `Authorization: Bearer TOKEN`."""

    token: str


@router.post("", status_code=201, responses=responses(*_CODES, *_OPTIONS))
async def make(request: Request, hands: Hands, asker: Caller, tenant: Tenant, body: NewGrant) -> GrantMade:
    """A new grant: give its token to the page that uploads."""
    uploads: Uploads = request.app.state.uploads
    await uploads.options(Uploader(tenant), body.fields)
    lives = timedelta(seconds=body.lives_s)
    made = await hands.make(
        asker,
        files=body.files,
        bytes_max=min(body.bytes_max or uploads.bytes_max, uploads.bytes_max),
        media_types=body.media_types,
        fields=body.fields,
        open_fields=body.open_fields,
        expires_at=(clock.now() + lives).replace(microsecond=0),
    )
    return GrantMade(**_view(made).model_dump(), token=hands.signer.sign(made.claims))


@router.get("/{grant_id}", responses=responses(*_CODES, "NOT_FOUND"))
async def show(hands: Hands, tenant: Tenant, grant_id: UUID) -> GrantView:
    """A grant, and how much of it is used."""
    return _view(await hands.one(tenant, grant_id))


@router.post("/{grant_id}/revoke", responses=responses(*_CODES, "NOT_FOUND"))
async def revoke(hands: Hands, tenant: Tenant, grant_id: UUID) -> GrantView:
    """Take a grant back; what came with it stays."""
    return _view(await hands.revoke(tenant, grant_id))


class Brought(BaseModel):
    """Files and bytes."""

    files: int
    bytes: int


class UsageView(BaseModel):
    """What the tenant has brought today and this month (UTC), what is stored of it, and what it may bring."""

    day: Brought
    month: Brought
    stored: Brought
    limits: Limits


@usage.get("/v1/usage", responses=responses(*_CODES))
async def show_usage(request: Request, tenant: Tenant) -> UsageView:
    """How much of the tenant's quotas is used."""
    gate: Gate = request.app.state.gate
    limits, _ = await gate.settings(tenant)
    sums = {period: Brought(files=files, bytes=size) for period, (files, size) in (await gate.usage(tenant)).items()}
    return UsageView(**sums, limits=limits)


def _view(grant: Grant) -> GrantView:
    return GrantView.model_validate({name: getattr(grant, name) for name in GrantView.model_fields})
