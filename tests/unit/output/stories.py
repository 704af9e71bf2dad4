"""Jobs as they are recorded: the events that ingest and the orchestrator's own machine tell of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from contracts.artifacts import Artifact, ObjectRef
from contracts.phases import PHASE_PROGRESSED, PhaseFailed, PhaseProgressed, PhaseSucceeded
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from orchestrator.machine.decide import decide
from orchestrator.machine.effects import Event
from orchestrator.machine.inputs import (
    Begin,
    Cancel,
    Failed,
    Input,
    Pause,
    Resume,
    Retry,
    Succeeded,
    TimeReached,
)
from orchestrator.machine.job import Job
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.pipelines import BUILT_IN, load
from runtime.outbox import Outgoing, outgoing

START = datetime(2026, 1, 1, tzinfo=UTC)
PHOTO = load(BUILT_IN / "photo.yaml")
ALBUM = Pipeline(
    name="album",
    version=1,
    accepts=("image/jpeg",),
    deadline_s=3600,
    phases=(
        Phase("analyze", "analyze", deadline_s=60),
        Phase("pages", "style", deadline_s=60, each="analyze.pages", needs=("analyze",), on_failure="skip"),
        Phase("bind", "crop", deadline_s=60, needs=("pages",), retry={"*": (5.0,)}),
    ),
)


@dataclass
class Story:
    """The events of one job, in order."""

    job_id: UUID = field(default_factory=uuid4)
    tenant: str = "demo"
    at: datetime = START
    media_type: str = "image/jpeg"
    batch_id: UUID | None = None
    pipeline: Pipeline = PHOTO
    events: list[Outgoing] = field(default_factory=list)
    job: Job | None = None
    _revision: int = 0

    def __post_init__(self) -> None:
        original = ObjectRef(key="uploads/x", sha256="0" * 64, size=9, media_type=self.media_type)
        self.upload = UploadReceived(
            upload_id=uuid4(),
            job_id=self.job_id,
            tenant=self.tenant,
            pipeline=self.pipeline.name,
            original=original,
            options={"style": None, "crop": "1:1"},
            batch_id=self.batch_id,
            received_at=self.at,
        )
        self._tell(UPLOAD_RECEIVED, self.upload)

    def begins(self) -> Story:
        return self._give(Begin(self.upload, self.pipeline, self._later()))

    def progresses(
        self, phase: str, fraction: float, *shown: Artifact, item: str | None = None, attempt: int = 1, **facts: Any
    ) -> Story:
        about: dict[str, Any] = {"job_id": self.job_id, "phase": phase, "item": item, "attempt": attempt}
        told = PhaseProgressed(**about, fraction=fraction, at=self._later(), facts=facts, artifacts=list(shown))
        self._tell(PHASE_PROGRESSED, told)
        return self

    def succeeds(
        self, phase: str, *artifacts: Artifact, attempt: int = 1, item: str | None = None, **facts: Any
    ) -> Story:
        about: dict[str, Any] = {"job_id": self.job_id, "phase": phase, "item": item, "attempt": attempt}
        now = self._later()
        ended = PhaseSucceeded(
            **about, artifacts=list(artifacts), facts=facts, engine="test@1", started_at=now, ended_at=now
        )
        return self._give(Succeeded(ended, now))

    def fails(self, phase: str, code: str, attempt: int = 1, item: str | None = None) -> Story:
        now = self._later()
        ended = PhaseFailed(job_id=self.job_id, phase=phase, item=item, attempt=attempt, code=code, ended_at=now)
        return self._give(Failed(ended, now))

    def waits(self, seconds: float) -> Story:
        self.at += timedelta(seconds=seconds)
        return self._give(TimeReached(self.at))

    def is_cancelled(self) -> Story:
        return self._give(Cancel(self._later()))

    def is_paused(self) -> Story:
        return self._give(Pause("operator:ops", self.at + timedelta(days=1), self._later()))

    def is_resumed(self) -> Story:
        return self._give(Resume(self._later()))

    def is_retried(self, from_phase: str | None = None) -> Story:
        return self._give(Retry(from_phase, self.pipeline, self._later()))

    def wanders(self, chance: random.Random, steps: int) -> Story:
        """Whatever may happen to a job, at random."""
        self.begins()
        for _ in range(steps):
            given = chance.choice(self._possible(chance))
            self._give(given, strict=False)
        return self

    def _possible(self, chance: random.Random) -> list[Input]:
        assert self.job is not None
        now = self._later()
        if self.job.status.is_terminal:
            froms = (None, Retry.START, *self.job.phases)
            return [Retry(chance.choice(froms), self.pipeline, now)]
        found: list[Input] = [Cancel(now), Pause("operator:ops", now + timedelta(days=1), now), Resume(now)]
        if self.job.wake_at and chance.random() < 0.5:
            self.at = max(now, self.job.wake_at)
            found.append(TimeReached(self.at))
        for phase, item, state in self.job.units():
            if state.deadline is None:
                continue
            about: dict[str, Any] = {"job_id": self.job_id, "phase": phase, "item": item, "attempt": state.attempt}
            pages: list[Any] = [f"p{n}" for n in range(chance.randint(0, 4))]
            good = PhaseSucceeded(
                **about, facts={"pages": pages}, engine=f"{phase}@{self._revision}", started_at=now, ended_at=now
            )
            bad = PhaseFailed(**about, code=chance.choice(("CALL_LOST", "IMAGE_CORRUPT")), ended_at=now)
            found += [Succeeded(good, now)] * 6 + [Failed(bad, now)] * 2
        return found

    def _later(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at

    def _give(self, given: Input, *, strict: bool = True) -> Story:
        decision = decide(self.job, self._revision + 1, self.pipeline, given)
        if decision.ignored:
            assert not strict, decision.ignored
            return self
        self.job, self._revision = decision.job, self._revision + 1
        for effect in decision.effects:
            if isinstance(effect, Event):
                self._tell(effect.channel, effect.message)
        return self

    def _tell(self, channel: Any, message: Any) -> None:
        message_id = f"{self.job_id}.{len(self.events)}"
        trace, key = f"00-{self.job_id.hex}-00f067aa0ba902b7-01", str(self.job_id)
        made = outgoing(channel, message, message_id=message_id, key=key, source="test", traceparent=trace)
        self.events.append(made)


def artifact(name: str, ref: ObjectRef | None = None) -> Artifact:
    ref = ref or ObjectRef(key=f"jobs/{name}", sha256="1" * 64, size=9, media_type="image/jpeg")
    return Artifact(**ref.model_dump(), name=name, width=4, height=3)


def whole(**about: Any) -> Story:
    """A job that succeeded, with a progress on the way."""
    story = Story(**about).begins().progresses("analyze", 0.5)
    story.succeeds("analyze", width=10)
    story.succeeds("crop", artifact("image.png")).progresses("variants", 0.5)
    return story.succeeds("variants", artifact("web.jpg"), artifact("image.png"))


def retried() -> Story:
    """A job that succeeded although a phase had to be tried again."""
    story = Story().begins().progresses("analyze", 0.9).fails("analyze", "CALL_LOST").waits(60)
    return story.succeeds("analyze", attempt=2).succeeds("crop").succeeds("variants")


def reopened() -> Story:
    """A job that was dead, and was retried."""
    story = Story().begins().succeeds("analyze").fails("crop", "MESSAGE_INVALID").is_retried()
    return story.succeeds("crop", attempt=2).succeeds("variants")


def album(**about: Any) -> Story:
    """A job whose second phase runs once per page; the last page could not be done."""
    story = Story(pipeline=ALBUM, **about).begins().succeeds("analyze", pages=["p1", "p2", "p3"])
    story.succeeds("pages", artifact("page.png"), item="p1").progresses("pages", 0.5, item="p2")
    story.succeeds("pages", artifact("page.png"), item="p2").fails("pages", "IMAGE_CORRUPT", item="p3")
    return story.succeeds("bind", artifact("book.png"))


STORIES: dict[str, Callable[[], Story]] = {
    "succeeded": whole,
    "succeeded at the second try": retried,
    "succeeded after it was dead": reopened,
    "succeeded with items": album,
    "failed": lambda: Story().begins().fails("analyze", "IMAGE_CORRUPT"),
    "failed at once": lambda: Story(media_type="application/pdf").begins(),
    "dead": lambda: Story().begins().succeeds("analyze").fails("crop", "MESSAGE_INVALID"),
    "cancelled": lambda: Story().begins().succeeds("analyze").is_cancelled(),
    "running again": lambda: Story().begins().is_cancelled().is_retried(),
}
