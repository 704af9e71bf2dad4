"""The HTTP surface of ingest: POST /v1/uploads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from contracts.errors import error
from ingest.intake import Refused, judge_length
from ingest.uploads import Options, UploadAnswer, Uploads
from runtime.http import Tenant, problem_response, responses

router = APIRouter()

_FORM: dict[str, Any] = Options.model_json_schema()
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {**_FORM["properties"], "file": {"type": "string", "format": "binary"}},
            }
        }
    },
}
_CODES = (
    "UNAUTHENTICATED",
    "REQUEST_INVALID",
    "PIPELINE_UNKNOWN",
    "STYLE_UNKNOWN",
    "UPLOAD_EMPTY",
    "IDEMPOTENCY_KEY_REUSED",
    "UPLOAD_TOO_LARGE",
    "UPLOAD_INCOMPLETE",
    "MEDIA_TYPE_UNSUPPORTED",
    "BROKER_UNAVAILABLE",
    "STORAGE_UNAVAILABLE",
    "DATABASE_UNAVAILABLE",
)


@router.post(
    "/v1/uploads",
    status_code=202,
    response_model=UploadAnswer,
    openapi_extra={"requestBody": _BODY},
    responses=responses(*_CODES),
)
async def upload(
    request: Request,
    response: Response,
    tenant: Tenant,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> UploadAnswer | JSONResponse:
    """Take one file in and start its job. The file is streamed; options are form fields beside it.

    The same `Idempotency-Key` with the same file and options gets the same answer and starts no second job.
    """
    uploads: Uploads = request.app.state.uploads
    declared = request.headers.get("content-length", "")
    refused = judge_length(int(declared) if declared.isdecimal() else None, uploads.bytes_max)
    if isinstance(refused, Refused):
        # Otherwise the server would read the whole body for nothing before it takes the next request.
        return problem_response(error(refused.code, refused.detail), headers={"Connection": "close"})
    answer = await uploads.take(tenant, idempotency_key, request.headers.get("content-type", ""), request.stream())
    response.headers["Location"] = f"/v1/jobs/{answer.job_id}"
    return answer
