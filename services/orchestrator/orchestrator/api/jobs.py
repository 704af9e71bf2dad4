"""What a tenant may do to its jobs, and an operator to any: cancel, pause, resume, retry; and a job's history."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from contracts.errors import error
from contracts.jobs import Status
from orchestrator.api.asked import Because, Hands, Name, Parameters, actor
from orchestrator.machine.waiting import waits
from orchestrator.operations import Again
from orchestrator.store import Stored
from runtime import postgres
from runtime.http import Bounded, Caller, responses

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Bounded)
_REFUSALS = responses("UNAUTHENTICATED", "NOT_FOUND", "STATE_CONFLICT", "REQUEST_INVALID")


class Done(BaseModel):
    """The job after what was asked for."""

    job_id: UUID
    status: Status
    revision: int


class RetryRequest(Because):
    """Where an ended job starts again.

    `from`: a phase, `start`, `degraded` for what a lesser engine did, or null for what went wrong;
    phases that are over and do not depend on it keep what they made. `parameters` replace those of that
    phase. `version`: the pinned definition, or the newest. `force`: work that is done again is bought
    again, though a result of the same work is there.
    """

    from_phase: Name | None = Field(default=None, alias="from")
    parameters: Parameters = Field(default_factory=dict)
    version: Literal["pinned", "newest"] = "pinned"
    force: bool = False

    def again(self) -> Again:
        """As the use cases take it."""
        return Again(self.from_phase, self.parameters, self.version, self.force)


class WaitView(BaseModel):
    """One reason why a job waits: whose turn it is, and when it moves on at the latest."""

    phase: str | None
    item: str | None
    owner: str
    until: datetime
    why: str


class StepView(BaseModel):
    """One decision: what came, and the ids of the messages that it caused."""

    revision: int
    at: datetime
    input: str
    effects: list[str]


class HistoryView(BaseModel):
    """Everything that was decided about a job, oldest first, and what it waits for now."""

    job_id: UUID
    pipeline: str
    pipeline_version: int
    status: Status
    revision: int
    deadline: datetime
    waits: list[WaitView]
    steps: list[StepView]


@router.post("/{job_id}/cancel", responses=_REFUSALS)
async def cancel(hands: Hands, asker: Caller, job_id: UUID, body: Because | None = None) -> Done:
    """End a job. What runs is asked to stop; what comes of it is ignored."""
    return _done(await hands.operations.cancel(actor(asker, _why(body)), job_id))


@router.post("/{job_id}/pause", responses=_REFUSALS)
async def pause(hands: Hands, asker: Caller, job_id: UUID, body: Because | None = None) -> Done:
    """Give no more commands for a job; what runs may end. Its clock stands still, for seven days at most."""
    return _done(await hands.operations.pause(actor(asker, _why(body)), job_id))


@router.post("/{job_id}/resume", responses=_REFUSALS)
async def resume(hands: Hands, asker: Caller, job_id: UUID, body: Because | None = None) -> Done:
    """Let a paused job go on."""
    return _done(await hands.operations.resume(actor(asker, _why(body)), job_id))


@router.post("/{job_id}/retry", responses=_REFUSALS)
async def retry(hands: Hands, asker: Caller, job_id: UUID, body: RetryRequest | None = None) -> Done:
    """Let an ended job work again."""
    wish = body or RetryRequest()
    return _done(await hands.operations.retry(actor(asker, wish.reason), job_id, wish.again()))


@router.get("/{job_id}/history", responses=responses("UNAUTHENTICATED", "NOT_FOUND"))
async def history(hands: Hands, asker: Caller, job_id: UUID) -> HistoryView:
    """What happened to a job, decision by decision, and why it waits."""
    found = await hands.shell.read(job_id)
    if found is None or asker.tenant not in (None, found[0].job.tenant):
        raise error("NOT_FOUND")
    stored, pipeline = found
    job = stored.job
    async with postgres.transaction(hands.engine) as conn:
        rows = await conn.fetch(
            "SELECT revision, at, input, ARRAY(SELECT json_array_elements_text(effects)) AS effects "
            "FROM orchestrator.history WHERE job_id = $1 ORDER BY revision",
            job_id,
        )
        ahead = await _ahead(conn, job_id)
    why: list[dict[str, Any]] = []
    for wait in waits(job, pipeline):
        told = {name: getattr(wait, name) for name in WaitView.model_fields}
        if n := ahead.get((wait.phase or "", wait.item or "")):
            named = f"{wait.phase} {wait.item}" if wait.item else wait.phase
            told["why"] = f"{named} is queued behind {n} jobs of tenant {job.tenant}"
        why.append(told)
    return HistoryView(
        job_id=job.id,
        pipeline=job.pipeline,
        pipeline_version=job.pipeline_version,
        status=job.status,
        revision=stored.revision,
        deadline=job.deadline,
        waits=[WaitView(**one) for one in why],
        steps=[StepView(**dict(row)) for row in rows],
    )


async def _ahead(conn: Any, job_id: UUID) -> dict[tuple[str, str], int]:
    """How many jobs of its tenant stand before it in each line, now."""
    rows = await conn.fetch(
        "SELECT w.phase, w.item, (SELECT count(DISTINCT o.job_id) FROM orchestrator.waiting o "
        "WHERE o.pipeline = w.pipeline AND o.phase = w.phase AND o.tenant = w.tenant AND o.job_id <> w.job_id "
        "AND (o.lane = 'interactive' AND w.lane = 'bulk' OR o.lane = w.lane AND o.ready_at < w.ready_at)) AS ahead "
        "FROM orchestrator.waiting w WHERE w.job_id = $1",
        job_id,
    )
    return {(row["phase"], row["item"]): row["ahead"] for row in rows}


def _why(body: Because | None) -> str:
    return body.reason if body else ""


def _done(stored: Stored) -> Done:
    return Done(job_id=stored.job.id, status=stored.job.status, revision=stored.revision)
