"""Jobs as a terminal shows them. Everything here is a function of what is known and of the time.

A phase is one cell: its mark, and how far or how long. Marks differ in shape, not only in colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from console.acting import Acted, History
from console.batches import Batch, Groups
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
_TOLD: Final = ("style", "style_name")  # of a job's options


def plain(text: object) -> str:
    """`text` without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def phase_cell(phase: Phase, now: datetime) -> Text:
    """A phase: its mark, its progress while it runs, its seconds when it has ended."""
    mark, style = mark_of(phase.status, phase.degraded, now)
    told = ""
    if phase.status is Status.RUNNING and phase.progress is not None:
        told = f" {phase.progress:.0%}{_going(phase.facts)}"
    elif phase.seconds is not None:
        told = f" {phase.seconds:.1f}s"
    if phase.error and phase.status is Status.RUNNING:
        told += f" ↻{phase.attempt}"  # a try failed, the next one waits or runs
    return Text(mark + told, style, no_wrap=True)


def _going(facts: Mapping[str, Any]) -> str:
    """How well long work goes, and how long it still takes: `41.9 dB, 40 s to go`."""
    psnr, eta_s = facts.get("psnr_held_out"), facts.get("eta_s")
    told = [f"{psnr:.1f} dB"] if isinstance(psnr, int | float) else []
    if isinstance(eta_s, int | float):
        told.append(f"{duration(eta_s)} to go")
    return f" {', '.join(told)}" if told else ""


def mark_of(status: Status, degraded: bool, now: datetime) -> tuple[str, str]:
    """The mark of a status and its style."""
    if status is Status.RUNNING:
        return SPINNER[int(now.timestamp() * TURNS_PER_S) % len(SPINNER)], MARKS[status][1]
    return DEGRADED if degraded and status is Status.SUCCEEDED else MARKS[status]


def submissions(rows: Sequence[Submission], now: datetime) -> RenderableType:
    """One line per file, one column per phase of their pipelines."""
    jobs = [row.job for row in rows if row.job]
    names = _phase_names(jobs)
    table = grid("photo", *names, "s", "", gap=0)  # six phases fit eighty columns
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
    table = grid("photo", "job")
    for row in rows:
        if row.upload:
            table.add_row(Text(plain(row.path.name)), str(row.upload.job_id))
    return table


def job_list(jobs: Sequence[Job], now: datetime) -> RenderableType:
    """One line per job; its phases as marks in their order; why it failed, or what it waits for."""
    table = grid("job", "created", "status", "phases", "s", "why")
    for job in jobs:
        phases = Text().join(Text(*mark_of(phase.status, phase.degraded, now)) for phase in job.phases)
        table.add_row(
            str(job.id),
            when(job.created_at, now),
            _status(job, now),
            phases,
            f"{seconds(job, now):.1f}",
            Text(plain(job.error.code), "red") if job.error else _line(job.waiting_on or "", "yellow"),
        )
    return _with_legend(table, any(job.degraded for job in jobs)) if jobs else Text("No jobs.", "dim")


def job_detail(job: Job, now: datetime) -> RenderableType:
    """One job: what it is, each phase, what came out of it."""
    told: list[tuple[str, str | Text]] = [
        ("job", str(job.id)),
        ("pipeline", plain(job.pipeline)),
        *((name.replace("_", " "), plain(job.options[name])) for name in _TOLD if job.options.get(name)),
        ("status", _status(job, now)),
        ("created", f"{job.created_at.astimezone():%Y-%m-%d %H:%M:%S}"),
        ("seconds", f"{seconds(job, now):.2f}"),
        ("trace", plain(job.trace_id or "–")),
    ]
    if job.batch_id:
        told.append(("batch", str(job.batch_id)))
    if job.waiting_on:
        told.append(("waits", Text(plain(job.waiting_on), "yellow")))
    if job.error:
        told.append(("error", _error(job.error)))
    phases = grid("phase", "", "attempt", "engine", "error")
    for phase in job.phases:
        error = _error(phase.error) if phase.error else Text("")
        engine = items(phase) or plain(phase.engine or "")
        phases.add_row(phase.name, phase_cell(phase, now), str(phase.attempt or ""), engine, error)
    parts = [pairs(told), Text(""), _with_legend(phases, job.degraded)]
    if passed_over := _passed_over(job):
        parts += [Text(""), passed_over]
    if job.artifacts:
        parts += [Text(""), artifact_list(job.artifacts)]
    return Group(*parts)


