"""The `crop` and `variants` phases: a command in, artifacts out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from faststream.nats.annotations import NatsMessage

from contracts.artifacts import Artifact
from contracts.errors import error
from contracts.phases import Facts, RunPhase
from runtime.objects import Objects
from runtime.phases import Phases, Result, left_s
from runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from output.render.images import Rendered

# the command, as its subject ends: (the function that the sandbox calls, the engine as the result tells it)
RENDERERS: Final = {
    "crop": ("output.render.phases:crop", "crop.composition@1"),
    "variants": ("output.render.phases:variants", "variants.libvips@1"),
}


@dataclass(frozen=True, slots=True)
class Handlers:
    """Stateless."""

    phases: Phases
    objects: Objects
    sandbox: Sandbox

    async def render(self, command: RunPhase, message: NatsMessage) -> None:
        """Render. Raises what `Phases.answer` does."""
        await self.answer(message.raw_message.subject.rsplit(".", 1)[-1], command)

    async def answer(self, name: str, command: RunPhase) -> None:
        """The command of that name: a phase of a pipeline may be called as its author likes."""
        render, engine = RENDERERS.get(name, ("", ""))
        await self.phases.answer(command, engine, partial(self._rendered, render))

    async def _rendered(self, render: str, command: RunPhase) -> Result:
        if not render:
            raise error("FUNCTION_UNKNOWN", "output has no such command")
        image, original = command.inputs["image"], command.inputs["original"]
        data = await self.objects.get_checked(image.key, image.sha256)
        source = None if image == original else await self.objects.get_checked(original.key, original.sha256)
        artifacts: list[Artifact] = []
        facts: Facts = {}
        rendered: list[Rendered] = await self.sandbox.run(left_s(command), render, data, source, command.parameters)
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
        return artifacts, facts
