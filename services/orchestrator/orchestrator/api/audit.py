"""What people did, for operators: who, when, what, why. Lines are never changed."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, JsonValue

from orchestrator.api.asked import Hands, Limit, Name
from runtime import postgres
from runtime.http import Bounded, Operator, responses

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=Bounded)


class AuditLine(BaseModel):
    """One act. `subject` is the id of what it was done to."""

    id: int
    at: datetime
    who: str
    action: str
    subject: str
    why: str
    details: dict[str, JsonValue]


class AuditPage(BaseModel):
    """Acts, newest first."""

    items: list[AuditLine]
    next_cursor: int | None


@router.get("", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def page(
    hands: Hands,
    _operator: Operator,
    subject: Name | None = None,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, lt=2**63, description="from `next_cursor` of the page before")] = None,
) -> AuditPage:
    """What was done, newest first."""
    async with postgres.transaction(hands.engine) as conn:
        rows = await conn.fetch(
            "SELECT id, at, who, action, subject, why, details::text FROM orchestrator.audit "
            "WHERE ($1::text IS NULL OR subject = $1) AND ($2::bigint IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
            subject,
            cursor,
            limit + 1,
        )
    shown = rows[:limit]
    items = [AuditLine(**{**dict(row), "details": json.loads(row["details"])}) for row in shown]
    return AuditPage(items=items, next_cursor=shown[-1]["id"] if len(rows) > limit else None)
