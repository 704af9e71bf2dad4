"""New versions of an upload: which phases run again, and which keep what the job before them made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from contracts.artifacts import ObjectRef
from contracts.jobs import Status
from orchestrator.machine.decide import Room
from orchestrator.machine.inputs import Retry
from orchestrator.machine.job import Stand
from orchestrator.machine.pipeline import ITEM, OPTIONS, Pipeline
from tests.unit.orchestrator.given import BOOK, EDIT, FACE, JOB, LUT, PHOTO, WIRE, World, phase, pipeline
from tests.unit.orchestrator.test_properties import MIXED, wander

OTHER = ObjectRef(key="styles/y.cube", sha256="3" * 64, size=10, media_type="application/x-cube-lut")
SAME = LUT.model_copy(update={"key": "styles/elsewhere.cube"})
ASKED: dict[str, Any] = {"style": "warm@1", "style_strength": 1.0, "crop": "original", "straighten": True}


def finished(world: World, **facts: Any) -> World:
    """Whatever is out succeeds, until the job has ended; `analyze` finds these facts, others make a picture."""
    while not world.state.is_over:
        for name, item, state in list(world.state.units()):
            if state.deadline:
                found = facts if name == "analyze" else {}
                world.succeeds(name, item, image=name != "analyze", **found)
    return world


def photo(**asked: Any) -> World:
    """A photo with a face and a wire, through all phases."""
    return finished(World(PHOTO).begins(**{**ASKED, **asked}), **FACE, **WIRE)


ALL = ["style", "retouch", "cleanup", "crop", "variants"]


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        pytest.param({"style": "cool@1", "attachments": {"lut": OTHER}}, ALL, id="another style"),
        pytest.param({"style": None, "attachments": {}}, ALL[1:], id="no style any more: its phase is skipped"),
        pytest.param({"style_strength": 0.5}, ALL, id="another strength"),
        pytest.param({"crop": "4:5"}, ["crop", "variants"], id="another crop"),
        pytest.param({"straighten": False}, ["crop", "variants"], id="not straightened"),
        pytest.param({"style": "warm@2", "attachments": {"lut": SAME}}, [], id="another name of the same look"),
        pytest.param({"style_name": "mine"}, [], id="what no phase reads"),
        pytest.param({}, [], id="nothing"),
    ],
)
def test_only_what_depends_on_the_change_runs_again(changed: dict[str, Any], redone: list[str]) -> None:
    world = finished(photo().edited(**changed))
    assert [key.partition(".")[0] for key in world.keys] == redone
    assert world.state.status is Status.SUCCEEDED
    kept = {name for name, state in world.state.phases.items() if state.made_by == JOB}
    skipped = {"style"} if "style" in changed and "style" not in redone and redone else set()
    assert kept == set(world.state.phases) - set(redone) - skipped


def test_what_is_read_is_what_the_job_before_made() -> None:
    world = photo().edited(crop="4:5")
    [command] = world.commands
    assert command.inputs["image"].key == f"jobs/{JOB}/cleanup/1/image.png"
    assert command.parameters["aspect"] == "4:5"
    assert command.key == f"{EDIT}.crop.1"


def test_a_style_where_there_was_none_begins_with_it() -> None:
    plain = finished(World(PHOTO).begins(**{**ASKED, "style": None}), **FACE, **WIRE)
    assert plain.unit("style").stand is Stand.SKIPPED
    assert plain.edited(style="warm@1", attachments={"lut": LUT}).keys == ["style.1"]


def test_a_parameter_of_a_phase_that_stays_skipped_changes_nothing() -> None:
    plain = finished(World(PHOTO).begins(**{**ASKED, "style": None}), **FACE, **WIRE)
    assert plain.edited(style_strength=0.5).told == ["started", "changed", "succeeded"]


def test_a_version_of_a_version_knows_who_made_what() -> None:
    second = finished(photo().edited(crop="4:5"))
    third = second.edited(straighten=False, job_id=JOB)
    assert (third.keys, third.unit("cleanup").made_by, third.state.version) == (["crop.1"], JOB, 3)
    assert third.state.edit_of == EDIT
    assert third.commands[0].parameters["aspect"] == "4:5", "it goes on from the version that it is an edit of"


def test_it_pins_the_newest_definition_and_does_again_what_is_made_in_another_way() -> None:
    crop = replace(PHOTO.phase("crop"), parameters={"aspect": "options.crop"})
    newest = replace(PHOTO, version=99, phases=tuple(crop if p.name == "crop" else p for p in PHOTO.phases))
    world = photo().edited(newest)
    assert (world.keys, world.state.pipeline_version) == (["crop.1"], 99)


def test_how_long_a_phase_may_take_is_no_reason_to_do_it_again() -> None:
    slower = tuple(replace(one, deadline_s=one.deadline_s / 2) for one in PHOTO.phases)
    assert photo().edited(replace(PHOTO, version=99, phases=slower)).keys == []


def test_items_are_taken_over_whole() -> None:
    world = World(BOOK).begins().succeeds("a", pages=["p1", "p2"])
    for name in ("b", "c"):
        for page in ("p1", "p2"):
            world.succeeds(name, page, words=page)
    again = world.succeeds("d").edited(replace(BOOK, version=2, phases=(*BOOK.phases[:3], phase("d", "c"))))
    assert again.keys == ["d.1"]
    assert again.stands().startswith("a succeeded, b succeeded (p1 succeeded, p2 succeeded), c succeeded (")


def test_what_gave_up_or_was_done_by_a_lesser_engine_stays_so_and_can_be_upgraded() -> None:
    world = photo().edited(crop="4:5")
    assert finished(world).state.degraded
    before = len(world.keys)
    world.is_retried(Retry.DEGRADED)
    assert world.keys[before:] == ["style.1"], "its first attempt under this job's own name"
    assert world.unit("style").made_by is None
    assert finished(world).keys[before:] == [f"{name}.{n}" for name, n in zip(ALL, (1, 1, 1, 2, 2), strict=True)]


def test_a_retry_of_a_version_starts_where_it_went_wrong() -> None:
    world = photo().edited(crop="4:5").fails("crop", "OBJECT_MISSING")
    assert (world.state.status, world.buried[0].artifacts != ()) == (Status.DEAD, True)
    assert world.is_retried().new_keys == ["crop.2"]


def test_what_an_operator_gave_stays_unless_the_caller_chooses_now() -> None:
    world = finished(photo().is_retried("crop", aspect="1:1", straighten=False))
    again = world.edited(crop="4:5")
    assert (again.commands[0].parameters["aspect"], again.commands[0].parameters["straighten"]) == ("4:5", False)


def test_a_job_that_has_not_ended_lends_what_it_has() -> None:
    half = World(PHOTO).begins(**ASKED).succeeds("analyze", **FACE)
    assert half.edited().keys == ["style.1"]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"upload_id": EDIT}, id="another upload"),
        pytest.param({"tenant": "somebody"}, id="another tenant"),
    ],
)
def test_of_a_stranger_nothing_is_taken_over(changed: dict[str, Any]) -> None:
    stranger = photo()
    assert stranger.job is not None
    stranger.job = structs.replace(stranger.job, **changed)
    assert stranger.edited().keys == ["analyze.1"]


def test_a_definition_that_nobody_knows_is_no_reason_to_trust_its_results() -> None:
    world = photo()
    world.pipeline = None
    assert world.edited(PHOTO).keys == ["analyze.1"]


def test_without_room_it_waits_like_any_other_job() -> None:
    world = photo().edited(rooms={"crop": Room(0)}, crop="4:5")
    assert (world.keys, world.state.status, world.unit("crop").stand) == ([], Status.QUEUED, Stand.READY)
    assert finished(world.is_admitted()).keys == ["crop.1", "variants.1"]


def test_what_it_takes_over_is_told_in_as_many_events_as_it_needs() -> None:
    many = [phase(f"p{n}") for n in range(12)]
    world = World(pipeline(*many, phase("last", *(one.name for one in many)))).begins()
    for one in many:
        world.succeeds(one.name, text="x" * 60_000)
    again = world.succeeds("last").edited(replace(world.pipeline, version=2))  # type: ignore[type-var]
    assert again.told == ["started", "changed", "changed", "changed", "succeeded"]
    assert all(len(event.model_dump_json()) < 512 * 1024 for event in again.events)


# -- whatever there was before ----------------------------------------------------------------------

READS = pipeline(
    phase("a", parameters={"x": "options.crop"}),
    phase("b", "a", when="options.style", parameters={"s": "options.style_strength"}, attachments=("lut",)),
    phase("c", "a", when="options.straighten"),
    phase("d", "b", "c"),
)
CHOICES: dict[str, st.SearchStrategy[Any]] = {
    "crop": st.sampled_from(["original", "4:5"]),
    "style": st.sampled_from([None, "warm"]),
    "style_strength": st.sampled_from([0.5, 1.0]),
    "straighten": st.booleans(),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([PHOTO, BOOK, MIXED, READS]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3)), max_size=25),
    st.fixed_dictionaries(CHOICES),
    st.fixed_dictionaries({}, optional=CHOICES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 3)), max_size=15),
)
def test_a_version_takes_over_only_what_it_would_make_the_same(
    which: Pipeline, before: list[Any], asked: dict[str, Any], changed: dict[str, Any], after: list[Any]
) -> None:
    world = wander(World(which).begins(**asked), before)
    lut = {"lut": LUT} if {**asked, **changed}["style"] else {}
    again = world.edited(attachments=lut, **changed)
    assert world.pipeline is not None
    for one in world.pipeline.phases:
        state, old = again.state.phases[one.name], world.state.phases[one.name]
        if state.made_by:
            assert old.is_done
            assert (state.artifacts, state.facts, state.status) == (old.artifacts, old.facts, old.status)
            assert all(again.state.phases[need].made_by for need in one.needs)
            read = [path.partition(".")[2] for path in one.parameters.values() if path.startswith(f"{OPTIONS}.")]
            if old.status is Status.SUCCEEDED:
                assert all(again.state.options.get(leaf) == world.state.options.get(leaf) for leaf in read)
        elif old.is_done and all(again.state.phases[need].made_by for need in one.needs):
            asks = [*one.parameters.values(), *(term.path for term in one.condition), one.each or ""]
            leaves = {path.partition(".")[2] for path in asks if path.partition(".")[0] not in (ITEM,)}
            assert leaves & set(changed) or one.attachments, f"{one.name} would have been the same"
    wander(again, after)  # the laws hold for it as for any job
