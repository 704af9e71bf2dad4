"""Dead letters, for operators: seen, understood, replayed, discarded."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field, JsonValue

from contracts.errors import error
from orchestrator import letters, replays
from orchestrator.api.asked import (
    Because,
    Cursor,
    Hands,
    Limit,
    Moment,
    Name,
    actor,
    cursor,
    place,
)
from orchestrator.api.jobs import RetryRequest
from orchestrator.letters import Filter
from runtime import postgres
from runtime.http import Asker, Bounded, Operator, Reason, responses

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"], route_class=Bounded)
_OPERATORS = ("UNAUTHENTICATED", "FORBIDDEN")
_REFUSALS = responses(*_OPERATORS, "NOT_FOUND", "STATE_CONFLICT", "REQUEST_INVALID")

State = Literal["open", "replayed", "discarded"]
Source = Literal["permanent", "exhausted", "unsettled", "undeliverable"]


class DeadLetter(BaseModel):
    """What could not be done. `subject` is where its command, or the message itself, was published."""

    id: UUID
    source: Source
    state: State
    job_id: UUID | None
    tenant: str | None
    pipeline: str | None
    pipeline_version: int | None
    phase: str | None
    item: str | None
    code: str
    detail: str
    trace_id: str | None
    created_at: datetime
    subject: str | None


class AttemptView(BaseModel):
    """An attempt that did not succeed."""

    phase: str
    item: str | None = None
    number: int
    started_at: datetime | None = None
    ended_at: datetime
    code: str
    detail: str
    engine: str | None = None


class Resolution(BaseModel):
    """How it was closed, and by whom."""

    action: State
    who: str
    at: datetime
    why: str


class WholeDeadLetter(DeadLetter):
    """A dead letter with all that is known: the last command, every attempt, the artifacts so far."""

    command: JsonValue
    attempts: list[AttemptView]
    artifacts: list[dict[str, JsonValue]]
    refusal: str | None
    resolution: Resolution | None


class DeadLetterPage(BaseModel):
    """Dead letters, newest first."""

    items: list[DeadLetter]
    next_cursor: str | None


class Resolved(BaseModel):
    """A dead letter that is closed now."""

    id: UUID
    state: State
    job_id: UUID | None


class Which(BaseModel):
    """Open dead letters that have all of this. One thing at least is asked: nobody replays everything by mistake."""

    code: Name | None = None
    phase: Name | None = None
    tenant: Name | None = None
    pipeline: Name | None = None
    since: Moment | None = None
    until: Moment | None = None

    def filter(self) -> Filter:
        """As the use cases take it. Raises REQUEST_INVALID when nothing is asked for."""
        if not self.model_dump(exclude_none=True):
            raise error("REQUEST_INVALID", "the filter is empty; since 1970-01-01T00:00:00Z finds everything")
        return Filter(**dict(self))


class ReplayRequest(RetryRequest):
    """Which dead letters to replay, and how. At most `rate_per_s` are replayed in a second."""

    filter: Which
    dry_run: bool = False
    rate_per_s: float = Field(default=10, ge=0.01, le=1000)


class Estimate(BaseModel):
    """By the medians of the newest jobs that succeeded. `usd` is null while no price of a GPU second is configured."""

    seconds: float
    gpu_seconds: float
    usd: float | None


class VersionDifference(BaseModel):
    """What the newest version of a pipeline does otherwise than the one that these jobs pin."""

    pipeline: str
    pinned: int
    newest: int
    count: int
    differences: list[str]


class PlanView(BaseModel):
    """What a replay would do. `phases` counts the jobs that would run each again."""

    count: int
    phases: dict[str, int]
    estimated: Estimate
    versions: list[VersionDifference]


class ReplayView(BaseModel):
    """A replay of many, and how far it is. `refused` are letters whose jobs' states did not allow it."""

    id: UUID
    state: Literal["running", "paused", "succeeded", "cancelled"]
    total: int
    replayed: int
    refused: int
    remaining: int
    rate_per_s: float
    by: str
    reason: str
    created_at: datetime
    ended_at: datetime | None


@router.get("", responses=responses(*_OPERATORS, "REQUEST_INVALID"))
async def page(
    hands: Hands,
    _operator: Operator,
    code: Name | None = None,
    phase: Name | None = None,
    tenant: Name | None = None,
    pipeline: Name | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    state: State | None = None,
    limit: Limit = 50,
    cursor_: Annotated[Cursor, Query(alias="cursor")] = None,
) -> DeadLetterPage:
    """Dead letters, newest first."""
    which = Filter(code, phase, tenant, pipeline, since, until, state)
    async with postgres.transaction(hands.engine) as conn:
        rows = await letters.page(conn, which, limit + 1, place(cursor_))
    more = cursor(rows[limit - 1]["created_at"], rows[limit - 1]["id"]) if len(rows) > limit else None
    return DeadLetterPage(items=[DeadLetter(**dict(row)) for row in rows[:limit]], next_cursor=more)


