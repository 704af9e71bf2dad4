"""Batches: jobs that were submitted together, counted together, stopped and tried again together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from console.client import Client
from console.jobs import Read


class Act(StrEnum):
    """What the API does with the jobs of a batch when it is asked by this name."""

    CANCEL = "cancel"
    RETRY_FAILED = "retry-failed"


class Counts(Read):
    """How many jobs of a batch are in each status. `degraded` are among those that succeeded."""

    total: int = 0
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    dead: int = 0
    cancelled: int = 0
    degraded: int = 0


class Batch(Read):
    """A batch. `fraction` is how much of its work is over, 0..1; `eta_s` is how long the rest will take, in seconds."""

    id: UUID
    name: str | None = None
    tenant: str | None = None
    created_at: datetime
    state: str = "open"
    pipeline: str | None = None
    options: Mapping[str, Any] = {}
    webhook: str | None = None
    duplicates: str = "keep"
    jobs: Counts = Counts()
    fraction: float | None = None
    eta_s: float | None = None
    ended_at: datetime | None = None


class Acted(Read):
    """How many jobs of the batch something was done with."""

    id: UUID
    jobs: int


class GroupedPhoto(Read):
    """A photo by its job; `cull` is 0 to 100."""

    job_id: UUID
    captured_at: datetime | None = None
    cull: float = 0.0


class Group(Read):
    """Photos of one scene: a `burst` or `near-duplicate`s; `best` is the job of the best of them."""

    kind: str
    best: UUID
    photos: tuple[GroupedPhoto, ...] = ()


class Groups(Read):
    """The groups of a batch, of which `photos` photos have been analysed."""

    batch_id: UUID
    photos: int = 0
    groups: tuple[Group, ...] = ()


async def create(api: Client, name: str, settings: Mapping[str, Any] | None = None) -> Batch:
    """A new, empty batch, and what it sets for its uploads, which name it in their field `batch`."""
    return Batch.model_validate(await api.post("/v1/batches", {"name": name, **(settings or {})}))


async def close(api: Client, batch_id: UUID) -> Batch:
    """Take no more uploads into the batch. Raises Refused (NOT_FOUND), Unreachable."""
    return Batch.model_validate(await api.post(f"/v1/batches/{batch_id}/close", {}))


async def newest(api: Client, limit: int) -> list[Batch]:
    """The newest batches."""
    return [Batch.model_validate(row) for row in await api.listed("/v1/batches", {}, limit)]


async def show(api: Client, batch_id: UUID) -> Batch:
    """One batch as it stands. Raises Refused (NOT_FOUND), Unreachable."""
    return Batch.model_validate(await api.get(f"/v1/batches/{batch_id}"))


async def groups(api: Client, batch_id: UUID) -> Groups:
    """Which photos of the batch show the same scene. Raises Refused, Unreachable."""
    return Groups.model_validate(await api.get(f"/v1/batches/{batch_id}/groups"))


async def act(api: Client, batch_id: UUID, what: Act, reason: str) -> Acted:
    """Ask it of every job of the batch that it fits. Raises Refused (NOT_FOUND), Unreachable."""
    return Acted.model_validate(await api.post(f"/v1/batches/{batch_id}/{what}", {"reason": reason}))
