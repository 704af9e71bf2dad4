"""What other rooms read, inside the deployment: behind no front door, and in no document."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, JsonValue

from contracts.artifacts import ObjectRef
from contracts.errors import error
from contracts.jobs import Status
from orchestrator.api.asked import Hands

router = APIRouter(prefix="/internal", include_in_schema=False)


class AskedView(BaseModel):
    """What a job was asked for, and how it stands. Read by ingest, which makes another version of it."""

    status: Status
    upload_id: UUID
    pipeline: str
    original: ObjectRef
    attachments: dict[str, ObjectRef]
    options: dict[str, JsonValue]


@router.get("/tenants/{tenant}/jobs/{job_id}")
async def asked(hands: Hands, tenant: str, job_id: UUID) -> AskedView:
    """A tenant's job."""
    found = await hands.shell.read(job_id)
    if found is None or found[0].job.tenant != tenant:
        raise error("NOT_FOUND")
    job = found[0].job
    return AskedView.model_validate({name: getattr(job, name) for name in AskedView.model_fields})
