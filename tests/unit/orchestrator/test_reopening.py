"""Retries and replays: what is done again, what is kept, and with which version and parameters."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.jobs import Status
from orchestrator.machine.decide import Room
from orchestrator.machine.inputs import Retry
from orchestrator.machine.pipeline import Phase, Pipeline
from tests.unit.orchestrator.given import BOOK, START, World, artifact, in_seconds, phase, pipeline

CHAIN = pipeline(
    phase("a"),
    phase("b", "a", fallback="cpu", parameters={"strength": "options.style_strength", "faces": "a.faces"}),
    phase("c", "b", parameters={"faces": "a.faces"}),
    phase("d", "a"),
)


def again(of: Pipeline, version: int = 2, *more: Phase, **changed: Any) -> Pipeline:
    """The same pipeline in a new version; `changed` are phases by name (None: gone), `more` stand at its end."""
    kept = [changed.get(one.name, one) for one in of.phases]
    return replace(of, version=version, phases=(*(one for one in kept if one), *more))


def dead_in_c() -> World:
    """A job of which b has made an image, d is over, and c is dead."""
    world = World(CHAIN).begins(style_strength=0.5).succeeds("a", faces=[1]).succeeds("b", image=True).succeeds("d")
    return world.fails("c", "OBJECT_MISSING")


def book(*good: str, bad: str) -> World:
    """A job of pages whose phase b is dead at a page."""
    required = again(BOOK, 1, b=replace(BOOK.phase("b"), on_failure="fail", fallback=None))
    world = World(required).begins().succeeds("a", pages=[*good, bad])
    for page in good:
        world.succeeds("b", page, words=page)
    return world.fails("b", "OBJECT_MISSING", bad)


@pytest.mark.parametrize(
    ("start", "redone"),
    [
        pytest.param(None, ["c.2"], id="from what went wrong"),
        pytest.param("c", ["c.2"], id="from that phase"),
        pytest.param("b", ["b.2", "c.2"], id="from a phase before, with all that reads it"),
        pytest.param("d", ["c.2", "d.2"], id="from another phase, and what went wrong too"),
        pytest.param(Retry.START, ["a.2", "b.2", "c.2", "d.2"], id="from the start"),
    ],
)
def test_what_is_done_again(start: str | None, redone: list[str]) -> None:
    world = dead_in_c()
    before = len(world.keys)
    world.is_retried(start)
    assert (world.told[-1], world.state.status, world.state.ended_at) == ("reopened", Status.RUNNING, None)
    while not world.state.is_over:
        for name, state in world.state.phases.items():
            if state.deadline:
                world.succeeds(name)
    assert sorted(world.keys[before:]) == redone
    assert world.told[-1] == "succeeded"


def test_what_is_kept_is_read_again() -> None:
    world = dead_in_c().is_retried()
    assert world.commands[-1].inputs["image"].key.endswith("b/1/image.png")
    assert world.commands[-1].parameters == {"faces": [1]}


def test_a_job_that_begins_again_has_all_its_time() -> None:
    world = dead_in_c()
    world.at = START + timedelta(days=9)
    world.is_retried()
    assert in_seconds(world.state.deadline, world) == 1000
    assert in_seconds(world.state.expires_at, world) == 86_400
    assert world.state.created_at == START


def test_attempts_go_on_counting_so_that_no_key_is_used_twice() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"]).fails("b", "CALL_LOST", "p1").wakes()
    world.is_cancelled().is_retried(Retry.START).succeeds("a", pages=["p1", "p3"])
    assert world.new_keys == ["b.p1.3", "b.p3.3"], "items that were there before had up to two"


def test_the_late_outcome_of_the_round_before_is_ignored() -> None:
    world = World(CHAIN).begins().is_cancelled().is_retried()
    assert world.succeeds("a", attempt=1).last.ignored == "attempt 1 is not out, 2 is"


def test_a_retry_gives_all_attempts_anew_and_the_better_engine_first() -> None:
    world = World(CHAIN).begins().succeeds("a")
    for _ in range(4):
        world.fails("b", "CALL_LOST").time_passes(1)
    world.is_retried()
    assert (world.new_keys, world.commands[-2].engine) == (["b.5", "d.2"], None)
    assert world.unit("b").failures == 0
    assert len(world.unit("b").tries) == 4, "a second dead letter tells of them too"


def test_a_retry_waits_for_room() -> None:
    world = World(CHAIN, rooms={"a": Room(0)}).begins().is_cancelled().is_retried()
    assert (world.stands(), world.state.status) == ("a ready, b blocked, c blocked, d blocked", Status.QUEUED)


@pytest.mark.parametrize(
    ("world", "start", "why"),
    [
        pytest.param(World(CHAIN).begins(), None, "the job is running", id="a job that runs"),
        pytest.param(dead_in_c(), "z", "the pipeline has no phase z", id="from a phase that is not there"),
        pytest.param(World(pipeline(phase("a"))).begins().succeeds("a"), None, "nothing to do again", id="all is well"),
    ],
)
def test_a_retry_that_makes_no_sense_is_ignored(world: World, start: str | None, why: str) -> None:
    assert why in world.is_retried(start).last.ignored


def test_a_job_of_another_pipeline_is_left_alone() -> None:
    other = replace(CHAIN, name="other")
    assert dead_in_c().is_retried(newest=other).last.ignored == "the job is one of pipeline small"


def test_an_upload_that_the_pipeline_does_not_take_stays_refused() -> None:
    world = World(CHAIN).begins(media_type="image/png")
    assert world.is_retried().last.ignored == "small does not take image/png"
    takes = replace(CHAIN, version=2, accepts=("image/png",))
    assert world.is_retried(newest=takes).new_keys == ["a.1"]


def test_a_job_whose_pipeline_was_unknown_begins_when_there_is_one() -> None:
    world = World(pipeline=None).begins(pipeline="small")
    assert world.is_retried(newest=CHAIN).new_keys == ["a.1"]
    assert world.state.pipeline_version == 1


def test_a_succeeded_job_does_again_what_it_could_do_without() -> None:
    world = World(pipeline(phase("a", on_failure="degrade", retry={}), phase("b", "a"))).begins()
    world.fails("a", "CALL_LOST").succeeds("b")
    assert world.state.degraded
    assert world.is_retried().new_keys == ["a.2"]
    assert world.succeeds("a").succeeds("b").events[-1].degraded is False


def test_a_job_that_can_end_at_once_again_is_told_to_have_begun_and_ended() -> None:
    world = World(pipeline(phase("a"), phase("b", "a", each="a.pages"))).begins().succeeds("a", pages="none")
    assert world.is_retried().told[-2:] == ["reopened", "dead"]


# -- items -----------------------------------------------------------------------------------------


def test_only_the_items_that_went_wrong_are_done_again() -> None:
    world = book("p1", "p2", bad="p3")
    assert world.stands().startswith("a succeeded, b dead (p1 succeeded, p2 succeeded, p3 dead), c cancelled")
    world.is_retried()
    assert world.new_keys == ["b.p3.2", "c.p1.2", "c.p2.2"]
    assert world.unit("b").stand == "spread"
    world.succeeds("b", "p3", words="p3")
    assert world.commands[-1].parameters == {"words": "p3", "page": "p3"}


def test_what_read_an_item_that_is_done_again_is_done_again() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"])
    world.succeeds("b", "p1").succeeds("c", "p1").fails("b", "IMAGE_CORRUPT", "p2").succeeds("d")
    assert world.state.status is Status.SUCCEEDED
    world.is_retried()
    assert world.stands() == (
        "a succeeded, b spread (p1 succeeded, p2 out), c spread (p1 succeeded, p2 blocked), d blocked"
    )
    world.succeeds("b", "p2").succeeds("c", "p2").succeeds("d")
    assert world.keys[-3:] == ["b.p2.2", "c.p2.1", "d.2"]


def test_from_a_phase_that_fans_out_all_its_items_are_done_again() -> None:
    world = book("p1", bad="p2").is_retried("b")
    assert world.new_keys == ["b.p1.2", "b.p2.2"]
    assert world.stands() == "a succeeded, b spread (p1 out, p2 out), c spread (p1 blocked, p2 blocked), d blocked"


def test_items_are_not_kept_when_what_makes_them_is_done_again() -> None:
    world = book("p1", bad="p2").is_retried("a").succeeds("a", pages=["p2", "p9"])
    assert world.new_keys == ["b.p2.2", "b.p9.2"]


def test_a_fan_in_between_two_fan_outs_makes_the_second_begin_anew() -> None:
    fan = pipeline(
        phase("a"),
        phase("b", "a", each="a.pages", on_failure="skip", retry={}),
        phase("m", "b"),
        phase("c", "m", each="a.pages"),
    )
    world = World(fan).begins().succeeds("a", pages=["p1", "p2"]).succeeds("b", "p1").fails("b", "CALL_LOST", "p2")
    world.succeeds("m").succeeds("c", "p1").succeeds("c", "p2").is_retried()
    assert world.stands() == "a succeeded, b spread (p1 succeeded, p2 out), m blocked, c blocked"


# -- lesser engines ---------------------------------------------------------------------------------


def test_what_a_lesser_engine_did_is_done_again_and_any_engine_may_do_it() -> None:
    world = World(pipeline(phase("a"), phase("b", "a", fallback="cpu", retry={}), phase("c", "b"))).begins()
    world.succeeds("a").fails("b", "CALL_LOST").succeeds("b").succeeds("c")
    assert (world.state.status, world.state.degraded, world.unit("b").engine_only) == (Status.SUCCEEDED, True, "cpu")
    world.is_retried(Retry.DEGRADED)
    assert (world.new_keys, world.commands[-1].engine) == (["b.3"], None)
    world.succeeds("b").succeeds("c")
    assert (world.told[-1], world.state.degraded, world.keys[-1]) == ("succeeded", False, "c.2")


@pytest.mark.parametrize("trouble", ["is_deferred", "CALL_LOST", "CALL_START_DEADLINE", "NO_PROVIDER"])
def test_without_a_gpu_it_ends_degraded_once_more_and_no_worse(trouble: str) -> None:
    def meets_trouble() -> None:
        while world.commands[-1].engine is None:
            if trouble == "is_deferred":
                world.is_deferred("a")
            else:
                world.fails("a", trouble)
            if world.unit("a").retry_at is not None:
                world.wakes()

    world = World(pipeline(phase("a", fallback="cpu", unavailable="fallback"), phase("b", "a"))).begins()
    meets_trouble()
    world.succeeds("a").succeeds("b").is_retried(Retry.DEGRADED)
    assert world.commands[-1].engine is None
    meets_trouble()
    world.succeeds("a").succeeds("b")
    assert (world.state.status, world.state.degraded, world.buried) == (Status.SUCCEEDED, True, [])


def test_every_branch_that_a_lesser_engine_did_is_done_again() -> None:
    world = World(pipeline(phase("a"), phase("b", "a"), phase("c", "a"), phase("d", "a"))).begins().succeeds("a")
    world.succeeds("b", image=True).succeeds("c").succeeds("d", image=True)  # World calls what makes an image degraded
    assert world.is_retried(Retry.DEGRADED).new_keys == ["b.2", "d.2"]


def test_a_phase_that_has_an_item_of_a_lesser_engine_does_all_its_items_again() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"])
    world.succeeds("b", "p1").succeeds("b", "p2", image=True)
    world.succeeds("c", "p1").succeeds("c", "p2").succeeds("d")
    assert world.is_retried(Retry.DEGRADED).new_keys == ["b.p1.2", "b.p2.2"]


def test_a_phase_that_could_be_done_without_has_no_result_to_make_better() -> None:
    world = World(pipeline(phase("a", on_failure="degrade", retry={}), phase("b", "a"))).begins()
    world.fails("a", "CALL_LOST").succeeds("b")
    assert world.state.degraded
    assert world.is_retried(Retry.DEGRADED).last.ignored == "there is nothing to do again"


# -- force -----------------------------------------------------------------------------------------


def test_force_is_in_the_commands_of_what_is_done_again_until_it_is_done() -> None:
    world = dead_in_c().is_retried("b", force=True)
    assert [c.phase for c in world.commands if c.force] == ["b"]
    world.fails("b", "CALL_LOST").wakes()
    assert (world.keys[-1], world.commands[-1].force) == ("b.3", True), "nobody knows whether the first was heard"
    assert world.succeeds("b").commands[-1].force
    world.succeeds("c").is_retried("b")
    assert not world.commands[-1].force


def test_force_reaches_items() -> None:
    world = book("p1", bad="p2")
    assert [c.force for c in world.is_retried(force=True).commands[-2:]] == [True, True], "p2 in b, and p1 in c"
    world = book("p1", bad="p2").is_retried("a", force=True).succeeds("a", pages=["p1"])
    assert world.commands[-1].force


# -- parameters ------------------------------------------------------------------------------------


def test_edited_parameters_replace_those_of_the_phase_that_it_starts_from() -> None:
    world = dead_in_c().is_retried("b", strength=0.1)
    assert world.commands[-1].parameters == {"strength": 0.1, "faces": [1]}
    assert world.succeeds("b").commands[-1].parameters == {"faces": [1]}


def test_edited_parameters_stay_for_later_retries_until_one_begins_from_the_start() -> None:
    world = dead_in_c().is_retried("b", strength=0.1).fails("b", "OBJECT_MISSING").fails("b", "OBJECT_MISSING")
    assert world.is_retried().commands[-1].parameters == {"strength": 0.1, "faces": [1]}
    world.is_cancelled().is_retried(Retry.START).succeeds("a", faces=[2])
    assert world.commands[-2].parameters == {"strength": 0.5, "faces": [2]}


def test_from_the_start_every_phase_takes_its_edited_parameters() -> None:
    world = dead_in_c().is_retried(Retry.START, faces=[7]).succeeds("a", faces=[1]).succeeds("b")
    assert [c.parameters.get("faces") for c in world.commands[-3:]] == [[7], None, [7]]


def test_a_parameter_that_is_edited_to_nothing_is_left_out() -> None:
    assert dead_in_c().is_retried("b", strength=None).commands[-1].parameters == {"faces": [1]}


def test_edited_parameters_reach_every_item() -> None:
    world = World(again(BOOK, 1, c=replace(BOOK.phase("c"), on_failure="fail"))).begins()
    world.succeeds("a", pages=["p1", "p2"]).succeeds("b", "p1").succeeds("b", "p2").fails("c", "OBJECT_MISSING", "p1")
    world.is_retried("c", words="mine")
    assert [c.parameters["words"] for c in world.commands[-2:]] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("start", "parameters", "why"),
    [
        pytest.param(
            "b", {"nonsense": 1}, "no phase that it starts from takes a parameter nonsense", id="a strange name"
        ),
        pytest.param(
            "c", {"strength": 1}, "no phase that it starts from takes a parameter strength", id="of a phase before"
        ),
        pytest.param("b", {"strength": "x" * 70_000}, "the parameters have more than 65536 bytes", id="too much"),
    ],
)
def test_parameters_that_nobody_takes_are_refused(start: str, parameters: dict[str, Any], why: str) -> None:
    assert dead_in_c().is_retried(start, **parameters).last.ignored == why


# -- versions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "redone"),
    [
        pytest.param(again(CHAIN), ["c.2"], id="the same in all that makes results"),
        pytest.param(
            again(CHAIN, b=replace(CHAIN.phase("b"), deadline_s=20, retry={})), ["c.2"], id="with other deadlines"
        ),
        pytest.param(
            again(CHAIN, b=replace(CHAIN.phase("b"), parameters={})), ["b.2", "c.2"], id="with a phase defined anew"
        ),
        pytest.param(again(CHAIN, 2, phase("e", "a")), ["c.2", "e.1"], id="with a new phase"),
        pytest.param(again(CHAIN, c=None), [], id="without the phase that went wrong"),
        pytest.param(
            again(CHAIN, c=replace(CHAIN.phase("c"), when="options.style")), [], id="which has no need of it any more"
        ),
    ],
)
def test_a_replay_on_the_newest_version(newest: Pipeline, redone: list[str]) -> None:
    world = dead_in_c()
    before = len(world.keys)
    world.is_retried(newest=newest)
    if world.last.ignored:
        assert world.last.ignored == "there is nothing to do again"
        return
    assert world.state.pipeline_version == 2
    while not world.state.is_over:
        for name, state in world.state.phases.items():
            if state.deadline:
                world.succeeds(name)
    assert sorted(world.keys[before:]) == redone


def test_a_phase_that_comes_back_in_a_later_version_uses_no_key_twice() -> None:
    world = dead_in_c().is_retried(newest=again(CHAIN, 2, phase("e", "a"), c=None)).fails("e", "OBJECT_MISSING")
    assert list(world.state.phases) == ["a", "b", "d", "e"]
    assert world.state.spent == {"c": 1}
    world.is_retried(newest=again(CHAIN, 3))
    assert (world.new_keys, world.state.spent) == (["c.2"], {"e": 1})


def test_a_phase_that_was_gone_for_two_versions_uses_no_key_twice() -> None:
    world = dead_in_c().is_retried(newest=again(CHAIN, 2, phase("e", "a"), c=None)).fails("e", "OBJECT_MISSING")
    world.is_retried(newest=again(CHAIN, 3, phase("f", "a"), c=None)).fails("f", "OBJECT_MISSING")
    assert world.state.spent == {"c": 1, "e": 1}
    assert world.is_retried(newest=again(CHAIN, 4)).new_keys == ["c.2"]


def test_items_of_a_phase_that_is_defined_anew_are_all_done_again() -> None:
    world = book("p1", bad="p2")
    assert world.pipeline is not None
    changed = replace(world.pipeline.phase("b"), command="style")
    assert world.is_retried(newest=again(world.pipeline, b=changed)).new_keys == ["b.p1.2", "b.p2.2"]


def test_a_job_whose_pinned_definition_nobody_has_does_everything_again() -> None:
    world = World(CHAIN).begins().succeeds("a")
    world.pipeline = None
    world.time_passes(1).is_retried(newest=again(CHAIN))
    assert world.new_keys == ["a.2"]


def test_kept_artifacts_stay_with_their_phase() -> None:
    world = World(CHAIN).begins().succeeds("a", artifacts=[artifact("list.json")]).fails("d", "OBJECT_MISSING")
    assert [name for name, _ in world.buried[0].artifacts] == ["a"]
    assert len(world.is_retried().unit("a").artifacts) == 1


def test_sensitive_work_is_so_in_its_retry_its_fallback_its_upgrade_and_its_replay() -> None:
    world = World(replace(CHAIN, sensitive=True)).begins().succeeds("a", faces=[1]).succeeds("d")
    world.fails("b", "CALL_LOST").wakes().fails("b", "CALL_LOST").succeeds("b", image=True)
    world.fails("c", "OBJECT_MISSING").is_retried().succeeds("c").is_retried(Retry.DEGRADED)
    assert world.keys == ["a.1", "b.1", "d.1", "b.2", "b.3", "c.1", "c.2", "b.4"]
    assert all(command.sensitive for command in world.commands)
