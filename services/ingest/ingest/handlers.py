"""The `analyze` phase: a command in, facts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from contracts.artifacts import Artifact
from contracts.phases import RunPhase
from runtime.objects import Objects
from runtime.phases import Phases, Result, left_s
from runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from ingest.analysis.photo import Analyzed

ENGINE: Final = "analyze.blazeface-classical@3"
IMAGE: Final = "image.png"  # the following phases take it in the original's stead


@dataclass(frozen=True, slots=True)
class Handlers:
    """Stateless."""

    phases: Phases
    objects: Objects
    sandbox: Sandbox

    async def analyze(self, command: RunPhase) -> None:
        """Look at the original. Raises what `Phases.answer` does."""
        await self.phases.answer(command, ENGINE, self._analyzed)

    async def _analyzed(self, command: RunPhase) -> Result:
        """The picture itself, where only this room can decode it, and what it shows."""
        original = command.inputs["original"]
        data = await self.objects.get_checked(original.key, original.sha256)
        seen: Analyzed = await self.sandbox.run(left_s(command), "ingest.analysis:analyzed", data)
        if seen.image is None:
            return [], seen.facts
        key = f"{command.prefix}/{IMAGE}"
        sha256, size = await self.objects.put(key, seen.image, "image/png")
        made = {"key": key, "sha256": sha256, "size": size, "media_type": "image/png", "name": IMAGE}
        return [Artifact.model_validate({**made, "width": seen.width, "height": seen.height})], seen.facts
