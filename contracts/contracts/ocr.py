"""What was read on a page: one shape, whichever engine read it.

All lengths are shares of the upright page: x to the right, y down, 0..1. What an engine does not tell
(where a line lies, how sure it is) is None, and never made up.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

VERSION: Final = 1

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Point = tuple[Share, Share]
Quad = tuple[Point, Point, Point, Point]  # in the direction of reading: top left, top right, bottom right, bottom left
Box = tuple[Share, Share, Share, Share]  # x, y, width, height


class Kind(StrEnum):
    """What a block is."""

    TEXT = "text"
    TITLE = "title"
    TABLE = "table"
    FIGURE = "figure"  # a picture, a drawing, a chart, a seal
    FORMULA = "formula"  # its line is LaTeX
    OTHER = "other"  # running heads, page numbers, marks at the rim


class Word(BaseModel):
    """What stands between two spaces."""

    text: str
    quad: Quad
    confidence: Share | None = None


class Line(BaseModel):
    """One line of print; its words lie inside it, and joined by spaces they are its text."""

    text: str
    quad: Quad | None = None
    confidence: Share | None = None
    words: list[Word] = Field(default_factory=list)


class Cell(BaseModel):
    """A cell of a table: rows and columns count from 0; its text may have several lines."""

    row: int = Field(ge=0)
    column: int = Field(ge=0)
    row_span: int = Field(default=1, ge=1)
    column_span: int = Field(default=1, ge=1)
    text: str = ""
    box: Box | None = None


class Block(BaseModel):
    """What belongs together. A table's `cells` say how the text of its `lines` is arranged; only tables have cells."""

    kind: Kind
    box: Box
    lines: list[Line] = Field(default_factory=list)
    cells: list[Cell] = Field(default_factory=list)


class Page(BaseModel):
    """One page; its blocks are in the order of reading.

    `width` and `height` are pixels of the upright page as it came. `rotation` is by how many degrees
    clockwise it had to be turned to be upright, `skew` by how many degrees clockwise its lines still slope.
    `languages` are the hints that were given (BCP 47), `engine` is who read it: `name@version`.
    """

    version: Literal[1] = VERSION
    engine: str
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    rotation: Literal[0, 90, 180, 270] = 0
    skew: float = Field(default=0.0, ge=-90.0, le=90.0, allow_inf_nan=False)
    languages: list[str] = Field(default_factory=list)
    blocks: list[Block] = Field(default_factory=list)
