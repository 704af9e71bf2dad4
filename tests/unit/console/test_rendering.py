"""What a terminal shows of jobs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console, RenderableType

from console import rendering
from console.acting import History, Step
from console.batches import Batch, Counts, GroupedPhoto, Groups
from console.batches import Group as PhotoGroup
from console.jobs import Artifact, Error, ItemCounts, Job, Phase
from console.submitting import Submission
from contracts.jobs import Status

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PHOTO = ("analyze", "style", "retouch", "cleanup", "crop", "variants")
NOW = T0 + timedelta(seconds=4)


def job(**changes: Any) -> Job:
    known: dict[str, Any] = {"id": UUID(int=7), "pipeline": "photo", "status": Status.RUNNING, "created_at": T0}
    return Job(**known | changes)


def text(what: RenderableType, width: int = 110) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


@pytest.mark.parametrize(
    ("phase", "shown"),
    [
        (Phase(name="a"), "·"),
        (Phase(name="a", status=Status.RUNNING, attempt=1), "⠋"),
        (Phase(name="a", status=Status.RUNNING, attempt=1, progress=0.42), "⠋ 42%"),
        (
            Phase(name="a", status=Status.RUNNING, progress=0.42, facts={"eta_s": 40, "psnr_held_out": 41.93}),
            "⠋ 42% 41.9 dB, 40 s to go",
        ),
        (Phase(name="a", status=Status.RUNNING, progress=0.42, facts={"eta_s": None, "loss": 0.1}), "⠋ 42%"),
        (Phase(name="a", status=Status.RUNNING, attempt=2, error=Error(code="CALL_LOST")), "⠋ ↻2"),
        (Phase(name="a", status=Status.SUCCEEDED, seconds=1.24), "● 1.2s"),
        (Phase(name="a", status=Status.SUCCEEDED, seconds=1.24, degraded=True), "◐ 1.2s"),
        (Phase(name="a", status=Status.SKIPPED), "–"),
        (Phase(name="a", status=Status.FAILED), "✗"),
        (Phase(name="a", status=Status.DEAD), "☠"),
    ],
    ids=[
        "queued is a dot",
        "running turns",
        "running shows how far it is",
        "long work shows how well it goes and how long it takes",
        "numbers that nobody can follow are left out",
        "a retry shows which try it is",
        "succeeded shows its seconds",
        "degraded has its own mark",
        "skipped is a dash",
        "failed is a cross",
        "dead is a skull",
    ],
)
def test_a_phase_is_one_cell(phase: Phase, shown: str) -> None:
    assert rendering.phase_cell(phase, T0).plain == shown


def test_every_status_has_a_mark_of_its_own_shape() -> None:
    marks = [mark for mark, _ in rendering.MARKS.values()] + [rendering.DEGRADED[0]]
    assert set(rendering.MARKS) == set(Status)
    assert len(set(marks)) == len(marks)


def test_the_spinner_turns_with_the_time() -> None:
    turns = {
        rendering.mark_of(Status.RUNNING, False, T0 + timedelta(seconds=at / rendering.TURNS_PER_S)) for at in range(10)
    }
    assert len(turns) == 10


def test_each_file_has_a_line_with_a_column_per_phase() -> None:
    phases = (Phase(name="analyze", status=Status.SUCCEEDED, seconds=0.5), Phase(name="style"))
    rows = [Submission(Path("a.jpg"), job=job(phases=phases)), Submission(Path("b.jpg"))]
    shown = text(rendering.submissions(rows, NOW))
    assert "analyze" in shown
    assert "style" in shown
    [line] = [line for line in shown.splitlines() if "a.jpg" in line]
    assert line.split() == ["a.jpg", "●", "0.5s", "·", "4.0", "⠋", "running"]
    [line] = [line for line in shown.splitlines() if "b.jpg" in line]
    assert line.split() == ["b.jpg", "uploading"]


@pytest.mark.parametrize(
    "row",
    [
        Submission(Path("a.jpg"), error=Error(code="UPLOAD_EMPTY")),
        Submission(Path("a.jpg"), job=job(status=Status.FAILED, error=Error(code="UPLOAD_EMPTY"))),
    ],
    ids=["it was refused", "its job failed"],
)
def test_a_file_that_failed_shows_the_code(row: Submission) -> None:
    assert row.failed
    assert "UPLOAD_EMPTY" in text(rendering.submissions([row], NOW))


def test_what_degraded_means_is_said_where_it_happened_and_only_there() -> None:
    made = Phase(name="style", status=Status.SUCCEEDED, degraded=True)
    assert "lesser engine" in text(rendering.submissions([Submission(Path("a"), job=job(phases=(made,)))], NOW))
    assert "lesser engine" not in text(rendering.submissions([Submission(Path("a"), job=job())], NOW))


def test_a_name_cannot_command_the_terminal() -> None:
    evil = Submission(Path("\x1b[2Jx[bold]y\r\n.jpg"))
    shown = text(rendering.submissions([evil], NOW))
    assert "\x1b" not in shown
    assert "?[2Jx[bold]y??.jpg" in shown


def test_a_job_tells_which_engines_were_passed_over_and_why() -> None:
    why = "codeformer@1: the licence of codeformer.pth forbids commercial use, and allow_noncommercial is off"
    retouch = Phase(name="retouch", engine="skin-smoothing@1", facts={"engines_passed_over": [why]})
    shown = text(rendering.job_detail(job(phases=(retouch, Phase(name="crop"))), NOW))
    assert "retouch  codeformer@1: the licence" in shown
    assert "passed over" not in text(rendering.job_detail(job(phases=(Phase(name="crop"),)), NOW))


def test_one_job_shows_trace_phases_and_artifacts() -> None:
    made = Artifact(
        name="web.jpg",
        phase="variants",
        sha256="0" * 64,
        size=1234,
        media_type="image/jpeg",
        url="/",
        width=20,
        height=10,
    )
    shown = text(rendering.job_detail(job(trace_id="f" * 32, artifacts=(made,), phases=(Phase(name="crop"),)), NOW))
    for part in ("f" * 32, "variants.web.jpg", "20 × 10", "1,234", "crop"):
        assert part in shown


def test_one_job_shows_what_it_waits_for_its_batch_and_its_items() -> None:
    pages = Phase(name="pages", status=Status.RUNNING, items=ItemCounts(total=10, ended=4, gave_up=1))
    told = job(phases=(pages,), batch_id=UUID(int=9), waiting_on="paused by operator:ops")
    shown = text(rendering.job_detail(told, NOW))
    for part in (str(UUID(int=9)), "paused by operator:ops", "4 of 10 items, 1 given up"):
        assert part in shown


def test_the_list_says_why_a_job_failed_or_what_it_waits_for() -> None:
    failed = job(status=Status.FAILED, error=Error(code="IMAGE_CORRUPT"))
    shown = text(rendering.job_list([failed, job(waiting_on="queued behind 40 jobs")], NOW))
    assert "IMAGE_CORRUPT" in shown
    assert "queued behind 40 jobs" in shown


def test_groups_mark_the_best_photo_of_each() -> None:
    one, two = GroupedPhoto(job_id=UUID(int=1), cull=55.5), GroupedPhoto(job_id=UUID(int=2), captured_at=NOW, cull=81)
    group = PhotoGroup(kind="burst", best=two.job_id, photos=(one, two))
    found = Groups(batch_id=UUID(int=9), photos=7, groups=(group,))
    lines = text(rendering.batch_groups(found), width=120).splitlines()
    (best,) = (line for line in lines if "best" in line)
    assert str(two.job_id) in best
    assert "81.0" in best
    assert sum("burst" in line for line in lines) == 2
    assert "of 7 analysed" in text(rendering.batch_groups(Groups(batch_id=UUID(int=9), photos=7)))


def test_a_batch_counts_its_jobs_and_says_how_far_it_is() -> None:
    counts = Counts(total=9, running=2, succeeded=4, failed=1, dead=1, cancelled=1, degraded=3)
    batch = Batch(id=UUID(int=9), name="[bold]gallery", created_at=T0, jobs=counts, fraction=0.75, eta_s=7200)
    for shown in (text(rendering.batch_detail(batch)), text(rendering.batch_list([batch], NOW), width=120)):
        for part in ("gallery", "75%", "2.0 h", "9"):
            assert part in shown


def test_the_history_is_a_line_per_decision() -> None:
    steps = (Step(revision=1, at=T0, input="Begin", effects=("a", "b")), Step(revision=2, at=T0, input="Cancel"))
    told = History(
        job_id=UUID(int=7), pipeline="photo", pipeline_version=2, status=Status.CANCELLED, revision=2, steps=steps
    )
    shown = text(rendering.history(told, NOW))
    for part in ("photo, version 2", "cancelled", "Begin", "Cancel"):
        assert part in shown


@pytest.mark.parametrize(("span_s", "shown"), [(40, "40 s"), (600, "10 min"), (9000, "2.5 h")])
def test_a_duration_reads_at_a_glance(span_s: float, shown: str) -> None:
    assert rendering.duration(span_s) == shown


def test_the_list_of_jobs_fits_eighty_columns() -> None:
    phases = tuple(Phase(name=name) for name in PHOTO)
    shown = text(rendering.job_list([job(phases=phases)], NOW), width=80)
    assert str(UUID(int=7)) in shown
    assert "······" in shown


def test_a_photo_with_all_its_phases_fits_eighty_columns() -> None:
    done = tuple(Phase(name=name, status=Status.SUCCEEDED, seconds=12.3, degraded=True) for name in PHOTO)
    row = Submission(Path("hopper-12mp.jpg"), job=job(phases=done, status=Status.SUCCEEDED, degraded=True))
    shown = text(rendering.submissions([row], NOW), width=80)
    assert "hopper-12mp.jpg" in shown
    assert shown.count("12.3s") == len(PHOTO)
    assert "succeeded" in shown