def _passed_over(job: Job) -> Table | None:
    """Which engines did not do a phase, and why: their weights are away, their licence forbids it."""
    table = grid("phase", "passed over")
    for phase in job.phases:
        found = phase.facts.get("engines_passed_over")
        for told in found if isinstance(found, list) else []:
            table.add_row(phase.name, plain(str(told)))
    return table if table.row_count else None


def items(phase: Phase) -> str:
    """How the items of a phase that fans out stand; empty for any other."""
    if not phase.items:
        return ""
    lost = f", {phase.items.gave_up} given up" if phase.items.gave_up else ""
    return f"{phase.items.ended} of {phase.items.total} items{lost}"


def artifact_list(artifacts: Iterable[Artifact]) -> Table:
    """What a job made: names, pixels, bytes."""
    table = grid("artifact", "type", "pixels", "bytes")
    for made in artifacts:
        pixels = f"{made.width} × {made.height}" if made.width else ""
        name = ".".join(filter(None, (made.phase, made.item, made.name)))
        table.add_row(plain(name), plain(made.media_type), pixels, f"{made.size:,}")
    return table


def acted_list(rows: Iterable[Acted], now: datetime) -> Table:
    """Jobs after they were asked to do something."""
    table = grid("job", "status", "revision")
    for row in rows:
        mark, style = mark_of(row.status, False, now)
        table.add_row(str(row.job_id), Text(f"{mark} {row.status}", style), str(row.revision))
    return table


def history(told: History, now: datetime) -> RenderableType:
    """Every decision about a job, and what it waits for."""
    mark, style = mark_of(told.status, False, now)
    head = pairs(
        [
            ("job", str(told.job_id)),
            ("pipeline", plain(f"{told.pipeline}, version {told.pipeline_version}")),
            ("status", Text(f"{mark} {told.status}", style)),
        ]
    )
    steps = grid("revision", "at", "input", "effects")
    for step in told.steps:
        effects = "\n".join(plain(effect.removeprefix(f"{told.job_id}.")) for effect in step.effects)
        steps.add_row(str(step.revision), f"{step.at.astimezone():%H:%M:%S.%f}"[:-3], plain(step.input), effects)
    parts: list[RenderableType] = [head, Text(""), steps]
    if told.waits:
        waits = grid("waits for", "who has it", "until", "why")
        for wait in told.waits:
            name = ".".join(filter(None, (wait.phase, wait.item))) or "the job"
            waits.add_row(plain(name), plain(wait.owner), when(wait.until, now) if wait.until else "", plain(wait.why))
        parts += [Text(""), waits]
    return Group(*parts)


def batch_list(batches: Sequence[Batch], now: datetime) -> RenderableType:
    """One line per batch."""
    table = grid("batch", "created", "jobs", "over", "bad", "left", "name")
    for batch in batches:
        jobs = batch.jobs
        lost = jobs.failed + jobs.dead + jobs.cancelled
        table.add_row(
            str(batch.id),
            when(batch.created_at, now),
            str(jobs.total),
            "" if batch.fraction is None else f"{batch.fraction:.0%}",
            Text(str(lost or ""), "red"),
            "" if batch.eta_s is None else duration(batch.eta_s),
            _line(batch.name or ""),
        )
    return table if batches else Text("No batches.", "dim")


def batch_groups(found: Groups) -> RenderableType:
    """One line per photo of a group, the best of each marked."""
    table = grid("group", "kind", "", "score", "taken", "job")
    for number, group in enumerate(found.groups, 1):
        for photo in group.photos:
            table.add_row(
                str(number),
                group.kind,
                Text("best" if photo.job_id == group.best else "", "green"),
                f"{photo.cull:.1f}",
                f"{photo.captured_at:%Y-%m-%d %H:%M:%S}" if photo.captured_at else "",
                str(photo.job_id),
            )
    return table if found.groups else Text(f"No photos that belong together, of {found.photos} analysed.", "dim")


