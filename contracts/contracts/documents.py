"""A document that was read: its pages in their order, each with what was read on it, or why nothing was.

As an object it is JSON that is laid out so that nobody has to hold all of it at once: after the first line each
page is a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, Field

from contracts.ocr import Page

VERSION: Final = 1
PAGES_MAX: Final = 500  # two phases run over the pages, and a job has 1,000 items at most


class Reason(StrEnum):
    """Why a page is read as it is: the first two need no OCR, the others are what OCR is for."""

    TEXT = "text"  # its text layer is sound
    BLANK = "blank"  # there is nothing on it
    PICTURE = "picture"  # it is one: a photo, a page of a TIFF
    NO_TEXT = "no-text"  # something is drawn, but no text is
    COVERED = "covered"  # a picture fills most of it: what text there is may be a stamp upon a scan
    HIDDEN = "hidden"  # its text is invisible: somebody's OCR, of which nobody knows how good it was
    GARBLED = "garbled"  # its text cannot be what is printed: characters that nobody writes, no vowels
    FORM = "form"  # fields were filled in, and what they hold is in no text layer
    CROWDED = "crowded"  # more characters than a page holds
    UNREADABLE = "unreadable"  # it cannot be opened; to draw it is tried once more, alone

    @property
    def needs_ocr(self) -> bool:
        return self not in (Reason.TEXT, Reason.BLANK)


class Sheet(BaseModel):
    """A page as `inspect` tells of it, as an element of a list to fan out over: `id` is `p001` and so on."""

    id: str = Field(pattern=r"^p[0-9]{3}$")
    number: int = Field(ge=1, le=PAGES_MAX)
    ocr: bool
    why: Reason


class ReadPage(BaseModel):
    """One page of a document. `page` is what was read, None when it could not be read."""

    id: str
    number: int
    why: Reason
    page: Page | None = None


class Document(BaseModel):
    """The whole, for those who can hold it."""

    version: Literal[1] = VERSION
    pages: list[ReadPage]


FIRST_LINE: Final = f'{{"version":{VERSION},"pages":[\n'
LAST_LINE: Final = "]}\n"


def written(page: ReadPage, *, last: bool) -> str:
    """The line of a page."""
    return page.model_dump_json(exclude_none=True) + ("\n" if last else ",\n")


def read(data: bytes) -> Iterator[ReadPage]:
    """The pages of a document, one after the other. Raises ValueError for what is none."""
    start, end = len(FIRST_LINE), len(data) - len(LAST_LINE)
    if data[:start] != FIRST_LINE.encode() or data[max(start, end) :] != LAST_LINE.encode():
        raise ValueError("this is no document of version 1")
    while start < end:
        stop = data.index(b"\n", start)
        yield ReadPage.model_validate_json(data[start:stop].removesuffix(b","))
        start = stop + 1


def sheet_id(number: int) -> str:
    """What the page of this number (from 1) is called."""
    return f"p{number:03d}"
