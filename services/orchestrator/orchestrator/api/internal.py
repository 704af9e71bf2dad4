"""What other rooms read, inside the deployment: behind no front door, and in no document."""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from nats.errors import Error as NatsError
from pydantic import BaseModel, JsonValue

from contracts.artifacts import ObjectRef
from contracts.batches import BatchSettings
from contracts.errors import error
from contracts.jobs import Status
from contracts.topology import COMMANDS
from orchestrator import batches
from orchestrator.api.asked import Hands
from runtime import postgres

router = APIRouter(prefix="/internal", include_in_schema=False)

PACE: Final = timedelta(minutes=5)  # what the pace is counted over


class AskedView(BaseModel):
    """What a job was asked for, and how it stands. Read by ingest, which makes another version of it."""

    status: Status
    upload_id: UUID
    pipeline: str
    original: ObjectRef
    attachments: dict[str, ObjectRef]
    options: dict[str, JsonValue]


class LoadView(BaseModel):
    """Jobs that are not over, in all and by tenant; how many succeeded lately, each second; how full the queue is.

    Read by ingest, which takes no more in when this is too much.
    """

    jobs: int
    tenants: dict[str, int]
    per_s: float
    queue: float


@router.get("/load")
async def load(hands: Hands) -> LoadView:
    """How much is at work now."""
    async with postgres.transaction(hands.engine) as conn:
        rows = await conn.fetch("SELECT tenant, count(*) FROM orchestrator.jobs WHERE wake_at IS NOT NULL GROUP BY 1")
        lately = await conn.fetchval(
            "SELECT count(*) FROM orchestrator.jobs WHERE status = 'succeeded' AND ended_at > now() - $1::interval",
            PACE,
        )
    try:
        info = await hands.replays.js.stream_info(COMMANDS.name)
    except (NatsError, TimeoutError) as problem:
        raise error("BROKER_UNAVAILABLE") from problem
    open_: dict[str, int] = {row["tenant"]: row["count"] for row in rows}
    return LoadView(
        jobs=sum(open_.values()),
        tenants=open_,
        per_s=lately / PACE.total_seconds(),
        queue=info.state.bytes / COMMANDS.max_bytes,
    )


@router.get("/tenants/{tenant}/batches/{batch_id}")
async def settings(hands: Hands, tenant: str, batch_id: UUID) -> BatchSettings:
    """What holds for the uploads of a tenant's batch. Read by ingest."""
    async with postgres.transaction(hands.engine) as conn:
        found = await batches.settings(conn, tenant, batch_id)
    if found is None:
        raise error("NOT_FOUND")
    return found


@router.get("/tenants/{tenant}/jobs/{job_id}")
async def asked(hands: Hands, tenant: str, job_id: UUID) -> AskedView:
    """A tenant's job."""
    found = await hands.shell.read(job_id)
    if found is None or found[0].job.tenant != tenant:
        raise error("NOT_FOUND")
    job = found[0].job
    return AskedView.model_validate({name: getattr(job, name) for name in AskedView.model_fields})
