"""Jobs as a terminal shows them. Everything here is a function of what is known and of the time.

A phase is one cell: its mark, and how far or how long. Marks differ in shape, not only in colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.jobs import Artifact, Error, Job, Phase
from console.submitting import Submission
from contracts.jobs import Status

MARKS: Final = {
    #                 mark  style
    Status.QUEUED:    ("·", "dim"),
    Status.RUNNING:   ("⠋", "yellow"),  # turns, see SPINNER
    Status.SUCCEEDED: ("●", "green"),
    Status.SKIPPED:   ("–", "dim"),
    Status.FAILED:    ("✗", "bold red"),
    Status.CANCELLED: ("⊘", "red"),
    Status.DEAD:      ("☠", "bold red"),
}  # fmt: skip
DEGRADED: Final = ("◐", "yellow")  # in place of a succeeded phase's mark
LEGEND: Final = "◐ done by a lesser engine (CPU in place of GPU); it can be redone later"
SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
TURNS_PER_S: Final = 10


def plain(text: object) -> str:
    """`text` without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def phase_cell(phase: Phase, now: datetime) -> Text:
    """A phase: its mark, its progress while it runs, its seconds when it has ended."""
    mark, style = mark_of(phase.status, phase.degraded, now)
    told = ""
    if phase.status is Status.RUNNING and phase.progress is not None:
        told = f" {phase.progress:.0%}"
    elif phase.seconds is not None:
        told = f" {phase.seconds:.1f}s"
    if phase.error and phase.status is Status.RUNNING:
        told += f" ↻{phase.attempt}"  # a try failed, the next one waits or runs
    return Text(mark + told, style, no_wrap=True)


def mark_of(status: Status, degraded: bool, now: datetime) -> tuple[str, str]:
    """The mark of a status and its style."""
    if status is Status.RUNNING:
        return SPINNER[int(now.timestamp() * TURNS_PER_S) % len(SPINNER)], MARKS[status][1]
    return DEGRADED if degraded and status is Status.SUCCEEDED else MARKS[status]


def submissions(rows: Sequence[Submission], now: datetime) -> RenderableType:
    """One line per file, one column per phase of their pipelines."""
    jobs = [row.job for row in rows if row.job]
    names = _phase_names(jobs)
    table = _table("photo", *names, "s", "", gap=0)  # six phases fit eighty columns
    for row in rows:
        cells = {phase.name: phase_cell(phase, now) for phase in row.job.phases} if row.job else {}
        table.add_row(
            Text(plain(row.path.name), overflow="ellipsis", no_wrap=True),
            *(cells.get(name, Text("")) for name in names),
            Text(f"{seconds(row.job, now):.1f}" if row.job else "", "dim"),
            _outcome(row, now),
        )
    return _with_legend(table, any(job.degraded or any(phase.degraded for phase in job.phases) for job in jobs))


def job_ids(rows: Iterable[Submission]) -> Table:
    """Which file became which job."""
    table = _table("photo", "job")
    for row in rows:
        if row.upload:
            table.add_row(Text(plain(row.path.name)), str(row.upload.job_id))
    return table


def job_list(jobs: Sequence[Job], now: datetime) -> RenderableType:
    """One line per job; its phases as marks in their order."""
    table = _table("job", "created", "status", "phases", "s", "error")
    for job in jobs:
        phases = Text().join(Text(*mark_of(phase.status, phase.degraded, now)) for phase in job.phases)
        table.add_row(
            str(job.id),
            _when(job.created_at, now),
            _status(job, now),
            phases,
            f"{seconds(job, now):.1f}",
            Text(plain(job.error.code) if job.error else "", "red"),
        )
    return _with_legend(table, any(job.degraded for job in jobs)) if jobs else Text("No jobs.", "dim")


def job_detail(job: Job, now: datetime) -> RenderableType:
    """One job: what it is, each phase, what came out of it."""
    head = Table.grid(padding=(0, 2))
    told: list[tuple[str, str | Text]] = [
        ("job", str(job.id)),
        ("pipeline", plain(job.pipeline)),
        ("status", _status(job, now)),
        ("created", f"{job.created_at.astimezone():%Y-%m-%d %H:%M:%S}"),
        ("seconds", f"{seconds(job, now):.2f}"),
        ("trace", plain(job.trace_id or "–")),
    ]
    if job.error:
        told.append(("error", _error(job.error)))
    for name, value in told:
        head.add_row(Text(name, "dim"), value)
    phases = _table("phase", "", "attempt", "engine", "error")
    for phase in job.phases:
        error = _error(phase.error) if phase.error else Text("")
        phases.add_row(phase.name, phase_cell(phase, now), str(phase.attempt or ""), plain(phase.engine or ""), error)
    parts = [head, Text(""), _with_legend(phases, job.degraded)]
    if job.artifacts:
        parts += [Text(""), artifact_list(job.artifacts)]
    return Group(*parts)


def artifact_list(artifacts: Iterable[Artifact]) -> Table:
    """What a job made: names, pixels, bytes."""
    table = _table("artifact", "type", "pixels", "bytes")
    for made in artifacts:
        pixels = f"{made.width} × {made.height}" if made.width else ""
        table.add_row(plain(f"{made.phase}.{made.name}"), plain(made.media_type), pixels, f"{made.size:,}")
    return table


def seconds(job: Job, now: datetime) -> float:
    """How long the job has taken so far, from the upload's arrival."""
    return max(0.0, ((job.ended_at or now) - job.created_at).total_seconds())


_NUMBERS: Final = ("s", "bytes", "attempt")
_WHOLE: Final = ("job", "created", "status", "phases")  # the others give way on a narrow terminal


def _table(*columns: str, gap: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, no_wrap=column in _WHOLE)
    return table


def _with_legend(table: Table, degraded: bool) -> RenderableType:
    return Group(table, Text(LEGEND, "dim")) if degraded else table


def _phase_names(jobs: Iterable[Job]) -> list[str]:
    return list(dict.fromkeys(phase.name for job in jobs for phase in job.phases))


def _when(at: datetime, now: datetime) -> str:
    at, today = at.astimezone(), now.astimezone().date()
    return f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d}"


def _status(job: Job, now: datetime) -> Text:
    mark, style = mark_of(job.status, job.degraded, now)
    return Text(f"{mark} {job.status}", style, no_wrap=True)


def _outcome(row: Submission, now: datetime) -> Text:
    if error := row.error or (row.job and row.job.error):
        return Text(plain(error.code), "bold red")
    if row.job:
        return _status(row.job, now)
    return Text("submitted" if row.upload else "uploading", "dim")


def _error(error: Error) -> Text:
    return Text.assemble((plain(error.code), "bold red"), " ", plain(error.detail))
