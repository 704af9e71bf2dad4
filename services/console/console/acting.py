"""What can be asked of a job: to stop, to stand still, to go on, to work again; and how it came to where it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from console.client import Client
from console.jobs import Read
from contracts.jobs import Status


class Act(StrEnum):
    """What the API does with a job when it is asked by this name."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"


class Acted(Read):
    """The job after it was asked. `revision` is of the decision that was made."""

    job_id: UUID
    status: Status
    revision: int


class Wait(Read):
    """One thing that a job waits for: who has it, and when it moves on at the latest. No phase: the whole job waits."""

    phase: str | None
    item: str | None = None
    owner: str
    until: datetime | None = None
    why: str


class Step(Read):
    """One decision about a job: what happened, and the ids of the messages that it caused."""

    revision: int
    at: datetime
    input: str
    effects: tuple[str, ...] = ()


class History(Read):
    """Every decision about a job, oldest first, and what it waits for now."""

    job_id: UUID
    pipeline: str
    pipeline_version: int
    status: Status
    revision: int
    waits: tuple[Wait, ...] = ()
    steps: tuple[Step, ...] = ()


async def act(api: Client, job_id: UUID, what: Act, reason: str) -> Acted:
    """Ask it of one job. Raises Refused (NOT_FOUND, STATE_CONFLICT), Unreachable."""
    return Acted.model_validate(await api.post(f"/v1/jobs/{job_id}/{what}", {"reason": reason}))


async def retry(api: Client, job_id: UUID, again: Mapping[str, Any]) -> Acted:
    """Let an ended job work again. `again` is what `again_from` makes. Raises Refused, Unreachable."""
    return Acted.model_validate(await api.post(f"/v1/jobs/{job_id}/retry", again))


def again_from(
    phase: str | None, parameters: Mapping[str, Any], newest: bool, reason: str, *, force: bool = False
) -> dict[str, Any]:
    """How to work again: from this phase or `start` on (None: from what went wrong), with other parameters.

    `force`: GPU work is bought again, though a result of the same work is there.
    """
    version = "newest" if newest else "pinned"
    wish = {"from": phase, "parameters": dict(parameters), "version": version, "reason": reason}
    return wish | ({"force": True} if force else {})


async def history(api: Client, job_id: UUID) -> History:
    """How the job came to where it is. Raises Refused (NOT_FOUND), Unreachable."""
    return History.model_validate(await api.get(f"/v1/jobs/{job_id}/history"))
