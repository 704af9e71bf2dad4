"""Degraded results made good, for operators."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from orchestrator.api.asked import Because, Hands, Moment, Name, actor, cursor, place
from orchestrator.upgrades import UPGRADED_MAX, Degraded
from runtime import clock
from runtime.http import Asker, Bounded, Operator, responses

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Bounded)


class UpgradeRequest(Because):
    """Which degraded jobs, and how many of them now. `until` and `cursor` of the page before go on with its walk."""

    tenant: Name | None = None
    batch: UUID | None = None
    pipeline: Name | None = None
    limit: Annotated[int, Field(ge=1, le=UPGRADED_MAX)] = 50
    dry_run: bool = False
    until: Moment | None = None
    cursor: Annotated[str | None, Field(max_length=200)] = None


class UpgradeView(BaseModel):
    """What this page did (a dry run: would do). `found` are left of the walk, with those of this page.

    `jobs` work again, the others are `passed_over`: a lesser engine made none of their results, or they
    moved meanwhile. `phases` counts of how many a lesser engine did each.
    """

    found: int
    jobs: int
    passed_over: int
    phases: dict[str, int]
    until: datetime
    next_cursor: str | None


@router.post("/upgrade", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def upgrade(hands: Hands, operator: Operator, body: UpgradeRequest | None = None) -> UpgradeView:
    """Let succeeded jobs do again what a lesser engine did, those that have waited longest first."""
    wish = body or UpgradeRequest()
    now = clock.now()
    walk = Degraded(min(wish.until or now, now), wish.tenant, wish.batch, wish.pipeline)
    after = place(wish.cursor)
    if wish.dry_run:
        page = await hands.upgrades.plan(walk, wish.limit, after)
    else:
        who = actor(Asker(operator, None), wish.reason)
        page = await hands.upgrades.work(who, walk, wish.limit, after)
    more = cursor(*page.next_place) if page.next_place else None
    return UpgradeView(
        found=page.found,
        jobs=page.jobs,
        passed_over=page.passed_over,
        phases=page.phases,
        until=walk.until,
        next_cursor=more,
    )
