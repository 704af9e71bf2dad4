"""The HTTP surface of ingest: files in, and the styles that come of some of them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, JsonValue

from contracts.errors import SafelightError, error
from ingest import options
from ingest.acts import noted
from ingest.gate import Bringing, Uploader
from ingest.options import Form, Options
from ingest.store import Style
from ingest.styles import NAME, PARTS, Styles
from ingest.uploads import UploadAnswer, Uploads
from runtime.http import LINKED, Tenant, link_response, problem_response, responses

router = APIRouter()

_FIELDS: Final[dict[str, Any]] = Options.model_json_schema()["properties"]
_NAMED: Final = {"type": "string", "pattern": f"^{NAME}$", "description": "what the style is called"}


def _body(fields: dict[str, Any], *required: str) -> dict[str, Any]:
    """A multipart form as OpenAPI describes it."""
    schema = {
        "type": "object",
        "required": [*required, "file"],
        "additionalProperties": False,
        "properties": {**fields, "file": {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_STYLE_BODY: Final = _body({"name": _NAMED, "lane": _FIELDS["lane"]}, "name")
_CODES = (
    "UNAUTHENTICATED",
    "REQUEST_INVALID",
    "PIPELINE_UNKNOWN",
    "STYLE_UNKNOWN",
    "FORBIDDEN",
    "GRANT_SPENT",
    "RATE_LIMITED",
    "QUOTA_EXCEEDED",
    "PIPELINE_FULL",
    "UPLOAD_EMPTY",
    "IDEMPOTENCY_KEY_REUSED",
    "UPLOAD_TOO_LARGE",
    "UPLOAD_INCOMPLETE",
    "MEDIA_TYPE_UNSUPPORTED",
    "BROKER_UNAVAILABLE",
    "STORAGE_UNAVAILABLE",
    "DATABASE_UNAVAILABLE",
)


IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


@router.post(
    "/v1/uploads",
    status_code=202,
    response_model=UploadAnswer,
    openapi_extra=_body(_FIELDS),
    responses=responses(*_CODES),
)
async def upload(
    request: Request, response: Response, who: Bringing, idempotency_key: IdempotencyKey = None
) -> UploadAnswer | JSONResponse:
    """Take one file in and start its job. The file is streamed; options are form fields beside it.

    The same `Idempotency-Key` with the same file and options gets the same answer and starts no second job.
    """
    return await _taken(request, response, who, idempotency_key, options.ANY)


@router.post(
    "/v1/styles",
    status_code=202,
    response_model=UploadAnswer,
    openapi_extra=_STYLE_BODY,
    responses=responses(*_CODES),
)
async def train(
    request: Request, response: Response, tenant: Tenant, idempotency_key: IdempotencyKey = None
) -> UploadAnswer | JSONResponse:
    """Learn a style from pairs: a ZIP with the folders `before/` and `after/`, the same names in both.

    It is a job of the pipeline `style-training`; when it has succeeded, the style has a new version.
    """
    return await _taken(request, response, Uploader(tenant), idempotency_key, options.TRAINING)


@router.post(
    "/v1/styles/import",
    status_code=202,
    response_model=UploadAnswer,
    openapi_extra=_STYLE_BODY,
    responses=responses(*_CODES),
)
async def import_(
    request: Request, response: Response, tenant: Tenant, idempotency_key: IdempotencyKey = None
) -> UploadAnswer | JSONResponse:
    """Make a style of a look from another tool: a 3D LUT as a `.cube`.

    It is a job of the pipeline `style-import`; when it has succeeded, the style has a new version.
    """
    return await _taken(request, response, Uploader(tenant), idempotency_key, options.IMPORT)


async def _taken(
    request: Request, response: Response, who: Uploader, idempotency_key: str | None, form: Form
) -> UploadAnswer | JSONResponse:
    use: Uploads = request.app.state.uploads
    declared = request.headers.get("content-length", "")
    try:
        length = int(declared) if declared.isdecimal() else None
        response.headers.update(await use.admit(who, length, idempotency_key=idempotency_key))
    except SafelightError as refused:
        # Otherwise the server would read the whole body for nothing before it takes the next request.
        return problem_response(refused, headers={"Connection": "close"})
    answer = await use.take(who, idempotency_key, request.headers.get("content-type", ""), request.stream(), form)
    if answer.job_id:
        response.headers["Location"] = f"/v1/jobs/{answer.job_id}"
    return answer


# -- styles ----------------------------------------------------------------------------------

Reference = Annotated[str, Path(pattern=rf"^{NAME}(@[1-9][0-9]{{0,8}})?$", description="`name` or `name@version`")]
_EXAMPLE: Final[dict[str, Any]] = {
    "name": "wedding",
    "version": 3,
    "kind": "learnt",
    "facts": {"pairs_used": 20, "psnr": 41.9, "psnr_identity": 23.6, "de2000_mean": 0.8},
    "engine": "pairs-lut@1",
    "degraded": True,
    "job_id": "7b1c7c1e-6a0e-4f0e-9a43-0d5f0f1f6f7a",
    "created_at": "2026-01-02T03:04:05Z",
    "parts": {
        "cube": {
            "url": "/v1/styles/wedding@3/cube",
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "size": 970_813,
            "media_type": "application/x-cube-lut",
        }
    },
}


class PartView(BaseModel):
    """A file of a style. `url` leads to a signed link; `size` is in bytes."""

    url: str
    sha256: str
    size: int
    media_type: str


class StyleView(BaseModel):
    """One version of a style. `facts` are what its job measured; `parts` are its files, `cube` always."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: str
    version: int
    kind: Literal["learnt", "imported", "built-in"]
    facts: dict[str, JsonValue]
    engine: str | None
    degraded: bool
    job_id: UUID | None
    created_at: datetime
    parts: dict[str, PartView]


