"""The HTTP surface of versions: an upload that is there, with other options."""

from __future__ import annotations

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Body, Request, Response
from pydantic import JsonValue

from ingest.api import IdempotencyKey
from ingest.edits import EditAnswer, Edits
from ingest.options import CHANGEABLE, Options
from runtime.http import Bounded, Tenant, responses

router = APIRouter(route_class=Bounded)


def _nullable(field: dict[str, Any]) -> dict[str, Any]:
    """An option as an edit takes it: null is its default."""
    alike = {key: value for key, value in field.items() if key not in ("default", "description")}
    return {"anyOf": [alike, {"type": "null"}], "description": field.get("description", "")}


_FIELDS: Final = Options.model_json_schema()["properties"]
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {name: _nullable(_FIELDS[name]) for name in CHANGEABLE},
}
_EXAMPLE: Final = {"style": "mono", "crop": "4:5"}


@router.post(
    "/v1/jobs/{job_id}/re-edit",
    status_code=202,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA, "example": _EXAMPLE}}}
    },
    responses=responses(
        "UNAUTHENTICATED",
        "FORBIDDEN",
        "NOT_FOUND",
        "STATE_CONFLICT",
        "REQUEST_INVALID",
        "STYLE_UNKNOWN",
        "IDEMPOTENCY_KEY_REUSED",
        "SERVICE_UNAVAILABLE",
    ),
)
async def edit(
    request: Request,
    response: Response,
    tenant: Tenant,
    job_id: UUID,
    wanted: Annotated[dict[str, JsonValue], Body()],
    idempotency_key: IdempotencyKey = None,
) -> EditAnswer:
    """Make another version of what a succeeded job made of its upload: with another style, crop or strength.

    It is a job of its own. Options that are not named stay as they were; phases that the others change nothing of
    keep what they made and are not done again. Every version stays readable: `GET /v1/jobs/{job_id}/versions`.
    """
    edits: Edits = request.app.state.edits
    answer = await edits.make(tenant, job_id, wanted, idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{answer.job_id}"
    return answer
