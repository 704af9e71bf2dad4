"""The `inspect` and `rasterize` phases: a document in, its pages out.

A page is made from the original, alone, so that one that is bad fails alone and can be tried again alone. All pages
of a document are asked for within a short while: the newest originals are kept in memory, so that the file is not
fetched for each of them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from contracts.artifacts import Artifact, ObjectRef
from contracts.documents import Sheet
from contracts.errors import SafelightError, error
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, Facts, PhaseFailed, PhaseSucceeded, RunPhase
from ingest.intake import PDF
from ingest.pages import Inspected, Rasterized
from runtime import clock, logs
from runtime.objects import Objects
from runtime.outbox import Outgoing, outgoing, publish
from runtime.sandbox import Sandbox

if TYPE_CHECKING:
    from nats.js import JetStreamContext

SOURCE: Final = "ingest"
INSPECTOR: Final = "inspect.pdfium@1"
RASTERIZER: Final = "rasterize.pdfium@1"
KEPT_BYTES_MAX: Final = 256 * 2**20  # of originals in memory: the largest PDF that is taken, and as much again
KEPT_S: Final = 30.0  # after the last page that asked for it
log = logs.get()

Result = tuple[list[Artifact], Facts]


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
    """Keeps nothing that it may not forget: the outcome's id is the attempt's, so a redelivery changes nothing."""

    def __init__(self, js: JetStreamContext, objects: Objects, pdfs: Sandbox, pictures: Sandbox) -> None:
        self._js = js
        self._objects = objects
        self._pdfs = pdfs
        self._pictures = pictures
        self._originals = Originals(objects)

    async def inspect(self, command: RunPhase) -> None:
        """How many pages there are, and how each is read. Every error becomes the outcome."""
        await self._answer(command, INSPECTOR, self._inspected)

    async def rasterize(self, command: RunPhase) -> None:
        """What one page says, or its picture. Every error becomes the outcome."""
        await self._answer(command, RASTERIZER, self._rasterized)

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
        left_s = (command.deadline - clock.now()).total_seconds()
        if left_s <= 0:
            raise error("PHASE_DEADLINE")
        original = command.inputs["original"]
        data = await self._originals.get(original)
        sandbox = self._pdfs if original.media_type == PDF else self._pictures
        return await sandbox.run(left_s, function, data, original.media_type, *args)

    async def _answer(self, command: RunPhase, engine: str, work: Callable[[RunPhase], Awaitable[Result]]) -> None:
        await publish(self._js, [await self._outcome(command, engine, work)])

    async def _outcome(self, command: RunPhase, engine: str, work: Callable[[RunPhase], Awaitable[Result]]) -> Outgoing:
        started_at = clock.now()
        about = command.model_dump(include={"job_id", "phase", "item", "attempt"})
        outcome_id = f"{command.key}.outcome"
        try:
            artifacts, facts = await work(command)
        except Exception as problem:
            known = problem if isinstance(problem, SafelightError) else error("INTERNAL", type(problem).__name__)
            # No traceback: what a page says may stand in the words of an error that nobody foresaw.
            log.warning("document.failed", code=known.code, error=type(problem).__name__)
            ended = {"code": known.code, "detail": known.detail, "started_at": started_at, "ended_at": clock.now()}
            failed = PhaseFailed(**about, **ended)
            return outgoing(PHASE_FAILED, failed, message_id=outcome_id, key=command.key, source=SOURCE)
        told = {"artifacts": artifacts, "facts": facts, "engine": engine}
        done = PhaseSucceeded(**about, **told, started_at=started_at, ended_at=clock.now())
        return outgoing(PHASE_SUCCEEDED, done, message_id=outcome_id, key=command.key, source=SOURCE)
