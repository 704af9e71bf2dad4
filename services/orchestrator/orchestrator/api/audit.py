"""The audit, for operators: who did, saw or moved what, when and why. Lines are never changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, JsonValue

from contracts.audit import AuditLine
from orchestrator.api.asked import Hands, Limit, Moment, Name
from orchestrator.audit import Audit, Filter
from runtime.http import Bounded, Operator, responses

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=Bounded)
_CODES = responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID")


class AuditLineView(BaseModel):
    """One act. `subject` is the id of what it was done to, `tenant` whose that is, `room` which service told it.

    `hash` chains it to the line before.
    """

    id: int
    at: datetime
    room: str
    tenant: str | None
    who: str
    action: str
    subject: str
    why: str
    details: dict[str, JsonValue]
    hash: str


class AuditPage(BaseModel):
    """Acts, newest first."""

    items: list[AuditLineView]
    next_cursor: int | None


@router.get("", responses=_CODES)
async def page(
    hands: Hands,
    _operator: Operator,
    subject: Name | None = None,
    tenant: Name | None = None,
    who: Name | None = None,
    action: Name | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63, description="from `next_cursor` of the page before")] = None,
) -> AuditPage:
    """What was done, newest first."""
    wanted = Filter(subject, tenant, who, action, since, until)
    rows = await hands.audit.page(wanted, limit + 1, cursor)
    shown = rows[:limit]
    items = [AuditLineView(**{**dict(row), "details": json.loads(row["details"])}) for row in shown]
    return AuditPage(items=items, next_cursor=shown[-1]["id"] if len(rows) > limit else None)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={
        200: {"description": "Every line, oldest first, as JSON lines", "content": {"application/x-ndjson": {}}},
        **responses("UNAUTHENTICATED", "FORBIDDEN"),
    },
)
async def export(hands: Hands, _operator: Operator) -> StreamingResponse:
    """The whole audit, to be kept elsewhere and checked there: `safelight audit verify`."""
    return StreamingResponse(_lines(hands.audit), media_type="application/x-ndjson")


async def _lines(audit: Audit) -> AsyncIterator[str]:
    async for rows in audit.all():
        yield "".join(AuditLine.model_construct(**dict(row)).model_dump_json() + "\n" for row in rows)
