"""The `crop` and `variants` phases: a command in, artifacts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from faststream.nats.annotations import NatsMessage

from contracts.artifacts import Artifact
from contracts.errors import SafelightError, error
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, Facts, PhaseFailed, PhaseSucceeded, RunPhase
from runtime import clock, logs
from runtime.objects import Objects
from runtime.outbox import Outgoing, outgoing, publish
from runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from output.render.images import Rendered

SOURCE: Final = "output"
log = logs.get()

# the command, as its subject ends: (the function that the sandbox calls, the engine as the result tells it)
RENDERERS: Final = {
    "crop": ("output.render.phases:crop", "crop.composition@1"),
    "variants": ("output.render.phases:variants", "variants.libvips@1"),
}


@dataclass(frozen=True, slots=True)
class Handlers:
    """Stateless: keys and ids are the attempt's, so a redelivered command writes the same again."""

    js: JetStreamContext
    objects: Objects
    sandbox: Sandbox

    async def render(self, command: RunPhase, message: NatsMessage) -> None:
        """Render. Every error becomes the outcome; only a silent broker makes settle deliver again."""
        name = message.raw_message.subject.rsplit(".", 1)[-1]
        await publish(self.js, [await self.outcome(name, command)])

    async def outcome(self, name: str, command: RunPhase) -> Outgoing:
        """What became of the command of that name: a phase of a pipeline may be called as its author likes."""
        started_at = clock.now()
        about = command.model_dump(include={"job_id", "phase", "item", "attempt"})
        outcome_id = f"{command.key}.outcome"
        try:
            artifacts, facts, engine = await self._rendered(name, command)
        except Exception as problem:
            known = problem if isinstance(problem, SafelightError) else error("INTERNAL", type(problem).__name__)
            log.warning("render.failed", code=known.code, exc_info=None if known is problem else problem)
            failed = PhaseFailed(
                **about, code=known.code, detail=known.detail, started_at=started_at, ended_at=clock.now()
            )
            return outgoing(PHASE_FAILED, failed, message_id=outcome_id, key=command.key, source=SOURCE)
        done = PhaseSucceeded(
            **about, artifacts=artifacts, facts=facts, engine=engine, started_at=started_at, ended_at=clock.now()
        )
        return outgoing(PHASE_SUCCEEDED, done, message_id=outcome_id, key=command.key, source=SOURCE)

    async def _rendered(self, name: str, command: RunPhase) -> tuple[list[Artifact], Facts, str]:
        left_s = (command.deadline - clock.now()).total_seconds()
        if left_s <= 0:
            raise error("PHASE_DEADLINE")
        if name not in RENDERERS:
            raise error("FUNCTION_UNKNOWN", "output has no such command")
        render, engine = RENDERERS[name]
        image, original = command.inputs["image"], command.inputs["original"]
        data = await self.objects.get_checked(image.key, image.sha256)
        source = None if image == original else await self.objects.get_checked(original.key, original.sha256)
        artifacts: list[Artifact] = []
        facts: Facts = {}
        rendered: list[Rendered] = await self.sandbox.run(left_s, render, data, source, command.parameters)
        for made in rendered:
            facts |= made.facts
            if made.data is None:
                continue  # the input already is this picture
            key = f"{command.prefix}/{made.name}"
            sha256, size = await self.objects.put(key, made.data, made.media_type)
            artifacts.append(
                Artifact(
                    key=key,
                    sha256=sha256,
                    size=size,
                    media_type=made.media_type,
                    name=made.name,
                    width=made.width,
                    height=made.height,
                )
            )
        return artifacts, facts, engine