@router.post("/replay", responses={202: {"model": ReplayView}, **_REFUSALS})
async def replay_many(hands: Hands, operator: Operator, body: ReplayRequest, answer: Response) -> PlanView | ReplayView:
    """Replay all open dead letters that a filter finds; with `dry_run`, tell what that would do (200) instead."""
    which = body.filter.filter()
    if body.dry_run:
        plan = await hands.replays.plan(which, body.again())
        estimate = Estimate(seconds=plan.seconds, gpu_seconds=plan.gpu_seconds, usd=plan.usd)
        versions = [VersionDifference(**line) for line in plan.versions]
        return PlanView(count=plan.count, phases=dict(plan.phases), estimated=estimate, versions=versions)
    id_ = await hands.replays.start(actor(_asker(operator), body.reason), which, body.again(), body.rate_per_s)
    answer.status_code = 202
    return await _replay(hands, id_)


@router.get("/replays", responses=responses(*_OPERATORS))
async def list_replays(hands: Hands, _operator: Operator) -> list[ReplayView]:
    """The newest replays of many, a hundred at most."""
    async with postgres.transaction(hands.engine) as conn:
        return [ReplayView(**dict(row)) for row in await replays.progress(conn, None)]


@router.get("/replays/{replay_id}", responses=responses(*_OPERATORS, "NOT_FOUND"))
async def show_replay(hands: Hands, _operator: Operator, replay_id: UUID) -> ReplayView:
    """One replay of many."""
    return await _replay(hands, replay_id)


@router.post("/replays/{replay_id}/{action}", responses=_REFUSALS)
async def steer_replay(
    hands: Hands,
    operator: Operator,
    replay_id: UUID,
    action: Literal["pause", "resume", "cancel"],
    body: Because | None = None,
) -> ReplayView:
    """Pause, resume or cancel a replay of many. What it has replayed stays replayed."""
    await hands.replays.steer(actor(_asker(operator), body.reason if body else ""), replay_id, action)
    return await _replay(hands, replay_id)


@router.get("/{letter_id}", responses=responses(*_OPERATORS, "NOT_FOUND"))
async def show(hands: Hands, _operator: Operator, letter_id: UUID) -> WholeDeadLetter:
    """One dead letter with everything."""
    async with postgres.transaction(hands.engine) as conn:
        row = await letters.whole(conn, letter_id)
    if row is None:
        raise error("NOT_FOUND")
    return _whole(dict(row))


@router.post("/{letter_id}/replay", responses=_REFUSALS)
async def replay(hands: Hands, operator: Operator, letter_id: UUID, body: RetryRequest | None = None) -> Resolved:
    """Let its job work again, from the phase that failed unless another is named; send a message again as it came."""
    wish = body or RetryRequest()
    return Resolved(**await hands.replays.one(actor(_asker(operator), wish.reason), letter_id, wish.again()))


class Discard(BaseModel):
    """Why nothing will be done about it."""

    reason: Annotated[Reason, Field(min_length=1)]


@router.post("/{letter_id}/discard", responses=_REFUSALS)
async def discard(hands: Hands, operator: Operator, letter_id: UUID, body: Discard) -> Resolved:
    """Close a dead letter without doing anything about it."""
    return Resolved(**await hands.replays.discard(actor(_asker(operator), body.reason), letter_id))


async def _replay(hands: Hands, id_: UUID) -> ReplayView:
    async with postgres.transaction(hands.engine) as conn:
        rows = await replays.progress(conn, id_)
    if not rows:
        raise error("NOT_FOUND")
    return ReplayView(**dict(rows[0]))


def _whole(row: dict[str, Any]) -> WholeDeadLetter:
    resolution = None
    if row["resolved_at"]:
        resolution = Resolution(
            action=row["state"], who=row["resolved_by"], at=row["resolved_at"], why=row["resolved_why"] or ""
        )
    command = json.loads(row["command"]) if row["command"] else None
    if row["source"] == "undeliverable":
        command = _message(command)
    given = {name: row[name] for name in DeadLetter.model_fields}
    return WholeDeadLetter(
        **given,
        command=command,
        attempts=json.loads(row["attempts"]),
        artifacts=json.loads(row["artifacts"]),
        refusal=row["refusal"],
        resolution=resolution,
    )


def _message(kept: Any) -> JsonValue:
    """The body of an undeliverable message: as JSON where it is JSON, else only how long it is."""
    body = base64.b64decode(kept["base64"])
    try:
        found: JsonValue = json.loads(body)
    except ValueError:
        return {"bytes": len(body)}
    return found


def _asker(operator: str) -> Asker:
    return Asker(operator, None)
