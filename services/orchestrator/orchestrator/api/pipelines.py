"""Which pipelines there are. Asked by ingest, inside the deployment."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from orchestrator.api.asked import Hands

router = APIRouter()


class PipelineView(BaseModel):
    """The newest version of a pipeline. `accepts` are media types. Of a `sealed` one all objects are sealed."""

    name: str
    version: int
    accepts: list[str]
    phases: list[str]
    sealed: bool


@router.get("/v1/pipelines", tags=["pipelines"])
async def pipelines(hands: Hands) -> list[PipelineView]:
    """Every pipeline that new jobs can use."""
    return [
        PipelineView(
            name=p.name,
            version=p.version,
            accepts=list(p.accepts),
            phases=[phase.name for phase in p.phases],
            sealed=p.sealed,
        )
        for p in hands.shell.newest_of_all()
    ]
