"""The `assemble` and `deliver` phases: pages in, a document out, and the forms in which it is delivered.

Pages are put together one by one on their way into storage, so that memory holds one of them. The forms are made
in a child with limits, from the document and the original.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from contracts import documents
from contracts.artifacts import Artifact, ObjectRef
from contracts.documents import ReadPage, Sheet
from contracts.errors import error
from contracts.ocr import Page
from contracts.phases import Facts, RunPhase
from output.paper import Delivered
from runtime.objects import Objects
from runtime.phases import Phases, Result, left_s
from runtime.sandbox import Sandbox

ASSEMBLER: Final = "assemble@1"
DELIVERER: Final = "deliver.pikepdf@1"
DOCUMENT: Final = "document.json"
PDF: Final = "application/pdf"
PAGE_BYTES_MAX: Final = 16 * 2**20  # as JSON: 50,000 characters as words with places are 10 MB
DOCUMENT_BYTES_MAX: Final = 192 * 2**20  # 500 dense pages of 3,000 characters are 150 MB; usual ones a tenth
PICTURES_BYTES_MAX: Final = 256 * 2**20  # 500 pages of A4 in grey at 200 dpi are 100 MB
_SHEETS: Final = TypeAdapter(list[Sheet])


@dataclass(slots=True)
class _Tally:
    """Numbers about what was put together, and the hash of it."""

    read: int = 0
    words: int = 0
    size: int = 0
    sure: float = 0.0
    letters: int = 0
    not_read: list[int] = field(default_factory=list)
    hashed: Any = field(default_factory=hashlib.sha256)

    def take(self, page: ReadPage) -> None:
        if page.page is None:
            self.not_read.append(page.number)
            return
        self.read += 1
        for block in page.page.blocks:
            for line in block.lines:
                self.words += len(line.words) or len(line.text.split())
                if line.confidence is not None:
                    self.sure += line.confidence * len(line.text)
                    self.letters += len(line.text)

    @property
    def facts(self) -> Facts:
        return {
            "pages": self.read + len(self.not_read),
            "read": self.read,
            "not_read": [*self.not_read],
            "words": self.words,
            "confidence": round(self.sure / self.letters, 4) if self.letters else None,
        }


class _Stream:
    """What an async source gives, for a thread that reads."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        parts, have = [self._rest], len(self._rest)
        while (size < 0 or have < size) and (chunk := self._next()):
            parts.append(chunk)
            have += len(chunk)
        whole = b"".join(parts)
        size = len(whole) if size < 0 else size
        self._rest = whole[size:]
        return whole[:size]

    def _next(self) -> bytes:
        async def following() -> bytes:
            return await anext(self._source, b"")

        return asyncio.run_coroutine_threadsafe(following(), self._loop).result()


class Documents:
    """Stateless."""

    def __init__(
        self, phases: Phases, objects: Objects, sandbox: Sandbox, templates: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._phases = phases
        self._objects = objects
        self._sandbox = sandbox
        self._templates = templates

    async def assemble(self, command: RunPhase) -> None:
        """One document of all pages. Raises what `Phases.answer` does."""
        await self._phases.answer(command, ASSEMBLER, self._assembled)

    async def deliver(self, command: RunPhase) -> None:
        """Every form of the document. Raises what `Phases.answer` does."""
        await self._phases.answer(command, DELIVERER, self._delivered)

    async def _assembled(self, command: RunPhase) -> Result:
        sheets = _SHEETS.validate_python(command.parameters.get("pages"))
        told = by_item(command.inputs, "ocr.json")
        if not any(sheet.id in told for sheet in sheets):
            raise error("NO_PAGE_READ")
        tally = _Tally()
        key = f"{command.prefix}/{DOCUMENT}"
        lines = self._lines(sheets, told, tally)
        try:
            await self._objects.put_stream(key, _Stream(lines), "application/json")
        finally:
            await lines.aclose()
        if not tally.read:
            raise error("NO_PAGE_READ")
        ref = {"key": key, "sha256": tally.hashed.hexdigest(), "size": tally.size, "media_type": "application/json"}
        return [Artifact(name=DOCUMENT, **ref)], tally.facts

    async def _lines(self, sheets: list[Sheet], told: Mapping[str, ObjectRef], tally: _Tally) -> AsyncGenerator[bytes]:
        def counted(text: str) -> bytes:
            data = text.encode()
            tally.size += len(data)
            if tally.size > DOCUMENT_BYTES_MAX:
                raise error("DOCUMENT_TOO_LARGE")
            tally.hashed.update(data)
            return data

        yield counted(documents.FIRST_LINE)
        for sheet in sheets:
            page = ReadPage(id=sheet.id, number=sheet.number, why=sheet.why, page=await self._page(told.get(sheet.id)))
            tally.take(page)
            yield counted(await asyncio.to_thread(documents.written, page, last=sheet is sheets[-1]))
        yield counted(documents.LAST_LINE)

    async def _page(self, ref: ObjectRef | None) -> Page | None:
        if ref is None:
            return None
        if ref.size > PAGE_BYTES_MAX:
            raise error("DOCUMENT_TOO_LARGE", "What was read on one page is more than a result may hold.")
        data = await self._objects.get_checked(ref.key, ref.sha256)
        try:
            return await asyncio.to_thread(Page.model_validate_json, data)
        except ValidationError:  # its words quote the page
            raise error("ANSWER_INVALID", "What was read on a page does not have the declared shape.") from None

    async def _delivered(self, command: RunPhase) -> Result:
        template = self._template(command.parameters.get("template"))
        document = next((ref for role, ref in command.inputs.items() if role.endswith(f".{DOCUMENT}")), None)
        if document is None:
            raise error("OBJECT_MISSING", "the command has no document")
        original = command.inputs["original"]
        whole, pictures = None, {}
        data = await self._objects.get_checked(document.key, document.sha256)
        if original.media_type == PDF:
            whole = await self._objects.get_checked(original.key, original.sha256)
        else:
            pictures = await self._pictures(by_item(command.inputs, "image.jpg"))
        found: Delivered = await self._sandbox.run(
            left_s(command), "output.paper:deliver", data, whole, pictures, template
        )
        artifacts = []
        for made in found.made:
            key = f"{command.prefix}/{made.name}"
            sha256, size = await self._objects.put(key, made.data, made.media_type)
            artifacts.append(Artifact(key=key, sha256=sha256, size=size, media_type=made.media_type, name=made.name))
        return artifacts, found.facts

    async def _pictures(self, refs: Mapping[str, ObjectRef]) -> dict[int, bytes]:
        if sum(ref.size for ref in refs.values()) > PICTURES_BYTES_MAX:
            raise error("DOCUMENT_TOO_LARGE", "The pictures of its pages are more than one PDF may hold.")
        return {int(id_[1:]): await self._objects.get_checked(ref.key, ref.sha256) for id_, ref in refs.items()}

    def _template(self, name: object) -> Mapping[str, Any] | None:
        if name is None:
            return None
        if not isinstance(name, str) or name not in self._templates:
            raise error("TEMPLATE_UNKNOWN", f"There are {', '.join(sorted(self._templates))}.")
        return self._templates[name]


def by_item(inputs: Mapping[str, ObjectRef], name: str) -> dict[str, ObjectRef]:
    """The artifacts of that name by the item that they are of; inputs of a fan-in are called PHASE.ITEM.NAME."""
    found = {}
    for role, ref in inputs.items():
        _, _, rest = role.partition(".")
        item, _, artifact = rest.partition(".")
        if artifact == name:
            found[item] = ref
    return found