class StylePage(BaseModel):
    """The newest version of each style, by name. `next_cursor` asks for the page after this one; null on the last."""

    items: list[StyleView]
    next_cursor: str | None


class StyleVersions(BaseModel):
    """A style, newest version first."""

    name: str
    versions: list[StyleView]


@router.get("/v1/styles", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID", "STORAGE_UNAVAILABLE"))
async def list_styles(
    request: Request,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str, Query(pattern=rf"^({NAME})?$")] = "",
) -> StylePage:
    """The styles that a photo may name: the tenant's own, and the built-in ones of other names."""
    styles: Styles = request.app.state.styles
    found = await styles.newest(tenant, limit + 1, cursor)
    more = found[limit - 1].name if len(found) > limit else None
    return StylePage(items=[_view(style) for style in found[:limit]], next_cursor=more)


@router.get("/v1/styles/{reference}", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND"))
async def show_style(request: Request, tenant: Tenant, reference: Reference) -> StyleVersions:
    """The versions of a style with what was measured of them; of `name@version` that one."""
    found = await _versions(request, tenant, reference)
    return StyleVersions(name=found[0].name, versions=[_view(style) for style in found])


@router.get(
    "/v1/styles/{reference}/{part}",
    status_code=307,
    response_class=RedirectResponse,
    response_model=None,
    responses={
        **LINKED,
        **responses("UNAUTHENTICATED", "FORBIDDEN", "NOT_FOUND", "REQUEST_INVALID"),
        **responses("STORAGE_UNAVAILABLE", "KEY_DESTROYED"),
    },
)
async def read_part(
    request: Request,
    tenant: Tenant,
    reference: Reference,
    part: Literal["style", "cube", "preview", "report"],
    redirect: bool = True,
) -> Response:
    """A redirect to a signed link: `cube` for other tools, `preview`, `report`, `style` is all that was learnt.

    Of a style that was learnt from sealed pairs it is no redirect but the content itself.
    """
    state: Any = request.app.state
    style = (await _versions(request, tenant, reference))[0]
    if part not in style.objects:
        raise error("NOT_FOUND")
    named = f'inline; filename="{PARTS[part].replace("style", f"{style.name}-{style.version}")}"'
    stored, lives = style.objects[part], timedelta(seconds=state.link_s)
    async with state.outbox.transaction() as (_, told):  # before anybody has it
        told.append(noted(f"tenant:{tenant}", "style.read", style.reference, style.tenant or None, {"part": part}))
    if stored.sealed and redirect:
        content = await state.objects.get_checked(stored.key, stored.sha256)  # some MB at most
        headers = {"Content-Disposition": named, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return Response(content, 200, headers, stored.media_type)
    if stored.sealed:
        return link_response(request.url.path, redirect=False)
    link = await state.objects.read_url(stored.key, lives, public=True, headers={"response-content-disposition": named})
    return link_response(link, redirect=redirect)


async def _versions(request: Request, tenant: str, reference: str) -> list[Style]:
    styles: Styles = request.app.state.styles
    try:
        return await styles.versions(tenant, reference)
    except SafelightError as problem:
        raise error("NOT_FOUND") if problem.code == "STYLE_UNKNOWN" else problem from problem


def _view(style: Style) -> StyleView:
    known = {name: getattr(style, name) for name in StyleView.model_fields if name != "parts"}
    parts = {
        part: PartView(url=f"/v1/styles/{style.reference}/{part}", **ref.model_dump(exclude={"key"}))
        for part, ref in style.objects.items()
    }
    return StyleView(**known, parts=parts)