def batch_detail(batch: Batch) -> RenderableType:
    """One batch: how many jobs are where, how far it is."""
    told: list[tuple[str, str | Text]] = [
        ("batch", str(batch.id)),
        ("name", plain(batch.name or "–")),
        ("created", f"{batch.created_at.astimezone():%Y-%m-%d %H:%M:%S}"),
    ]
    sets = {"pipeline": batch.pipeline, **batch.options, "webhook": batch.webhook}
    told += [(key.replace("_", " "), plain(value)) for key, value in sets.items() if value is not None]
    if batch.duplicates != "keep":
        told.append(("duplicates", plain(batch.duplicates)))
    told.append(("state", plain(batch.state)))
    if batch.ended_at:
        told.append(("ended", f"{batch.ended_at.astimezone():%Y-%m-%d %H:%M:%S}"))
    if batch.fraction is not None:
        told.append(("over", f"{batch.fraction:.0%}"))
    if batch.eta_s is not None and not batch.ended_at:
        told.append(("left", duration(batch.eta_s)))
    counts = grid("status", "jobs")
    for status, (mark, style) in MARKS.items():
        if count := getattr(batch.jobs, status, 0):
            counts.add_row(Text(f"{mark} {status}", style), str(count))
    if batch.jobs.degraded:
        counts.add_row(Text(f"{DEGRADED[0]} of them degraded", DEGRADED[1]), str(batch.jobs.degraded))
    counts.add_row(Text("all", "dim"), str(batch.jobs.total))
    return Group(pairs(told), Text(""), counts)


def seconds(job: Job, now: datetime) -> float:
    """How long the job has taken so far, from the upload's arrival."""
    return max(0.0, ((job.ended_at or now) - job.created_at).total_seconds())


def duration(span_s: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if span_s < 90:
        return f"{span_s:.0f} s"
    return f"{span_s / 60:.0f} min" if span_s < 90 * 60 else f"{span_s / 3600:.1f} h"


# -- tables ----------------------------------------------------------------------------------

_NUMBERS: Final = {
    "s",
    "bytes",
    "attempt",
    "revision",
    "jobs",
    "over",
    "bad",
    "letters",
    "phases to run",
    "runs",
    "cold",
    "pairs",
    "psnr",
    "untouched",
    "histograms",
    "dE",
}
# The others give way on a narrow terminal.
_WHOLE: Final = {"job", "created", "status", "phases", "letter", "batch", "state", "provider", "function"}


def grid(*columns: str, gap: int = 1) -> Table:
    """An empty table with these columns, the way all ours look."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, no_wrap=column in _WHOLE)
    return table


def pairs(told: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and values, a line each."""
    table = Table.grid(padding=(0, 2))
    for name, known in told:
        table.add_row(Text(name, "dim"), known)
    return table


def _with_legend(table: Table, degraded: bool) -> RenderableType:
    return Group(table, Text(LEGEND, "dim")) if degraded else table


def _phase_names(jobs: Iterable[Job]) -> list[str]:
    return list(dict.fromkeys(phase.name for job in jobs for phase in job.phases))


def when(at: datetime, now: datetime) -> str:
    """The time of day when it is today's, else the date."""
    at, today = at.astimezone(), now.astimezone().date()
    return f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d}"


def _status(job: Job, now: datetime) -> Text:
    mark, style = mark_of(job.status, job.degraded, now)
    return Text(f"{mark} {job.status}", style, no_wrap=True)


def _line(told: str, style: str = "") -> Text:
    """On one line, however long it is."""
    return Text(plain(told), style, no_wrap=True, overflow="ellipsis")


def _outcome(row: Submission, now: datetime) -> Text:
    if error := row.error or (row.job and row.job.error):
        return Text(plain(error.code), "bold red")
    if row.job:
        return _status(row.job, now)
    return Text("submitted" if row.upload else "uploading", "dim")


def _error(error: Error) -> Text:
    return Text.assemble((plain(error.code), "bold red"), " ", plain(error.detail))
