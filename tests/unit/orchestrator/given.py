"""Jobs, pipelines and inputs for the machine's tests, read as given / when / then."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from contracts.artifacts import Artifact, ObjectRef
from contracts.phases import PhaseFailed, PhaseSucceeded, RunPhase
from contracts.uploads import UploadReceived
from orchestrator.machine.decide import decide
from orchestrator.machine.effects import Command, Event
from orchestrator.machine.inputs import Begin, Failed, Input, Succeeded, TimeReached
from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Pipeline
from orchestrator.pipelines import PHOTO

START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = UUID(int=1)
ORIGINAL = ObjectRef(key="uploads/x", sha256="0" * 64, size=10, media_type="image/jpeg")
LUT = ObjectRef(key="styles/x.cube", sha256="1" * 64, size=10, media_type="application/x-cube-lut")
FACE: dict[str, Any] = {"faces": [{"box": [0, 0, 1, 1]}]}
WIRE: dict[str, Any] = {"detections": [{"kind": "power_line"}]}


def upload(media_type: str = "image/jpeg", **options: JsonValue) -> UploadReceived:
    """An upload of the photo pipeline; options such as style="warm"."""
    return UploadReceived(
        upload_id=UUID(int=2),
        job_id=JOB,
        tenant="demo",
        pipeline="photo",
        original=ORIGINAL.model_copy(update={"media_type": media_type}),
        attachments={"lut": LUT} if options.get("style") else {},
        options=options,
        received_at=START,
    )


def image_of(phase: str, attempt: int) -> Artifact:
    """The image that a phase wrote."""
    key = f"jobs/{JOB}/{phase}/{attempt}/image.png"
    return Artifact(key=key, sha256="2" * 64, size=1, media_type="image/png", name="image.png")


@dataclass
class World:
    """One job and everything that was ever decided about it. `after_s` moves the clock before an input."""

    pipeline: Pipeline | None = PHOTO
    job: Job | None = None
    revision: int = 0
    at: datetime = START
    effects: list[Any] = field(default_factory=list)  # of Command | Event, loose so that tests read well
    last: Any = None  # the newest Decision

    def give(self, given: Input) -> World:
        decision = decide(self.job, self.revision + 1, self.pipeline, given)
        self.last = decision
        if not decision.ignored:
            self.revision += 1
            self.job = decision.job
            self.effects += decision.effects
        return self

    def begins(self, **options: JsonValue) -> World:
        return self.give(Begin(upload(**options), self.pipeline, self.at))  # type: ignore[arg-type]

    def succeeds(self, phase: str, attempt: int = 1, image: bool = False, **facts: JsonValue) -> World:
        outcome = PhaseSucceeded(
            job_id=JOB,
            phase=phase,
            attempt=attempt,
            artifacts=[image_of(phase, attempt)] if image else [],
            facts=facts,
            engine="test@1",
            degraded=image,
            started_at=self.at,
            ended_at=self.at,
        )
        return self.give(Succeeded(outcome, self.at))

    def fails(self, phase: str, code: str, attempt: int = 1) -> World:
        outcome = PhaseFailed(job_id=JOB, phase=phase, attempt=attempt, code=code, ended_at=self.at)
        return self.give(Failed(outcome, self.at))

    def time_passes(self, seconds: float) -> World:
        self.at += timedelta(seconds=seconds)
        return self.give(TimeReached(self.at))

    @property
    def state(self) -> Job:
        assert self.job is not None
        return self.job

    @property
    def commands(self) -> list[RunPhase]:
        return [effect.message for effect in self.effects if isinstance(effect, Command)]

    @property
    def told(self) -> list[str]:
        """The event types so far."""
        return [effect.message.TYPE for effect in self.effects if isinstance(effect, Event)]

    def statuses(self) -> dict[str, str]:
        return {name: str(phase.status) for name, phase in self.state.phases.items()}
