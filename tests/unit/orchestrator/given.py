"""Jobs, pipelines and inputs for the machine's tests, read as given / when / then.

A `World` is one job and everything that was ever decided about it. After every decision it checks
what must hold of any job at any moment (`laws`), so each test that uses it is a test of them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from contracts.artifacts import Artifact, ObjectRef
from contracts.phases import PhaseDeferred, PhaseFailed, PhaseProgressed, PhaseSucceeded, RunPhase, StopPhase
from contracts.uploads import UploadReceived
from orchestrator.machine.decide import Room, decide
from orchestrator.machine.effects import Bury, Command, Event, Stop
from orchestrator.machine.inputs import (
    Admitted,
    Base,
    Begin,
    Cancel,
    Deferred,
    Failed,
    Input,
    Pause,
    Progressed,
    Resume,
    Retry,
    Succeeded,
    TimeReached,
)
from orchestrator.machine.job import Job, PhaseState, Unit
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.pipelines import BUILT_IN, load
from tests.unit.orchestrator.laws import Witness

PHOTO = load(BUILT_IN / "photo.yaml")
START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = UUID(int=1)
EDIT = UUID(int=9)
BATCH = UUID(int=3)
ORIGINAL = ObjectRef(key="uploads/x", sha256="0" * 64, size=10, media_type="image/jpeg")
LUT = ObjectRef(key="styles/x.cube", sha256="1" * 64, size=10, media_type="application/x-cube-lut")
FACE: dict[str, Any] = {"faces": [{"box": [0, 0, 1, 1]}]}
WIRE: dict[str, Any] = {"detections": [{"kind": "power_line"}]}
FULL: Mapping[str, Room] = {name: Room(0, ahead=2) for name in "abcdefg"}
JPEG = ("image/jpeg",)


def pipeline(*phases: Phase, name: str = "small", version: int = 1, **fields: Any) -> Pipeline:
    """A small pipeline: a row of a test's table."""
    about: dict[str, Any] = {"accepts": JPEG, "deadline_s": 1000.0, **fields}
    return Pipeline(name, version, phases=phases, **about)


def phase(name: str, *needs: str, **fields: Any) -> Phase:
    """A phase of a small pipeline, with 10 seconds and one retry after one second."""
    about: dict[str, Any] = {"command": "noop", "deadline_s": 10.0, "retry": {"*": (1.0,)}, **fields}
    return Phase(name, needs=needs, **about)


# Pages: `b` and `c` follow each other page by page, `d` binds what came out; `a` can be skipped by nobody.
BOOK = pipeline(
    phase("a"),
    phase("b", "a", each="a.pages", on_failure="skip", fallback="cpu", stall_s=8.0),
    phase("c", "b", each="a.pages", on_failure="degrade", parameters={"words": "b.words", "page": "item"}),
    phase("d", "c", parameters={"words": "b.words"}),
)


def upload(media_type: str = "image/jpeg", pipeline: str = "photo", **fields: Any) -> UploadReceived:
    """An upload; fields of the message, or options such as style="warm"."""
    options = {key: value for key, value in fields.items() if key not in UploadReceived.model_fields}
    return UploadReceived(
        upload_id=UUID(int=2),
        job_id=fields.pop("job_id", JOB),
        tenant=fields.pop("tenant", "demo"),
        pipeline=pipeline,
        original=ORIGINAL.model_copy(update={"media_type": media_type}),
        attachments=fields.pop("attachments", {"lut": LUT} if options.get("style") else {}),
        options=options,
        received_at=START,
        **{key: value for key, value in fields.items() if key in UploadReceived.model_fields},
    )


def artifact(name: str = "image.png", of: str = "phase/1") -> Artifact:
    """Something that an attempt wrote."""
    key = f"jobs/{JOB}/{of}/{name}"
    return Artifact(key=key, sha256="2" * 64, size=1, media_type="image/png", name=name)


