"""The HTTP surface of the orchestrator: what people do to jobs, batches and dead letters, and what they did."""

from __future__ import annotations

from fastapi import APIRouter

from orchestrator.api import audit, batches, dead_letters, erasures, internal, jobs, pipelines, upgrades

router = APIRouter()
for part in (pipelines, jobs, upgrades, batches, dead_letters, erasures, audit, internal):
    router.include_router(part.router)
for more in (erasures.holding, erasures.keeping):
    router.include_router(more)
