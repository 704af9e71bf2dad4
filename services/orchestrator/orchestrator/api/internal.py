"""What other rooms read, inside the deployment: behind no front door, and in no document."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, JsonValue

from contracts.artifacts import ObjectRef
from contracts.batches import BatchSettings
from contracts.errors import error
from contracts.jobs import Status
from orchestrator import batches
from orchestrator.api.asked import Hands
from runtime import postgres

router = APIRouter(prefix="/internal", include_in_schema=False)


class AskedView(BaseModel):
    """What a job was asked for, and how it stands. Read by ingest, which makes another version of it."""

    status: Status
    upload_id: UUID
    pipeline: str
    original: ObjectRef
    attachments: dict[str, ObjectRef]
    options: dict[str, JsonValue]


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
