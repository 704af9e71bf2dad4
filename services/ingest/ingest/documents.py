"""The `inspect` and `rasterize` phases: a document in, its pages out.

A page is made from the original, alone, so that one that is bad fails alone and can be tried again alone. All pages
of a document are asked for within a short while: the newest originals are kept in memory, so that the file is not
fetched for each of them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from contracts.artifacts import Artifact, ObjectRef
from contracts.documents import Sheet
from contracts.phases import RunPhase
from ingest.intake import PDF
from ingest.pages import Inspected, Rasterized
from runtime import logs
from runtime.objects import Objects
from runtime.phases import Phases, Result, left_s
from runtime.sandbox import Sandbox

INSPECTOR: Final = "inspect.pdfium@1"
RASTERIZER: Final = "rasterize.pdfium@1"
KEPT_BYTES_MAX: Final = 256 * 2**20  # of originals in memory: the largest PDF that is taken, and as much again
KEPT_S: Final = 30.0  # after the last page that asked for it
log = logs.get()


@dataclass(slots=True)
class Originals:
    """The originals that were asked for last, each fetched once, forgotten soon."""

    objects: Objects
    bytes_max: int = KEPT_BYTES_MAX
    kept_s: float = KEPT_S
    _kept: OrderedDict[str, asyncio.Task[bytes]] = field(default_factory=OrderedDict)
    _forget: asyncio.TimerHandle | None = None

    async def get(self, ref: ObjectRef) -> bytes:
        """The bytes. Raises OBJECT_MISSING, STORAGE_UNAVAILABLE."""
        task = self._kept.pop(ref.key, None) or asyncio.create_task(self.objects.get_checked(ref.key, ref.sha256))
        self._kept[ref.key] = task
        try:
            data = await asyncio.shield(task)
        except Exception:
            self._kept.pop(ref.key, None)  # the next one asks again
            raise
        self._make_room()
        if self._forget:
            self._forget.cancel()
        self._forget = asyncio.get_running_loop().call_later(self.kept_s, self._kept.clear)
        return data

    def _make_room(self) -> None:
        def held() -> int:
            return sum(len(task.result()) for task in self._kept.values() if task.done() and not task.exception())

        while len(self._kept) > 1 and held() > self.bytes_max:
            self._kept.popitem(last=False)


class Documents:
    """Keeps nothing that it may not forget."""

    def __init__(self, phases: Phases, objects: Objects, pdfs: Sandbox, pictures: Sandbox) -> None:
        self._phases = phases
        self._objects = objects
        self._pdfs = pdfs
        self._pictures = pictures
        self._originals = Originals(objects)

    async def inspect(self, command: RunPhase) -> None:
        """How many pages there are, and how each is read. Raises what `Phases.answer` does."""
        await self._phases.answer(command, INSPECTOR, self._inspected)

    async def rasterize(self, command: RunPhase) -> None:
        """What one page says, or its picture. Raises what `Phases.answer` does."""
        await self._phases.answer(command, RASTERIZER, self._rasterized)

    async def _inspected(self, command: RunPhase) -> Result:
        original = command.inputs["original"]
        found: Inspected = await self._in_child(command, "ingest.pages:inspect")
        reasons: dict[str, int] = {}
        for sheet in found.sheets:
            reasons[sheet.why] = reasons.get(sheet.why, 0) + 1
        log.info("document.inspected", pages=len(found.sheets), size=original.size, reasons=reasons)
        return [], {
            "kind": found.kind,
            "pages": [sheet.model_dump(mode="json") for sheet in found.sheets],
            "to_read": sum(sheet.ocr for sheet in found.sheets),
            "reasons": {**reasons},
        }

    async def _rasterized(self, command: RunPhase) -> Result:
        sheet = Sheet.model_validate(command.parameters.get("page"))
        found: Rasterized = await self._in_child(command, "ingest.pages:rasterize", sheet.number, sheet.why.value)
        artifacts = []
        for made in found.made:
            key = f"{command.prefix}/{made.name}"
            sha256, size = await self._objects.put(key, made.data, made.media_type)
            about = {"name": made.name, "media_type": made.media_type, "width": made.width, "height": made.height}
            artifacts.append(Artifact(key=key, sha256=sha256, size=size, **about))
        return artifacts, {"number": sheet.number, "why": sheet.why.value, **found.facts}

    async def _in_child(self, command: RunPhase, function: str, *args: object) -> Any:
        original = command.inputs["original"]
        data = await self._originals.get(original)
        sandbox = self._pdfs if original.media_type == PDF else self._pictures
        return await sandbox.run(left_s(command), function, data, original.media_type, *args)
