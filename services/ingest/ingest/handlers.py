"""The `analyze` phase: a command in, facts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts.artifacts import Artifact
from contracts.errors import SafelightError, error
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, Facts, PhaseFailed, PhaseSucceeded, RunPhase
from runtime import clock, logs
from runtime.objects import Objects
from runtime.outbox import Outgoing, outgoing, publish
from runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from ingest.analysis.photo import Analyzed

SOURCE: Final = "ingest"
ENGINE: Final = "analyze.blazeface-classical@3"
IMAGE: Final = "image.png"  # the following phases take it in the original's stead
log = logs.get()


@dataclass(frozen=True, slots=True)
class Handlers:
    """Stateless: the outcome's id is the attempt's, so a redelivered command changes nothing."""

    js: JetStreamContext
    objects: Objects
    sandbox: Sandbox

    async def analyze(self, command: RunPhase) -> None:
        """Look at the original. Every error becomes the outcome; only a silent broker makes settle deliver again."""
        await publish(self.js, [await self._outcome(command)])

    async def _outcome(self, command: RunPhase) -> Outgoing:
        started_at = clock.now()
        about = command.model_dump(include={"job_id", "phase", "item", "attempt"})
        outcome_id = f"{command.key}.outcome"
        try:
            facts, artifacts = await self._analyzed(command)
        except Exception as problem:
            known = problem if isinstance(problem, SafelightError) else error("INTERNAL", type(problem).__name__)
            log.warning("analyze.failed", code=known.code, exc_info=None if known is problem else problem)
            failed = PhaseFailed(
                **about, code=known.code, detail=known.detail, started_at=started_at, ended_at=clock.now()
            )
            return outgoing(PHASE_FAILED, failed, message_id=outcome_id, key=command.key, source=SOURCE)
        done = PhaseSucceeded(
            **about, facts=facts, artifacts=artifacts, engine=ENGINE, started_at=started_at, ended_at=clock.now()
        )
        return outgoing(PHASE_SUCCEEDED, done, message_id=outcome_id, key=command.key, source=SOURCE)

    async def _analyzed(self, command: RunPhase) -> tuple[Facts, list[Artifact]]:
        """What the original shows, and the picture itself where only this room can decode it."""
        left_s = (command.deadline - clock.now()).total_seconds()
        if left_s <= 0:
            raise error("PHASE_DEADLINE")
        original = command.inputs["original"]
        data = await self.objects.get_checked(original.key, original.sha256)
        seen: Analyzed = await self.sandbox.run(left_s, "ingest.analysis:analyzed", data)
        if seen.image is None:
            return seen.facts, []
        key = f"{command.prefix}/{IMAGE}"
        sha256, size = await self.objects.put(key, seen.image, "image/png")
        made = {"key": key, "sha256": sha256, "size": size, "media_type": "image/png", "name": IMAGE}
        return seen.facts, [Artifact.model_validate({**made, "width": seen.width, "height": seen.height})]
