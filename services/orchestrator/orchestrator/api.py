"""What other rooms may ask: which pipelines there are. Reached inside the deployment only."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

router = APIRouter()


class PipelineView(BaseModel):
    """The newest version of a pipeline. `accepts` are media types."""

    name: str
    version: int
    accepts: list[str]
    phases: list[str]


@router.get("/v1/pipelines")
async def pipelines(request: Request) -> list[PipelineView]:
    """Every pipeline that new jobs can use."""
    return [
        PipelineView(name=p.name, version=p.version, accepts=list(p.accepts), phases=[phase.name for phase in p.phases])
        for p in request.app.state.newest.values()
    ]
