"""No message of a job is too large for the broker, and a job of many items stays bearable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from contracts.artifacts import Artifact
from contracts.documents import PAGES_MAX, Reason, Sheet, sheet_id
from contracts.errors import ERRORS
from contracts.jobs import PhaseChange, Status
from contracts.phases import PhaseSucceeded
from contracts.topology import BODY_BYTES_MAX
from orchestrator.machine.decide import RESULT_BYTES_MAX, decide
from orchestrator.machine.effects import Command, Event, Stop
from orchestrator.machine.following import ITEMS_MAX
from orchestrator.machine.inputs import Begin, Cancel, Input, Retry, Succeeded, TimeReached
from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Pipeline
from orchestrator.machine.soundness import PHASES_MAX
from orchestrator.pipelines import BUILT_IN, load
from tests.unit.orchestrator.given import JOB, START, World, artifact, phase, pipeline, upload

CHANGE_BYTES_MAX = 430  # see machine/telling.py
LONG = "p" * 31
KEY = "00000000-0000-4000-8000-000000000000"  # of what is sealed
IDS = [f"{n:060d}" for n in range(ITEMS_MAX)]  # as many and as long as one phase may find out


def test_the_longest_change_without_words_and_results_has_the_bytes_that_the_limit_counts_on() -> None:
    moment = datetime(2026, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    change = PhaseChange(
        phase="p" * 32,
        item="i" * 64,
        status=max(Status, key=len),
        attempt=9999,
        retry_at=moment,  # a deadline, a retry and an end exclude each other
        code=max(ERRORS, key=len),
        started_at=moment,
    )
    assert len(change.model_dump_json()) <= CHANGE_BYTES_MAX
    assert (ITEMS_MAX + PHASES_MAX) * CHANGE_BYTES_MAX + RESULT_BYTES_MAX < BODY_BYTES_MAX - 4096


class Largest:
    """A job of 1,000 items with the longest names, and the largest message of each kind that it has caused."""

    def __init__(self, of: Pipeline) -> None:
        self.pipeline, self.at, self.revision = of, START, 0
        self.job: Job | None = None
        self.bytes: dict[str, int] = {}
        self.give(Begin(upload(pipeline=of.name), of, START))

    def give(self, given: Input) -> None:
        decision = decide(self.job, self.revision, self.pipeline, given)
        assert decision.ignored is None, decision.ignored
        self.job, self.revision = decision.job, self.revision + 1
        for effect in decision.effects:
            if isinstance(effect, Command | Stop | Event):
                message = effect.message
                self.bytes[message.TYPE] = max(self.bytes.get(message.TYPE, 0), len(message.model_dump_json()))

    def passes(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)
        self.give(TimeReached(self.at))


def test_a_job_of_as_many_items_as_may_be_sends_no_message_that_is_too_large() -> None:
    a, b, rest = f"{LONG}a", f"{LONG}b", [f"{LONG[:29]}{n:03d}" for n in range(PHASES_MAX - 2)]
    largest = Largest(
        pipeline(
            phase(a, retry={"*": (1.0, 1.0)}),
            phase(b, a, each=f"{a}.pages", retry={"*": (1.0,) * 4}),
            *(phase(name, b) for name in rest),
        )
    )
    about: dict[str, Any] = {"job_id": JOB, "phase": a, "attempt": 1, "started_at": START, "ended_at": START}
    outcome = PhaseSucceeded(**about, facts={"pages": IDS}, engine="e" * 100)
    assert RESULT_BYTES_MAX * 0.9 < len(outcome.model_dump_json()) <= RESULT_BYTES_MAX
    largest.give(Succeeded(outcome, START))
    largest.passes(10)  # every item runs out of time
    largest.passes(1)  # and is tried again
    largest.give(Cancel(largest.at))
    largest.give(Retry(None, largest.pipeline, largest.at))
    largest.give(Cancel(largest.at))
    assert set(largest.bytes) == {
        "phase.v1.run",
        "phase.v1.stop",
        "job.v1.started",
        "job.v1.changed",
        "job.v1.cancelled",
        "job.v1.reopened",
    }
    assert max(largest.bytes.values()) < BODY_BYTES_MAX


def of_many_artifacts(*, optional: bool = False) -> World:
    """A job whose last phase would have to read 1,000 artifacts with names of hundreds of letters."""
    last = phase("d", "b", on_failure="skip" if optional else "fail")
    world = World(pipeline(phase("a"), phase("b", "a", each="a.pages"), last)).begins().succeeds("a", pages=[0] * 25)
    for n in range(25):
        world.succeeds("b", str(n + 1), artifacts=[artifact(f"{k}.png", of="k" * 430) for k in range(40)])
    return world


def test_a_command_that_would_be_too_large_is_not_given() -> None:
    world = of_many_artifacts()
    assert (world.state.status, world.events[-1].code, world.events[-1].phase) == (Status.FAILED, "TOO_MANY_ITEMS", "d")
    assert "its command would have" in world.events[-1].detail
    assert world.buried[-1].command is None


def test_what_cannot_be_commanded_may_be_left_out_if_it_is_optional() -> None:
    world = of_many_artifacts(optional=True)
    assert (world.state.status, world.unit("d").gave_up) == (Status.SUCCEEDED, True)


def test_a_job_grows_by_a_few_hundred_bytes_per_item() -> None:
    world = World(pipeline(phase("a"), phase("b", "a", each="a.pages"))).begins()
    sizes = [size(world)]
    world.succeeds("a", pages=[f"p{n}" for n in range(40)])
    sizes.append(size(world))
    for n in range(40):
        world.succeeds("b", f"p{n}", image=True)
    sizes.append(size(world))
    assert (sizes[1] - sizes[0]) / 40 < 150
    assert (sizes[2] - sizes[0]) / 40 < 450


def size(world: World) -> int:
    return len(msgspec.json.encode(world.state, enc_hook=lambda model: model.__dict__))


def sealed_at(key: str, name: str) -> Artifact:
    return Artifact(key=key, name=name, sha256="0" * 64, size=9_999_999, media_type="application/json", sealed=KEY)


def test_a_document_of_as_many_pages_as_may_be_fits_into_its_commands() -> None:
    some = 20  # a command grows by the same for each page
    ids = [sheet_id(n) for n in range(1, some + 1)]
    pages: Any = [Sheet(id=id_, number=n, ocr=True, why=Reason.NO_TEXT).model_dump() for n, id_ in enumerate(ids, 1)]
    world = World(load(BUILT_IN / "document.yaml")).begins(media_type="application/pdf")
    world.succeeds("inspect", pages=pages)
    made = {"rasterize": ("image.jpg",), "ocr": ("ocr.json", "page.md")}
    for name, files in made.items():
        place = f"calls/{'t' * 32}/{'0' * 64}/1" if name == "ocr" else f"jobs/{JOB}/rasterize/p500/1"
        for id_ in ids:
            world.succeeds(name, id_, artifacts=[sealed_at(f"{place}/{file}", file) for file in files])
    world.succeeds("assemble", artifacts=[artifact("document.json")])
    sent = {command.phase: len(command.model_dump_json()) for command in world.commands}
    assert world.stands().endswith("deliver out")
    assert 0.7 * BODY_BYTES_MAX < sent["assemble"] * PAGES_MAX / some < BODY_BYTES_MAX - 4096
