"""The law of a job, as sentences."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.errors import ERRORS
from contracts.jobs import Status
from contracts.phases import PhaseDeferred
from orchestrator.machine import decide as law
from orchestrator.machine.decide import Room, decide
from orchestrator.machine.inputs import Admitted, Deferred, TimeReached
from orchestrator.machine.pipeline import Pipeline
from tests.unit.orchestrator.given import (
    BATCH,
    BOOK,
    FACE,
    FULL,
    JOB,
    LUT,
    ORIGINAL,
    START,
    WIRE,
    World,
    artifact,
    in_seconds,
    phase,
    pipeline,
)

ONE = pipeline(phase("a"))
TWO = pipeline(phase("a"), phase("b", "a"))
GPU = pipeline(phase("a", fallback="cpu"), phase("b", "a"))


def one(**fields: Any) -> World:
    """A job of one phase with these fields, begun."""
    return World(pipeline(phase("a", **fields))).begins()


# -- beginning -------------------------------------------------------------------------------------


def test_a_job_begins_with_the_phases_that_need_nothing() -> None:
    world = World(pipeline(phase("a"), phase("b"), phase("c", "a", "b"))).begins()
    assert world.keys == ["a.1", "b.1"]
    assert world.stands() == "a out, b out, c blocked"
    assert (world.state.status, world.told) == (Status.RUNNING, ["started"])


def test_phases_whose_condition_does_not_hold_are_skipped() -> None:
    world = World().begins().succeeds("analyze", faces=[], detections=[])
    assert world.stands() == (
        "analyze succeeded, style skipped, retouch skipped, cleanup skipped, crop out, variants blocked"
    )


def test_a_photo_with_everything_runs_all_six_phases_in_order_and_succeeds() -> None:
    world = World().begins(style="warm").succeeds("analyze", **FACE, **WIRE)
    for name in ("style", "retouch", "cleanup"):
        world.succeeds(name, image=True)
    world.succeeds("crop").succeeds("variants")
    assert [c.phase for c in world.commands] == ["analyze", "style", "retouch", "cleanup", "crop", "variants"]
    assert (world.state.status, world.told[-1]) == (Status.SUCCEEDED, "succeeded")
    assert world.events[-1].degraded is True


def test_each_phase_reads_the_newest_image_and_the_attachments_it_declares() -> None:
    world = World().begins(style="warm", style_strength=0.5).succeeds("analyze", **WIRE).succeeds("style", image=True)
    style, cleanup = world.commands[1], world.commands[2]
    assert style.inputs == {"original": ORIGINAL, "image": ORIGINAL, "lut": LUT}
    assert style.parameters == {"strength": 0.5}
    assert cleanup.phase == "cleanup"  # retouch was skipped, its place in the chain was not
    assert cleanup.inputs["image"].key.endswith("style/1/image.png")
    assert "lut" not in cleanup.inputs
    assert cleanup.parameters == WIRE


def test_a_command_says_which_providers_may_do_it() -> None:
    [command] = one(providers=("modal", "local")).commands
    assert (command.providers, command.engine) == (["modal", "local"], None)


@pytest.mark.parametrize(
    ("fields", "lane"),
    [
        pytest.param({}, "interactive", id="a job takes its pipeline's lane"),
        pytest.param({"batch_id": BATCH}, "bulk", id="a batch goes in bulk"),
        pytest.param({"batch_id": BATCH, "lane": "interactive"}, "interactive", id="the caller may choose"),
        pytest.param({"lane": "bulk"}, "bulk", id="the caller may choose bulk for one"),
    ],
)
def test_the_lane(fields: dict[str, Any], lane: str) -> None:
    assert World(ONE).begins(**fields).state.lane == lane


def test_a_job_whose_phases_have_nothing_to_do_succeeds_at_once() -> None:
    world = World(pipeline(phase("a", when="options.style"))).begins()
    assert (world.state.status, world.commands, world.told) == (Status.SUCCEEDED, [], ["started", "succeeded"])


@pytest.mark.parametrize(
    ("world", "fields", "code"),
    [
        pytest.param(World(pipeline=None), {}, "PIPELINE_UNKNOWN", id="no pipeline has the name"),
        pytest.param(
            World(), {"media_type": "application/pdf"}, "MEDIA_TYPE_UNSUPPORTED", id="it does not take the type"
        ),
    ],
)
def test_an_upload_that_no_pipeline_takes_fails(world: World, fields: dict[str, Any], code: str) -> None:
    world.begins(**fields)
    assert (world.state.status, world.told, world.events[-1].code) == (Status.FAILED, ["started", "failed"], code)
    assert [bury.code for bury in world.buried] == [code]


def test_a_second_begin_is_ignored() -> None:
    assert World().begins().begins().last.ignored == "the job has begun already"


def test_an_input_for_a_job_that_is_not_there_is_ignored() -> None:
    decision = decide(None, 1, None, TimeReached(START))
    assert (decision.ignored, decision.job) == ("there is no such job", None)


def test_a_job_whose_definition_nobody_has_is_dead() -> None:
    world = World(ONE).begins()
    world.pipeline = None
    world.time_passes(1)
    assert (world.state.status, world.events[-1].code) == (Status.DEAD, "PIPELINE_CHANGED")


# -- failing and trying again ----------------------------------------------------------------------


def test_a_transient_failure_is_tried_again_after_its_backoff() -> None:
    world = one(retry={"*": (1.0, 5.0)}).fails("a", "STORAGE_UNAVAILABLE")
    assert in_seconds(world.unit("a").retry_at) == in_seconds(world.state.wake_at) == 1
    assert world.time_passes(0.5).keys == ["a.1"]
    assert world.time_passes(0.5).keys == ["a.1", "a.2"]
    world.fails("a", "STORAGE_UNAVAILABLE")
    assert in_seconds(world.unit("a").retry_at, world) == 5


@pytest.mark.parametrize(
    ("retry", "code", "seconds"),
    [
        pytest.param({"*": (1.0,)}, "CALL_LOST", 1, id="a transient code waits as * says"),
        pytest.param({"*": (1.0,), "CALL_LOST": (7.0,)}, "CALL_LOST", 7, id="a named code has waits of its own"),
        pytest.param({"*": (1.0,), "CALL_LOST": ()}, "CALL_LOST", None, id="a named code may have none"),
        pytest.param({"*": (1.0,)}, "IMAGE_CORRUPT", None, id="a permanent code is not tried again"),
        pytest.param({"OBJECT_MISSING": (3.0,)}, "OBJECT_MISSING", 3, id="unless it is named"),
        pytest.param({"*": (1.0,)}, "NEVER_HEARD_OF", 1, id="an unknown code counts as unforeseen"),
        pytest.param({}, "CALL_LOST", None, id="without a policy nothing is tried again"),
    ],
)
def test_retry_by_code(retry: dict[str, Any], code: str, seconds: float | None) -> None:
    world = one(retry=retry).fails("a", code)
    assert in_seconds(world.unit("a").retry_at) == seconds
    assert world.state.is_over == (seconds is None)


def test_every_failure_counts_whatever_its_code() -> None:
    world = one(retry={"*": (1.0, 2.0), "CALL_LOST": (5.0,)}).fails("a", "STORAGE_UNAVAILABLE").wakes()
    assert world.fails("a", "CALL_LOST").state.status is Status.DEAD


def test_attempts_that_are_used_up_make_the_job_dead() -> None:
    world = World(TWO).begins()
    for _ in range(2):
        world.fails("a", "STORAGE_UNAVAILABLE").time_passes(60)
    assert (world.state.status, world.told[-1], world.keys) == (Status.DEAD, "dead", ["a.1", "a.2"])
    assert world.stands() == "a dead, b cancelled"
    [bury] = world.buried
    assert bury.command is not None
    assert (bury.phase, bury.code, bury.command.message.key) == ("a", "STORAGE_UNAVAILABLE", world.commands[-1].key)
    assert [(name, one.number, one.code) for name, _, one in bury.tries] == [
        ("a", 1, "STORAGE_UNAVAILABLE"),
        ("a", 2, "STORAGE_UNAVAILABLE"),
    ]


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        pytest.param("IMAGE_CORRUPT", Status.FAILED, id="what the caller can fix fails the job"),
        pytest.param("OBJECT_MISSING", Status.DEAD, id="what an operator must fix makes it dead"),
    ],
)
def test_a_permanent_failure_ends_the_job_at_once(code: str, ending: Status) -> None:
    world = World(TWO).begins().fails("a", code)
    assert (world.state.status, world.keys, world.events[-1].phase) == (ending, ["a.1"], "a")
    assert (world.events[-1].code, world.events[-1].detail) == (code, ERRORS[code].title)


def test_an_attempt_that_failed_keeps_the_times_that_its_worker_tells() -> None:
    world = one().fails("a", "CALL_LOST", started_at=START + timedelta(seconds=2))
    [tried] = world.unit("a").tries
    assert (in_seconds(tried.started_at), in_seconds(tried.ended_at)) == (2, 0)


def test_words_of_a_worker_are_cut_short() -> None:
    world = one().fails("a", "CALL_LOST", detail="x" * 10_000)
    assert len(world.unit("a").detail or "") == law.DETAIL_CHARS_MAX


def test_a_result_that_no_event_can_carry_is_a_failure() -> None:
    world = one().succeeds("a", story="x" * 70_000)
    assert (world.state.status, world.events[-1].code) == (Status.DEAD, "FACT_INVALID")
    assert "bytes" in world.events[-1].detail


# -- the fallback ----------------------------------------------------------------------------------


def test_after_the_last_attempt_the_fallback_gets_as_many() -> None:
    world = World(GPU).begins()
    for _ in range(3):
        world.fails("a", "CALL_LOST").time_passes(1)
    assert [(c.attempt, c.engine) for c in world.commands] == [(1, None), (2, None), (3, "cpu"), (4, "cpu")]
    assert world.fails("a", "CALL_LOST").state.status is Status.DEAD
    assert [one.engine for _, _, one in world.buried[0].tries] == [None, None, "cpu", "cpu"]


def test_what_the_fallback_made_counts_as_degraded() -> None:
    world = World(GPU).begins().fails("a", "FUNCTION_UNKNOWN").succeeds("a").succeeds("b")
    assert [c.engine for c in world.commands] == [None, "cpu", None]
    assert (world.unit("a").degraded, world.events[-1].degraded) == (True, True)


def test_the_fallback_is_of_no_use_where_the_caller_must_fix_the_input() -> None:
    assert World(GPU).begins().fails("a", "IMAGE_CORRUPT").state.status is Status.FAILED


# -- a provider that takes no work -----------------------------------------------------------------


def test_a_deferred_attempt_is_made_anew_when_the_provider_takes_work_again() -> None:
    world = one().is_deferred("a", seconds=90)
    assert world.state.status is Status.RUNNING
    assert world.events[-1].waiting_on == "a: provider modal rate-limited until 2026-01-01 00:01:30 UTC"
    assert world.time_passes(89).keys == ["a.1"]
    assert world.time_passes(1).new_keys == ["a.2"]


def test_a_deferred_attempt_is_no_failure() -> None:
    world = one(retry={})
    for _ in range(10):
        world.is_deferred("a").wakes()
    assert (world.unit("a").failures, world.unit("a").tries, world.state.status) == (0, (), Status.RUNNING)


def test_a_provider_that_says_now_is_not_asked_in_a_circle() -> None:
    assert in_seconds(one().is_deferred("a", seconds=-5).unit("a").retry_at) == law.DEFERRED_LEAST_S


@pytest.mark.parametrize(
    ("code", "words"),
    [
        pytest.param("PROVIDER_RATE_LIMITED", "rate-limited", id="a rate limit is called so"),
        pytest.param("PROVIDER_UNAVAILABLE", "unavailable", id="an outage is called so"),
        pytest.param("NEVER_HEARD_OF", "unavailable", id="whatever else is an outage"),
    ],
)
def test_it_says_why_the_provider_takes_no_work(code: str, words: str) -> None:
    assert f"provider modal {words} until" in one().is_deferred("a", code=code).events[-1].waiting_on


def test_a_phase_that_need_not_wait_takes_the_fallback_at_once_and_gives_it_all_attempts() -> None:
    world = one(fallback="cpu", unavailable="fallback").fails("a", "CALL_LOST").wakes().is_deferred("a")
    assert [(c.attempt, c.engine) for c in world.commands] == [(1, None), (2, None), (3, "cpu")]
    assert world.fails("a", "CALL_LOST").wakes().commands[-1].attempt == 4


def test_a_fallback_that_is_deferred_itself_waits() -> None:
    world = one(fallback="cpu", unavailable="fallback").is_deferred("a").is_deferred("a")
    assert world.stands() == "a backoff"


def test_a_job_that_waits_for_a_provider_does_not_die_of_its_deadline_but_expires() -> None:
    world = World(pipeline(phase("a"), deadline_s=100, expires_s=1000)).begins().is_deferred("a", seconds=5000)
    world.wakes()
    assert (in_seconds(world.state.deadline), world.state.status) == (200, Status.RUNNING)
    while not world.state.is_over:
        world.wakes()
    assert (in_seconds(world.state.ended_at), world.state.status) == (1000, Status.DEAD)
    assert (world.events[-1].code, world.events[-1].detail) == ("JOB_DEADLINE", "The job waited until it expired.")


def test_what_waited_for_a_provider_has_all_the_time_that_its_phase_has() -> None:
    world = World(pipeline(phase("a"), deadline_s=100)).begins().is_deferred("a", seconds=95).wakes()
    assert in_seconds(world.commands[-1].deadline, world) == 10


def test_a_moment_without_a_time_zone_is_taken_as_utc() -> None:
    until = START.replace(tzinfo=None) + timedelta(seconds=30)
    put_off = PhaseDeferred(job_id=JOB, phase="a", attempt=1, provider="p", code="X", until=until, at=START)
    assert in_seconds(one().give(Deferred(put_off, START)).unit("a").retry_at) == 30


# -- deadlines and leases --------------------------------------------------------------------------


def test_a_silent_attempt_is_stopped_at_its_deadline_and_made_anew() -> None:
    world = one().time_passes(10)
    assert (world.unit("a").code, world.stands()) == ("PHASE_DEADLINE", "a backoff")
    assert [stop.key.partition(".")[2] for stop in world.stops] == ["a.1"]
    assert world.time_passes(1).new_keys == ["a.2"]


def test_an_attempt_that_told_progress_and_fell_silent_is_stopped() -> None:
    world = one(stall_s=4.0).time_passes(2).progresses("a").time_passes(4)
    assert world.last.ignored == "nothing is due"
    world.wakes()
    assert (in_seconds(world.state.wake_at), world.unit("a").code) == (8, "PHASE_STALLED")
    assert len(world.stops) == 1


def test_progress_renews_the_lease_now_and_then() -> None:
    world = one(stall_s=4.0).progresses("a")
    assert in_seconds(world.unit("a").lease_until) == 5
    world.at += timedelta(seconds=0.9)
    assert world.progresses("a").last.ignored == "the lease is young"
    world.at += timedelta(seconds=0.1)
    assert in_seconds(world.progresses("a").unit("a").lease_until) == 6
    assert world.told == ["started"], "nobody is told of a lease"


def test_progress_of_a_phase_without_a_lease_is_ignored() -> None:
    assert one().progresses("a").last.ignored == "the phase has no lease"


def test_the_jobs_own_deadline_ends_it_and_stops_what_runs() -> None:
    world = World(pipeline(phase("a", deadline_s=1000.0), phase("b"))).begins().succeeds("b").time_passes(1000)
    assert (world.state.status, world.stands()) == (Status.DEAD, "a cancelled, b succeeded")
    assert (world.events[-1].code, world.events[-1].phase, len(world.stops)) == ("JOB_DEADLINE", None, 1)


def test_no_attempt_gets_more_time_than_its_job_has_left() -> None:
    world = World(TWO).begins()
    world.at = START + timedelta(seconds=995)
    world.succeeds("a")
    assert in_seconds(world.commands[-1].deadline) == 1000


def test_time_that_brings_nothing_is_ignored() -> None:
    assert one().time_passes(1).last.ignored == "nothing is due"


def test_a_decision_that_ends_the_job_gives_no_command() -> None:
    both = (phase("a", retry={"*": (10.0,)}), phase("b", retry={}))
    world = World(pipeline(*both)).begins().fails("a", "CALL_LOST").time_passes(10)  # a is due, but b ran out of time
    assert (world.state.status, world.keys, world.stands()) == (Status.DEAD, ["a.1", "b.1"], "a cancelled, b dead")
    assert [stop.key.partition(".")[2] for stop in world.stops] == ["b.1"]


def test_time_also_helps_a_unit_into_room_that_nobody_admits() -> None:
    world = World(ONE, rooms=FULL).begins()
    world.rooms = {}
    assert world.time_passes(1).new_keys == ["a.1"]


# -- late, double and foreign ----------------------------------------------------------------------


def test_the_outcome_of_an_attempt_that_was_given_up_is_ignored() -> None:
    world = one().time_passes(10).time_passes(1)
    assert world.succeeds("a", attempt=1).last.ignored == "attempt 1 is not out, 2 is"
    assert world.succeeds("a", attempt=2).state.status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("phase", "item", "why"),
    [
        pytest.param("z", None, "no such phase", id="of a phase that is not there"),
        pytest.param("a", None, "is succeeded and has no attempt out", id="of a phase that is over"),
        pytest.param("d", None, "is blocked and has no attempt out", id="of a phase that has not begun"),
        pytest.param("b", None, "is spread and has no attempt out", id="of a phase whose items do the work"),
        pytest.param("b", "p9", "no such item", id="of an item that is not there"),
        pytest.param("c", "p1", "is blocked and has no attempt out", id="of an item that has not begun"),
    ],
)
def test_an_outcome_that_nobody_waits_for_is_ignored(phase: str, item: str | None, why: str) -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1"])
    assert why in world.succeeds(phase, item, attempt=1).last.ignored
    assert why in world.fails(phase, "CALL_LOST", item, attempt=1).last.ignored
    assert why in world.progresses(phase, item).last.ignored
    assert why in world.is_deferred(phase, item=item).last.ignored


def test_an_ended_job_changes_no_more() -> None:
    world = World(TWO).begins().fails("a", "IMAGE_CORRUPT")
    done = world.state
    world.succeeds("a").is_cancelled().is_paused().is_resumed().is_admitted().time_passes(10_000).begins()
    assert world.state is done
    assert world.is_cancelled().last.ignored == "the job is failed"


# -- cancelling ------------------------------------------------------------------------------------


def test_a_cancelled_job_asks_what_runs_to_stop_and_ignores_its_outcome() -> None:
    world = World(pipeline(phase("a"), phase("b"), phase("c", "b"))).begins().fails("b", "CALL_LOST").is_cancelled()
    assert (world.state.status, world.told[-1]) == (Status.CANCELLED, "cancelled")
    assert world.stands() == "a cancelled, b cancelled, c cancelled"
    assert [stop.key.partition(".")[2] for stop in world.stops] == ["a.1"]
    assert world.succeeds("a").last.ignored == "the job is cancelled"
    assert world.buried == [], "what somebody wanted is no dead letter"


# -- room ------------------------------------------------------------------------------------------


def test_what_finds_no_room_is_ready_and_says_how_many_are_before_it() -> None:
    world = World(ONE, rooms=FULL).begins()
    assert (world.stands(), world.keys, world.state.status) == ("a ready", [], Status.QUEUED)
    assert world.events[-1].waiting_on == "a is queued behind 2 jobs of tenant demo"
    assert world.is_admitted().keys == ["a.1"]
    assert (world.state.status, world.events[-1].waiting_on) == (Status.RUNNING, None)


def test_the_first_in_a_line_says_that_it_waits_for_room() -> None:
    assert World(ONE, rooms={"a": Room(0)}).begins().events[-1].waiting_on == "a is queued until there is room"


def test_no_more_commands_go_out_than_there_is_room() -> None:
    world = World(BOOK, rooms={"b": Room(2, ahead=0)}).begins().succeeds("a", pages=["p1", "p2", "p3", "p4"])
    assert world.new_keys == ["b.p1.1", "b.p2.1"]
    assert (world.unit("b", "p3").ahead, world.unit("b", "p4").ahead) == (0, 1)
    assert set(world.state.standing.ready) == {("b", "p3"), ("b", "p4")}
    assert world.state.standing.out == {"b": 2}


def test_a_retry_waits_for_room_like_everything() -> None:
    world = one().fails("a", "CALL_LOST")
    world.rooms = FULL
    assert world.wakes().stands() == "a ready"
    assert world.is_admitted().new_keys == ["a.2"]


def test_a_fallback_waits_for_room_like_everything() -> None:
    world = one(retry={}, fallback="cpu")
    world.rooms = FULL
    assert world.fails("a", "CALL_LOST").stands() == "a ready"
    assert world.is_admitted().commands[-1].engine == "cpu"


@pytest.mark.parametrize(
    "units",
    [
        pytest.param([("a", None)], id="a phase that runs"),
        pytest.param([("z", None)], id="a phase that is not there"),
        pytest.param([("a", "p1")], id="an item that is not there"),
        pytest.param([], id="nothing"),
    ],
)
def test_admitting_what_does_not_wait_is_ignored(units: list[Any]) -> None:
    world = one()
    assert world.is_admitted(*units).last.ignored == "no unit of these is ready, or there is no room"


def test_admitting_more_than_there_is_room_for_gives_what_there_is() -> None:
    world = World(BOOK, rooms={"b": Room(0)}).begins().succeeds("a", pages=["p1", "p2"])
    world.rooms = {"b": Room(1)}
    assert world.give(Admitted((("b", "p1"), ("b", "p2")), world.at)).new_keys == ["b.p1.1"]
    assert world.stands() == "a succeeded, b spread (p1 out, p2 ready), c spread (p1 blocked, p2 blocked), d blocked"


def test_a_job_that_waits_for_room_does_not_die_of_its_deadline_but_expires() -> None:
    world = World(pipeline(phase("a"), deadline_s=100, expires_s=250), rooms=FULL).begins()
    for seconds, deadline in ((100, 200), (200, 300)):
        world.wakes()
        assert (in_seconds(world.state.deadline), world.at) == (deadline, START + timedelta(seconds=seconds))
        assert world.told[-1] == "changed", "whoever shows the deadline is told"
    assert world.wakes().state.status is Status.DEAD
    assert in_seconds(world.state.ended_at) == 250


def test_what_waited_for_room_has_all_the_time_that_its_phase_has() -> None:
    world = World(pipeline(phase("a"), deadline_s=100), rooms=FULL).begins()
    world.at += timedelta(seconds=99)
    world.is_admitted()
    assert in_seconds(world.commands[-1].deadline, world) == 10
    assert in_seconds(world.state.deadline, world) == 100


def test_but_no_job_outlives_its_expiry() -> None:
    world = World(pipeline(phase("a"), deadline_s=100, expires_s=101), rooms=FULL).begins()
    world.at += timedelta(seconds=99)
    assert in_seconds(world.is_admitted().commands[-1].deadline, world) == 2


# -- pausing ---------------------------------------------------------------------------------------


def test_a_paused_job_gives_no_commands_until_it_is_resumed() -> None:
    world = World(TWO).begins().is_paused().succeeds("a")
    assert (world.stands(), world.keys) == ("a succeeded, b blocked", ["a.1"])
    assert world.events[-1].waiting_on == "paused by operator ada, until 2026-01-01 00:01:40 UTC at the latest"
    assert world.is_resumed().new_keys == ["b.1"]


def test_a_pause_is_told_even_while_something_runs() -> None:
    assert World(TWO).begins().is_paused().told == ["started", "changed"]


def test_a_paused_job_goes_on_by_itself_in_the_end() -> None:
    world = World(TWO).begins().is_paused(seconds=5).succeeds("a")
    assert in_seconds(world.state.wake_at) == 5
    assert world.wakes().new_keys == ["b.1"]


def test_the_clock_of_a_paused_job_stands_still() -> None:
    world = World(TWO).begins().is_paused(seconds=5000).succeeds("a")
    world.at += timedelta(seconds=3000)
    world.is_resumed()
    assert (in_seconds(world.state.deadline), in_seconds(world.state.expires_at)) == (4000, 86_400 + 3000)
    assert world.told[-1] == "changed"


def test_what_runs_in_a_paused_job_keeps_its_deadline() -> None:
    world = one().is_paused().time_passes(10)
    assert (world.stands(), world.unit("a").code) == ("a backoff", "PHASE_DEADLINE")
    assert world.time_passes(50).last.ignored == "nothing is due"
    assert world.is_resumed().new_keys == ["a.2"]


def test_a_unit_that_waits_for_room_leaves_the_line_when_its_job_is_paused() -> None:
    world = World(ONE, rooms=FULL).begins().is_paused()
    assert (world.stands(), world.state.standing.ready) == ("a blocked", {})
    assert world.is_admitted(("a", None)).last.ignored == "the job is paused"
    world.rooms = FULL
    assert world.is_resumed().stands() == "a ready"


def test_a_fallback_takes_over_after_the_pause() -> None:
    world = one(retry={}, fallback="cpu").is_paused().fails("a", "CALL_LOST")
    assert world.stands() == "a blocked"
    assert world.is_resumed().commands[-1].engine == "cpu"


def test_a_paused_job_whose_last_work_ends_is_over() -> None:
    assert one().is_paused().succeeds("a").state.status is Status.SUCCEEDED
    book = World(BOOK).begins().succeeds("a", pages=["p1"]).succeeds("b", "p1").succeeds("c", "p1")
    assert book.is_paused().succeeds("d").state.status is Status.SUCCEEDED


def test_items_that_end_in_a_paused_job_end_their_phase() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1"]).is_paused().succeeds("b", "p1")
    assert world.stands() == "a succeeded, b succeeded (p1 succeeded), c spread (p1 blocked), d blocked"


def test_pausing_twice_and_resuming_what_runs_are_ignored() -> None:
    assert one().is_paused().is_paused().last.ignored == "the job is paused already"
    assert one().is_resumed().last.ignored == "the job is not paused"


def test_a_paused_job_can_be_cancelled() -> None:
    assert one().is_paused().is_cancelled().state.status is Status.CANCELLED


# -- optional phases -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on_failure", "degraded"),
    [
        pytest.param("skip", False, id="the job goes on without"),
        pytest.param("degrade", True, id="the job goes on and counts as degraded"),
    ],
)
def test_an_optional_phase_that_cannot_be_done(on_failure: Any, degraded: bool) -> None:
    world = World(pipeline(phase("a", on_failure=on_failure, retry={}), phase("b", "a"))).begins()
    world.fails("a", "CALL_LOST")
    assert (world.stands(), world.unit("a").gave_up) == ("a skipped, b out", True)
    assert [(bury.phase, bury.code) for bury in world.buried] == [("a", "CALL_LOST")], "it can be looked at"
    assert world.succeeds("b").events[-1].degraded == degraded
    assert world.state.status is Status.SUCCEEDED


# -- items -----------------------------------------------------------------------------------------


def test_a_phase_fans_out_and_what_follows_reads_what_all_items_made() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"])
    for page in ("p1", "p2"):
        world.succeeds("b", page, words=page * 2).succeeds("c", page, artifacts=[artifact("page.png", f"c/{page}/1")])
    bind = world.commands[-1]
    assert world.keys == ["a.1", "b.p1.1", "b.p2.1", "c.p1.1", "c.p2.1", "d.1"]
    assert set(bind.inputs) == {"original", "image", "c.p1.page.png", "c.p2.page.png"}
    assert bind.parameters == {"words": {"p1": "p1p1", "p2": "p2p2"}}
    assert world.succeeds("d").state.status is Status.SUCCEEDED


def test_an_item_follows_its_mate_and_reads_what_that_one_found() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"]).succeeds("b", "p2", words="two")
    assert world.new_keys == ["c.p2.1"]
    assert world.commands[-1].parameters == {"words": "two", "page": "p2"}


def test_an_item_does_not_overtake_a_mate_whose_phase_has_not_begun() -> None:
    world = World(
        pipeline(phase("a"), phase("x"), phase("b", "a", "x", each="a.pages"), phase("c", "b", each="a.pages"))
    )
    world.begins().succeeds("a", pages=["p1"])
    assert world.stands() == "a succeeded, x out, b blocked, c blocked"
    assert world.succeeds("x").new_keys == ["b.p1.1"]


def test_an_item_reads_the_image_of_its_own_page() -> None:
    pages = [artifact("p1.png", "a/1"), artifact("p2.png", "a/1"), artifact("image.png", "a/1")]
    world = World(BOOK).begins().succeeds("a", artifacts=pages, pages=["p1", "p2", "p3"])
    assert [c.inputs["image"].key.rsplit("/")[-1] for c in world.commands[1:]] == ["p1.png", "p2.png", "image.png"]
    world.succeeds("b", "p1", image=True)
    assert world.commands[-1].inputs["image"].key.endswith("b/1/image.png")


def test_an_item_of_another_list_is_another_thing_though_it_has_the_same_name() -> None:
    fan = (phase("a"), phase("b", "a", each="a.pages"), phase("c", "b", each="a.stamps"))
    world = World(pipeline(*fan)).begins().succeeds("a", pages=["p1"], stamps=["p1"]).succeeds("b", "p1", image=True)
    assert world.commands[-1].inputs["image"] == ORIGINAL
    assert "b.p1.image.png" in world.commands[-1].inputs


@pytest.mark.parametrize(
    ("pages", "ids"),
    [
        pytest.param([{"id": "x", "w": 1}, {"id": "y"}], ["x", "y"], id="an element's own id"),
        pytest.param(["x", "y"], ["x", "y"], id="a text is its own id"),
        pytest.param([{"w": 1}, 7, None], ["1", "2", "3"], id="else its number"),
    ],
)
def test_what_an_item_is_called(pages: list[Any], ids: list[str]) -> None:
    assert list(World(BOOK).begins().succeeds("a", pages=pages).unit("b").items) == ids


def test_a_command_of_an_item_reads_its_element() -> None:
    world = World(pipeline(phase("a"), phase("b", "a", each="a.pages", parameters={"w": "item.w", "page": "item"})))
    world.begins().succeeds("a", pages=[{"id": "x", "w": 5}])
    assert world.commands[-1].parameters == {"w": 5, "page": {"id": "x", "w": 5}}


@pytest.mark.parametrize(
    ("pages", "status", "code"),
    [
        pytest.param("p1", Status.DEAD, "FACT_INVALID", id="no list"),
        pytest.param(["p1", "p1"], Status.DEAD, "FACT_INVALID", id="the same twice"),
        pytest.param([{"id": "x.y"}], Status.DEAD, "FACT_INVALID", id="an id with a dot would break keys"),
        pytest.param(["Jane Doe"], Status.DEAD, "FACT_INVALID", id="words are no id"),
        pytest.param([{"id": "2"}, 0], Status.DEAD, "FACT_INVALID", id="an id that is another's number"),
        pytest.param([0] * 501, Status.FAILED, "TOO_MANY_ITEMS", id="too many in all phases together"),
    ],
)
def test_a_list_that_cannot_be_used_ends_the_job(pages: Any, status: Status, code: str) -> None:
    world = World(BOOK if code == "FACT_INVALID" else required(BOOK)).begins().succeeds("a", pages=pages)
    if code == "FACT_INVALID":
        assert world.unit("b").gave_up, "for b it is optional"
        world = World(required(BOOK)).begins().succeeds("a", pages=pages)
    assert (world.state.status, world.events[-1].code) == (status, code)


def required(of: Pipeline) -> Pipeline:
    """The same, but that no phase may be left out."""
    return replace(of, phases=tuple(replace(one, on_failure="fail") for one in of.phases))


@pytest.mark.parametrize("pages", [pytest.param([], id="an empty list"), pytest.param(None, id="no list at all")])
def test_a_phase_without_items_is_skipped(pages: Any) -> None:
    world = World(BOOK).begins().succeeds("a", pages=pages)
    assert world.stands() == "a succeeded, b skipped, c skipped, d out"
    assert world.unit("b").gave_up is False


def test_a_fan_out_whose_condition_does_not_hold_is_skipped_as_a_whole() -> None:
    world = World(pipeline(phase("a"), phase("b", "a", each="a.pages", when="a.go"))).begins()
    assert world.succeeds("a", pages=["p1"], go=False).stands() == "a succeeded, b skipped"


def test_a_condition_on_the_item_skips_single_items_and_what_follows_them_goes_on() -> None:
    fan = (
        phase("a"),
        phase("b", "a", each="a.pages"),
        phase("c", "b", each="a.pages", when="item.scan and a.go"),
        phase("d", "c"),
    )
    pages: Any = [{"id": "p1", "scan": True}, {"id": "p2", "scan": False}]
    world = World(pipeline(*fan)).begins().succeeds("a", pages=pages, go=True).succeeds("b", "p1").succeeds("b", "p2")
    assert world.stands().endswith("c spread (p1 out, p2 skipped), d blocked")
    assert world.unit("c", "p2").gave_up is False
    assert world.succeeds("c", "p1").stands().endswith("c succeeded (p1 succeeded, p2 skipped), d out")


def test_a_fan_out_that_no_item_asks_for_is_skipped_and_costs_nothing() -> None:
    fan = (phase("a"), phase("b", "a", each="a.pages", when="not item.text"), phase("c", "b"))
    world = World(pipeline(*fan)).begins().succeeds("a", pages=[{"id": "p1", "text": True}])
    assert (world.stands(), world.new_keys) == ("a succeeded, b skipped (p1 skipped), c out", ["c.1"])


def test_a_phase_reads_what_an_earlier_one_made_by_its_name() -> None:
    world = World(pipeline(phase("a"), phase("b", "a", attachments=("a.pages.json", "a.none")))).begins()
    world.succeeds("a", artifacts=[artifact("pages.json")])
    assert set(world.commands[-1].inputs) == {"original", "image", "a.pages.json"}


def test_an_item_that_gives_up_takes_its_mates_along_and_nobody_else() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"])
    world.fails("b", "IMAGE_CORRUPT", "p1").succeeds("b", "p2").succeeds("c", "p2")
    assert world.stands() == (
        "a succeeded, b succeeded (p1 skipped, p2 succeeded), c succeeded (p1 skipped, p2 succeeded), d out"
    )
    assert (world.unit("c", "p1").code, world.unit("c").code) == ("IMAGE_CORRUPT", None)
    change = next(c for c in world.events[-1].changes if c.phase == "c" and c.item is None)
    assert (change.items.total, change.items.ended, change.items.gave_up) == (2, 2, 1)


def test_a_fan_out_of_which_nothing_came_is_skipped_with_the_reason() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1"]).fails("b", "IMAGE_CORRUPT", "p1")
    assert world.stands() == "a succeeded, b skipped (p1 skipped), c skipped (p1 skipped), d out"
    assert (world.unit("b").code, world.unit("c").code) == ("IMAGE_CORRUPT", "IMAGE_CORRUPT")


def test_an_item_that_must_not_fail_ends_the_job_and_stops_the_others() -> None:
    world = World(required(BOOK)).begins().succeeds("a", pages=["p1", "p2", "p3"]).succeeds("b", "p3")
    world.fails("b", "IMAGE_CORRUPT", "p1")
    assert (world.state.status, world.unit("b").stand, world.unit("b", "p2").stand) == (
        Status.FAILED,
        "failed",
        "cancelled",
    )
    assert [stop.key.partition(".")[2] for stop in world.stops] == ["b.p2.1", "c.p3.1"]
    assert (world.buried[-1].phase, world.buried[-1].item) == ("b", "p1")


def test_items_have_deadlines_retries_and_a_fallback_of_their_own() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"]).succeeds("b", "p2").succeeds("c", "p2")
    world.time_passes(10).wakes()
    assert world.new_keys == ["b.p1.2"]
    assert world.fails("b", "CALL_LOST", "p1").commands[-1].engine == "cpu"


def test_a_fan_out_that_asks_its_mates_waits_for_all_of_them() -> None:
    fan = (phase("a"), phase("b", "a", each="a.pages"), phase("c", "b", each="a.pages", when="b.text"))
    world = World(pipeline(*fan)).begins().succeeds("a", pages=["p1", "p2"]).succeeds("b", "p1")
    assert world.unit("c").stand == "blocked"
    assert world.succeeds("b", "p2", text="words").new_keys == ["c.p1.1", "c.p2.1"]


def test_an_item_that_is_degraded_degrades_its_phase_and_its_job() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"]).succeeds("b", "p1", image=True).succeeds("b", "p2")
    world.succeeds("c", "p1").fails("c", "IMAGE_CORRUPT", "p2")
    assert (world.unit("b").degraded, world.unit("c").degraded) == (True, True)
    assert world.succeeds("d").events[-1].degraded


def test_a_dead_letter_tells_the_attempts_of_what_it_is_about_and_one_of_a_whole_job_all() -> None:
    both = (phase("a", retry={"*": (20.0,)}), phase("b", deadline_s=50))
    world = World(pipeline(*both, deadline_s=50)).begins().fails("a", "CALL_LOST").fails("b", "OBJECT_MISSING")
    assert [name for name, _, _ in world.buried[0].tries] == ["b"]
    world = World(pipeline(*both, deadline_s=50)).begins().fails("a", "CALL_LOST").time_passes(50)
    assert [name for name, _, _ in world.buried[0].tries] == ["a"]
    assert (world.buried[0].phase, world.buried[0].command) == (None, None)


def test_an_event_about_very_many_leaves_the_words_to_the_dead_letters() -> None:
    few, many = (World(BOOK).begins().succeeds("a", pages=[0] * count) for count in (3, 60))
    for world in (few, many):
        world.time_passes(10)
        assert {c.code for c in world.events[-1].changes if c.item} == {"PHASE_DEADLINE"}
        world.is_cancelled()
    assert {bool(c.detail) for c in few.events[-1].changes if c.code} == {True}
    assert {bool(c.detail) for c in many.events[-1].changes if c.code} == {False}


def test_a_job_of_many_items_tells_each_decision_in_one_event() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2", "p3"])
    assert [(c.phase, c.item) for c in world.events[-1].changes][:3] == [("a", None), ("b", None), ("b", "p1")]
    assert world.told == ["started", "changed"]


def test_reasons_are_words() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1"]).fails("b", "CALL_LOST", "p1")
    assert world.events[-1].waiting_on == "b p1 is tried again at 2026-01-01 00:00:01 UTC after CALL_LOST (attempt 1)"
    assert re.fullmatch(r"[a-z].*[^.]", world.events[-1].waiting_on)
