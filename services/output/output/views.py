"""What a client sees of a job: the models of the API's answers, made from rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, JsonValue

from contracts.jobs import Status
from output.costs import CostView, Line, total
from output.groups import Kind
from output.pace import Ahead, Pace, eta_s


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as problem:
        raise ValueError("the time is none that a calendar has") from problem


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class ErrorView(BaseModel):
    """Why something failed: a code from the error taxonomy and a sentence."""

    code: str
    detail: str
    phase: str | None = None


class ArtifactView(BaseModel):
    """A stored output. `url` leads to a signed link; width and height are pixels, size is bytes."""

    name: str
    phase: str
    item: str | None = None
    sha256: str
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None
    url: str


class ItemCountsView(BaseModel):
    """How the items of a phase that fans out stand. `ended` counts every ending, `gave_up` those without a result."""

    total: int
    ended: int
    gave_up: int


class _UnitView(BaseModel):
    # `revision` is of the decision that moved it last. `progress` is 0..1 while it runs and says so, and
    # `facts` are numbers to follow it by until its end tells its own; `seconds` is how long the work took.
    status: Status
    revision: int = 0
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


class PhaseView(_UnitView):
    """One phase. `items` counts the items of a phase that fans out; each has a view of its own, on pages.

    `made_by` is the job of the earlier version that it has been taken over from; null where this job did it.
    """

    name: str
    items: ItemCountsView | None = None
    made_by: UUID | None = None
    cost: CostView = CostView()


class ItemView(_UnitView):
    """One item of a phase that fans out, and what it made."""

    item: str
    artifacts: list[ArtifactView]


class ItemPage(BaseModel):
    """Items in the order of their names. `next_cursor` asks for the page after this one; null on the last."""

    items: list[ItemView]
    next_cursor: str | None


class JobView(BaseModel):
    """A job with its phases in the pipeline's order and the artifacts of each so far, without those of items.

    `revision` counts the decisions about it. `waiting_on` says in words why nothing of it runs now.
    `deadline` is by when it ends; null once it has. `options` are what its caller asked for, a style with the version
    that it meant. An artifact of a phase that still runs is a preview: another may take its place. `version` counts the
    jobs of its upload; `edit_of` is the one that it is another version of. `eta_s` is how many seconds it will still
    take, as far as jobs of its pipeline that ended lately can tell; null when it has ended. `cost` is what was bought
    for it so far, retries and failures too; work that another job had bought already costs it nothing.
    """

    id: UUID
    upload_id: UUID
    version: int
    edit_of: UUID | None
    batch_id: UUID | None
    pipeline: str
    pipeline_version: int | None
    options: dict[str, JsonValue]
    status: Status
    revision: int
    degraded: bool
    waiting_on: str | None
    deadline: datetime | None
    eta_s: float | None = None
    cost: CostView = CostView()
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


class VersionView(BaseModel):
    """One version of what was made of an upload, by its job, with what that was asked for."""

    job_id: UUID
    version: int
    edit_of: UUID | None
    status: Status
    degraded: bool
    options: dict[str, JsonValue]
    created_at: datetime
    ended_at: datetime | None


class VersionsView(BaseModel):
    """Every version of an upload, the first one first. What each has made is with its job."""

    upload_id: UUID
    versions: list[VersionView]


class GroupedPhotoView(BaseModel):
    """A photo by its job. `captured_at` is local time where it was taken; `cull` is 0 to 100, higher is better."""

    job_id: UUID
    captured_at: datetime | None
    cull: float


class GroupView(BaseModel):
    """Photos of one scene in the order of their times: a `burst` or `near-duplicate`s. `best` has the best `cull`."""

    kind: Kind
    best: UUID
    photos: list[GroupedPhotoView]


class GroupsView(BaseModel):
    """The groups of a batch. `photos` is how many have been analysed so far; those in no group are singles."""

    batch_id: UUID
    photos: int
    groups: list[GroupView]


def job_view(
    job: Mapping[str, Any],
    phases: Sequence[Mapping[str, Any]],
    pace: Pace | None,
    now: datetime,
    bought: Mapping[str, Sequence[Line]],
) -> JobView:
    """A row of `jobs`, its rows of `phases` without those of items, and what it bought by phase, as seen at a time."""
    by_name = {phase["name"]: phase for phase in phases}
    known = [by_name[name] for name in job["phase_names"] if name in by_name]
    return JobView(
        **{name: job[name] for name in _SAME},
        options=job["options"] or {},
        eta_s=_eta_s(job, by_name, pace, now),
        cost=total([line for lines in bought.values() for line in lines]),
        phases=[_phase(name, by_name.get(name), bought.get(name, ())) for name in job["phase_names"]],
        artifacts=[artifact for phase in known for artifact in _artifacts(phase)],
    )


_SAME = tuple(name for name in JobView.model_fields if name not in ("options", "eta_s", "cost", "phases", "artifacts"))


def _eta_s(
    job: Mapping[str, Any], phases: Mapping[str, Mapping[str, Any]], pace: Pace | None, now: datetime
) -> float | None:
    if pace is None or Status(job["status"]).is_terminal:
        return None
    ahead = []
    for name in job["phase_names"] or pace.phases:
        row = phases.get(name)
        status = Status(row["status"]) if row else Status.QUEUED
        if not status.is_terminal:
            began = row["state"].get("started_at") if row else None
            at = datetime.fromisoformat(began) if began else None
            ahead.append(Ahead(name, status, at, row["progress"] if row else None))
    return eta_s(pace, len(job["phase_names"]) or len(pace.phases), ahead, now)


def version_view(job: Mapping[str, Any]) -> VersionView:
    """A row of `jobs` as one of its upload's versions."""
    same = {name: job[name] for name in VersionView.model_fields if name not in ("job_id", "options")}
    return VersionView(**same, job_id=job["id"], options=job["options"] or {})


