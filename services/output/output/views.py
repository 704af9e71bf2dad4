"""What a client sees of a job: the models of the API's answers, made from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, JsonValue

from contracts.jobs import Status


class ErrorView(BaseModel):
    """Why something failed: a code from the error taxonomy and a sentence."""

    code: str
    detail: str
    phase: str | None = None


class ArtifactView(BaseModel):
    """A stored output. `url` leads to a signed link; width and height are pixels, size is bytes."""

    name: str
    phase: str
    sha256: str
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None
    url: str


class PhaseView(BaseModel):
    """One phase. `progress` is 0..1 while it runs and says so; `seconds` is how long the work took."""

    name: str
    status: Status
    attempt: int = 0
    engine: str | None = None
    degraded: bool = False
    progress: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: float | None = None
    retry_at: datetime | None = None
    error: ErrorView | None = None
    facts: dict[str, JsonValue] = {}


class JobView(BaseModel):
    """A job with its phases in the pipeline's order and every artifact so far."""

    id: UUID
    upload_id: UUID
    pipeline: str
    pipeline_version: int | None
    status: Status
    degraded: bool
    trace_id: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    error: ErrorView | None
    phases: list[PhaseView]
    artifacts: list[ArtifactView]


class JobPage(BaseModel):
    """Jobs, newest first. `next_cursor` asks for the page after this one; null on the last."""

    items: list[JobView]
    next_cursor: str | None


def job_view(job: Mapping[str, Any], phases: Sequence[Mapping[str, Any]]) -> JobView:
    """A row of `jobs` and its rows of `phases` as a client sees them."""
    by_name = {phase["name"]: phase for phase in phases}
    ordered = [name for name in job["phase_names"] if name in by_name]
    return JobView(
        **{name: job[name] for name in _SAME},
        phases=[_phase(name, by_name.get(name)) for name in job["phase_names"]],
        artifacts=[
            ArtifactView(
                **{field: artifact[field] for field in ArtifactView.model_fields if field in artifact},
                phase=name,
                url=f"/v1/jobs/{job['id']}/artifacts/{name}.{artifact['name']}",
            )
            for name in ordered
            for artifact in by_name[name]["state"]["artifacts"]
        ],
    )


_SAME = tuple(name for name in JobView.model_fields if name not in ("phases", "artifacts"))


def _phase(name: str, row: Mapping[str, Any] | None) -> PhaseView:
    if row is None:
        return PhaseView(name=name, status=Status.QUEUED)
    state = row["state"]
    view = PhaseView(
        **{field: state[field] for field in PhaseView.model_fields if field in state},
        name=name,
        progress=row["progress"],
        error=ErrorView(code=state["code"], detail=state["detail"] or "") if state["code"] else None,
    )
    if view.started_at and view.ended_at and view.status is not Status.SKIPPED:
        view.seconds = round((view.ended_at - view.started_at).total_seconds(), 3)
    return view
