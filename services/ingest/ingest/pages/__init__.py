"""A document is taken apart into pages: each is its own text, where that is sound, or a picture for OCR.

    inspect(data, media_type)             -> Inspected     how many pages, and how each will be read
    rasterize(data, media_type, sheet)    -> Rasterized    one page: what was read on it, or its picture

Pure, no I/O. Both are handed hostile bytes, so they run in a child with limits that its caller can kill; only
`runtime.sandbox` imports this package's parts. Coordinates are shares of the page as it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from contracts.documents import Reason, Sheet
from ingest.intake import PDF


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a document is. `kind` is pdf, tiff or picture."""

    kind: str
    sheets: list[Sheet]


@dataclass(frozen=True, slots=True)
class Made:
    """One object to store: what was read as JSON, or a picture."""

    name: str
    data: bytes = field(repr=False)
    media_type: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Rasterized:
    """What was made of one page, and numbers about it."""

    made: list[Made]
    facts: dict[str, Any]


def inspect(data: bytes, media_type: str) -> Inspected:
    """How many pages there are and how each is read.

    Raises DOCUMENT_ENCRYPTED, DOCUMENT_CORRUPT, DOCUMENT_TOO_LONG, IMAGE_CORRUPT, IMAGE_TOO_LARGE.
    """
    if media_type == PDF:
        from ingest.pages import pdf

        return Inspected("pdf", pdf.inspect(data))
    from ingest.pages import pictures

    count = pictures.count(data, media_type)
    return Inspected("tiff" if count > 1 else "picture", [sheet(n, Reason.PICTURE) for n in range(1, count + 1)])


def rasterize(data: bytes, media_type: str, number: int, why: str) -> Rasterized:
    """One page, counted from 1, as `inspect` has decided.

    Raises PAGE_UNREADABLE, DOCUMENT_CORRUPT, DOCUMENT_ENCRYPTED, IMAGE_CORRUPT, IMAGE_TOO_LARGE.
    """
    if media_type == PDF:
        from ingest.pages import pdf

        return pdf.rasterize(data, number, Reason(why))
    from ingest.pages import pictures

    return pictures.rasterize(data, media_type, number)


def sheet(number: int, why: Reason) -> Sheet:
    """The element that commands of one page are about."""
    from contracts.documents import sheet_id

    return Sheet(id=sheet_id(number), number=number, ocr=why.needs_ocr, why=why)