@dataclass
class World:
    """One job and everything that was ever decided about it. `rooms` is how much room the next input finds."""

    pipeline: Pipeline | None = PHOTO
    rooms: Mapping[str, Room] = field(default_factory=dict)
    job: Job | None = None
    revision: int = 0
    at: datetime = START
    effects: list[Any] = field(default_factory=list)  # loose, so that tests read well
    newest: list[Any] = field(default_factory=list)  # the effects of the newest decision that changed something
    last: Any = None  # the newest Decision
    witness: Witness = field(default_factory=Witness)

    def give(self, given: Input) -> World:
        decision = decide(self.job, self.revision + 1, self.pipeline, given, self.rooms)
        self.witness.saw(self.job, self.revision + 1, self.pipeline, given, self.rooms, decision)
        self.last = decision
        if not decision.ignored:
            self.revision += 1
            self.job = decision.job
            self.newest = list(decision.effects)
            self.effects += decision.effects
            if isinstance(given, Retry):
                self.pipeline = given.pipeline
        return self

    # -- when -----------------------------------------------------------------------------------

    def begins(self, **fields: Any) -> World:
        name = self.pipeline.name if self.pipeline else "no-such"
        return self.give(Begin(upload(**{"pipeline": name} | fields), self.pipeline, self.at))

    def edited(self, newest: Pipeline | None = None, rooms: Mapping[str, Room] | None = None, **fields: Any) -> World:
        """Another version of the upload begins: a world of its own, asked for the same but for `fields`."""
        pipeline = newest or self.pipeline
        options = {**self.state.options, **{k: v for k, v in fields.items() if k not in UploadReceived.model_fields}}
        asked = {"attachments": self.state.attachments, "edit_of": self.state.id, "version": self.state.version + 1}
        about = {k: v for k, v in fields.items() if k in UploadReceived.model_fields}
        world = World(pipeline, rooms or {}, at=self.at)
        arrived = upload(**{"pipeline": self.state.pipeline, "job_id": EDIT, **options, **asked, **about})
        return world.give(Begin(arrived, pipeline, self.at, base=Base(self.state, self.pipeline)))

    def succeeds(
        self,
        phase: str,
        item: str | None = None,
        attempt: int | None = None,
        image: bool = False,
        artifacts: Sequence[Artifact] = (),
        **facts: JsonValue,
    ) -> World:
        about = self._about(phase, item, attempt)
        made = [*artifacts, *([artifact(of=f"{phase}/{about['attempt']}")] if image else [])]
        times = {"started_at": self.at, "ended_at": self.at}
        outcome = PhaseSucceeded(**about, artifacts=made, facts=facts, engine="test@1", degraded=image, **times)
        return self.give(Succeeded(outcome, self.at))

    def fails(self, phase: str, code: str, item: str | None = None, attempt: int | None = None, **more: Any) -> World:
        outcome = PhaseFailed(**self._about(phase, item, attempt), code=code, ended_at=self.at, **more)
        return self.give(Failed(outcome, self.at))

    def is_deferred(
        self, phase: str, seconds: float = 60, code: str = "PROVIDER_RATE_LIMITED", item: str | None = None
    ) -> World:
        about = self._about(phase, item, None)
        until = self.at + timedelta(seconds=seconds)
        outcome = PhaseDeferred(**about, provider="modal", code=code, until=until, at=self.at)
        return self.give(Deferred(outcome, self.at))

    def progresses(self, phase: str, item: str | None = None, fraction: float = 0.5) -> World:
        outcome = PhaseProgressed(**self._about(phase, item, None), fraction=fraction, at=self.at)
        return self.give(Progressed(outcome, self.at))

    def time_passes(self, seconds: float) -> World:
        self.at += timedelta(seconds=seconds)
        return self.give(TimeReached(self.at))

    def wakes(self) -> World:
        """Time goes on to the moment that the job asked to be woken at."""
        assert self.state.wake_at is not None
        self.at = max(self.at, self.state.wake_at)
        return self.give(TimeReached(self.at))

    def is_admitted(self, *units: Unit) -> World:
        """There is room again, for these units or for all that wait."""
        self.rooms = {}
        return self.give(Admitted(units or tuple(self.state.standing.ready), self.at))

    def is_cancelled(self) -> World:
        return self.give(Cancel(self.at))

    def is_paused(self, seconds: float = 100, by: str = "operator ada") -> World:
        return self.give(Pause(by, self.at + timedelta(seconds=seconds), self.at))

    def is_resumed(self) -> World:
        return self.give(Resume(self.at))

    def is_retried(
        self, from_phase: str | None = None, newest: Pipeline | None = None, *, force: bool = False, **parameters: Any
    ) -> World:
        pipeline = newest or self.pipeline
        assert pipeline is not None
        return self.give(Retry(from_phase, pipeline, self.at, parameters, force))

    def _about(self, phase: str, item: str | None, attempt: int | None) -> dict[str, Any]:
        """The attempt that is out, unless another is named."""
        if attempt is None:
            state = self.job.phases.get(phase) if self.job else None
            state = state.items.get(item) if state and item else state
            attempt = max(1, state.attempt) if state else 1
        job_id = self.job.id if self.job else JOB
        return {"job_id": job_id, "phase": phase, "item": item, "attempt": attempt}

    # -- then -----------------------------------------------------------------------------------

    @property
    def state(self) -> Job:
        assert self.job is not None
        return self.job

    def unit(self, phase: str, item: str | None = None) -> PhaseState:
        state = self.state.phases[phase]
        return state.items[item] if item else state

    def stands(self) -> str:
        """All phases with their items in a line, such as "a succeeded, b spread (1 out, 2 ready), c blocked"."""
        told = []
        for name, state in self.state.phases.items():
            items = ", ".join(f"{id_} {unit.stand}" for id_, unit in state.items.items())
            told.append(f"{name} {state.stand} ({items})" if items else f"{name} {state.stand}")
        return ", ".join(told)

    @property
    def commands(self) -> list[RunPhase]:
        return [effect.message for effect in self.effects if isinstance(effect, Command)]

    @property
    def keys(self) -> list[str]:
        """The commands so far without their job: "a.1", "b.p1.1"."""
        return [command.key.partition(".")[2] for command in self.commands]

    @property
    def new_keys(self) -> list[str]:
        """Those of the newest decision."""
        return [e.message.key.partition(".")[2] for e in self.newest if isinstance(e, Command)]

    @property
    def stops(self) -> list[StopPhase]:
        return [effect.message for effect in self.effects if isinstance(effect, Stop)]

    @property
    def buried(self) -> list[Bury]:
        return [effect for effect in self.effects if isinstance(effect, Bury)]

    @property
    def told(self) -> list[str]:
        """The event types so far, without their family."""
        return [event.TYPE.removeprefix("job.v1.") for event in self.events]

    @property
    def events(self) -> list[Any]:
        return [effect.message for effect in self.effects if isinstance(effect, Event)]


def in_seconds(at: datetime | None, world: World | None = None) -> float | None:
    """A moment as seconds after the start, or after now in a world."""
    return None if at is None else (at - (world.at if world else START)).total_seconds()
