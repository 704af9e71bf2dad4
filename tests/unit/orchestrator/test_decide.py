"""The law of a job, as sentences."""

from __future__ import annotations

from datetime import timedelta

import pytest

from contracts.errors import ERRORS
from contracts.jobs import Status
from orchestrator.machine.decide import decide
from orchestrator.machine.inputs import TimeReached
from tests.unit.orchestrator.given import FACE, JOB, LUT, ORIGINAL, START, WIRE, World


def test_a_job_begins_with_the_one_phase_that_needs_nothing() -> None:
    world = World().begins()
    assert [(c.phase, c.attempt) for c in world.commands] == [("analyze", 1)]
    assert world.told[0] == "job.v1.started"
    assert world.state.status is Status.RUNNING


def test_phases_whose_condition_does_not_hold_are_skipped() -> None:
    world = World().begins().succeeds("analyze", faces=[], detections=[])
    assert world.statuses() == {
        "analyze": "succeeded",
        "style": "skipped",
        "retouch": "skipped",
        "cleanup": "skipped",
        "crop": "running",
        "variants": "queued",
    }


def test_a_photo_with_everything_runs_all_six_phases_in_order_and_succeeds_degraded() -> None:
    world = World().begins(style="warm").succeeds("analyze", **FACE, **WIRE)
    for phase in ("style", "retouch", "cleanup"):
        world.succeeds(phase, image=True)
    world.succeeds("crop").succeeds("variants")
    assert [c.phase for c in world.commands] == ["analyze", "style", "retouch", "cleanup", "crop", "variants"]
    assert world.state.status is Status.SUCCEEDED
    assert world.told[-1] == "job.v1.succeeded"
    assert world.effects[-1].message.degraded is True


def test_each_phase_reads_the_newest_image_and_the_attachments_it_declares() -> None:
    world = World().begins(style="warm", style_strength=0.5).succeeds("analyze", **WIRE).succeeds("style", image=True)
    style, cleanup = world.commands[1], world.commands[2]
    assert style.inputs == {"original": ORIGINAL, "image": ORIGINAL, "lut": LUT}
    assert style.parameters == {"strength": 0.5}
    assert cleanup.phase == "cleanup"  # retouch was skipped, its place in the chain was not
    assert cleanup.inputs["image"].key.endswith("style/1/image.png")
    assert "lut" not in cleanup.inputs
    assert cleanup.parameters == WIRE


def test_a_transient_failure_is_tried_again_after_its_backoff() -> None:
    world = World().begins().fails("analyze", "STORAGE_UNAVAILABLE")
    assert world.state.phases["analyze"].retry_at == START + timedelta(seconds=1)
    assert world.state.wake_at == START + timedelta(seconds=1)
    world.time_passes(0.5)
    assert len(world.commands) == 1
    world.time_passes(0.5)
    assert [c.attempt for c in world.commands] == [1, 2]
    assert world.state.phases["analyze"].retry_at is None


def test_transient_failures_until_the_attempts_are_used_up_make_the_job_dead() -> None:
    world = World().begins()
    for attempt in range(1, 5):
        world.fails("analyze", "STORAGE_UNAVAILABLE", attempt).time_passes(60)
    assert world.state.status is Status.DEAD
    assert world.told[-1] == "job.v1.dead"
    assert len(world.commands) == 4
    assert world.state.wake_at is None


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        pytest.param("IMAGE_CORRUPT", Status.FAILED, id="what the caller can fix fails the job"),
        pytest.param("OBJECT_MISSING", Status.DEAD, id="what an operator must fix makes it dead"),
    ],
)
def test_a_permanent_failure_ends_the_job_at_once(code: str, ending: Status) -> None:
    world = World().begins().fails("analyze", code)
    assert (world.state.status, len(world.commands)) == (ending, 1)
    assert world.effects[-1].message.code == code
    assert world.effects[-1].message.detail == ERRORS[code].title


def test_an_unknown_code_counts_as_unforeseen_and_is_tried_again() -> None:
    world = World().begins().fails("analyze", "SOMETHING_NEW")
    assert (world.state.phases["analyze"].code, world.state.status) == ("INTERNAL", Status.RUNNING)


def test_a_silent_phase_is_given_up_at_its_deadline_and_tried_again() -> None:
    world = World().begins().time_passes(120)
    assert world.state.phases["analyze"].code == "PHASE_DEADLINE"
    assert world.time_passes(1).commands[-1].attempt == 2


def test_the_outcome_of_an_attempt_that_was_given_up_is_ignored() -> None:
    world = World().begins().time_passes(120).time_passes(1)
    world.succeeds("analyze", attempt=1)
    assert world.last.ignored == "attempt 1 is not out, 2 is"
    assert world.succeeds("analyze", attempt=2).last.ignored is None


def test_an_outcome_between_two_attempts_is_ignored() -> None:
    world = World().begins().fails("analyze", "STORAGE_UNAVAILABLE").succeeds("analyze", attempt=1)
    assert "no attempt out" in (world.last.ignored or "")


def test_the_jobs_own_deadline_ends_it_whatever_runs() -> None:
    world = World().begins().time_passes(3600)
    assert (world.state.status, world.statuses()["analyze"]) == (Status.DEAD, "cancelled")
    assert world.effects[-1].message.code == "JOB_DEADLINE"


def test_no_attempt_gets_more_time_than_its_job_has_left() -> None:
    world = World().begins()
    world.at = START + timedelta(seconds=3590)
    world.succeeds("analyze")
    assert world.commands[-1].deadline == START + timedelta(seconds=3600)


def test_a_terminal_job_changes_no_more() -> None:
    world = World().begins().fails("analyze", "IMAGE_CORRUPT")
    done = world.state
    world.succeeds("analyze").time_passes(10_000).begins()
    assert world.state is done


def test_a_second_begin_is_ignored() -> None:
    world = World().begins().begins()
    assert world.last.ignored == "the job has begun already"


def test_an_unknown_pipeline_ends_the_job_with_its_code() -> None:
    world = World(pipeline=None).begins()
    assert (world.state.status, world.effects[-1].message.code) == (Status.FAILED, "PIPELINE_UNKNOWN")


def test_a_type_that_the_pipeline_does_not_take_ends_the_job_with_its_code() -> None:
    world = World().begins(media_type="application/pdf")
    assert (world.state.status, world.effects[-1].message.code) == (Status.FAILED, "MEDIA_TYPE_UNSUPPORTED")


def test_an_input_for_a_job_that_is_not_there_is_ignored() -> None:
    decision = decide(None, 1, None, TimeReached(START))
    assert decision.ignored == "there is no such job"
    assert decision.job is None


def test_time_that_brings_nothing_is_ignored() -> None:
    world = World().begins().time_passes(1)
    assert world.last.ignored == "nothing is due"


def test_events_carry_the_revision_that_made_them() -> None:
    world = World().begins().succeeds("analyze")
    revisions = [e.message.revision for e in world.effects if hasattr(e.message, "revision")]
    assert revisions == sorted(revisions)
    assert set(revisions) == {1, 2}
    assert all(str(e.message.job_id) == str(JOB) for e in world.effects)