def item_view(row: Mapping[str, Any]) -> ItemView:
    """An item's row of `phases` as a client sees it."""
    return ItemView(**_unit(row), item=row["item"], artifacts=_artifacts(row))


def _phase(name: str, row: Mapping[str, Any] | None, bought: Sequence[Line]) -> PhaseView:
    if row is None:
        return PhaseView(name=name, status=Status.QUEUED, cost=total(bought))
    state = row["state"]
    return PhaseView(
        **_unit(row), name=name, items=state.get("items"), made_by=state.get("made_by"), cost=total(bought)
    )


def _unit(row: Mapping[str, Any]) -> dict[str, Any]:
    state = row["state"]
    known = {field: state[field] for field in _UnitView.model_fields if field in state}
    known |= {"revision": row["revision"], "progress": row["progress"], "seconds": _seconds(state)}
    known["facts"] = state["facts"] or (row["hint"] or {}).get("facts", {})
    if state["code"]:
        known["error"] = ErrorView(code=state["code"], detail=state["detail"] or "")
    return known


def _seconds(state: Mapping[str, Any]) -> float | None:
    if not state["started_at"] or not state["ended_at"] or state["status"] == Status.SKIPPED:
        return None
    took = datetime.fromisoformat(state["ended_at"]) - datetime.fromisoformat(state["started_at"])
    return round(took.total_seconds(), 3)


def _artifacts(row: Mapping[str, Any]) -> list[ArtifactView]:
    path = ".".join(filter(None, (row["name"], row["item"])))
    return [
        ArtifactView(
            **{field: artifact[field] for field in ArtifactView.model_fields if field in artifact},
            phase=row["name"],
            item=row["item"] or None,
            url=f"/v1/jobs/{row['job_id']}/artifacts/{path}.{artifact['name']}",
        )
        for artifact in made_by(row)
    ]


def made_by(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The artifacts of a row of `phases`: what its end told of, before that what it has shown."""
    made: list[dict[str, Any]] = row["state"]["artifacts"] or (row["hint"] or {}).get("artifacts", [])
    return made
