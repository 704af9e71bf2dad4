"""Versions of an upload: another one is asked for, all of them are read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from console.client import Client
from console.jobs import Read
from contracts.jobs import Status


class Edited(Read):
    """The job that makes the new version."""

    job_id: UUID
    upload_id: UUID
    edit_of: UUID
    version: int
    status: Status


class Version(Read):
    """One version by its job, with what that was asked for."""

    job_id: UUID
    version: int
    edit_of: UUID | None = None
    status: Status
    degraded: bool = False
    options: Mapping[str, Any] = {}
    created_at: datetime


async def re_edit(api: Client, job_id: UUID, wanted: Mapping[str, Any]) -> Edited:
    """Start another version. Raises Refused (NOT_FOUND, STATE_CONFLICT, STYLE_UNKNOWN), Unreachable."""
    return Edited.model_validate(await api.post(f"/v1/jobs/{job_id}/re-edit", wanted))


async def versions(api: Client, job_id: UUID) -> list[Version]:
    """All versions of the job's upload, the first one first. Raises Refused (NOT_FOUND), Unreachable."""
    found = await api.get(f"/v1/jobs/{job_id}/versions")
    return [Version.model_validate(row) for row in found["versions"]]
