"""Tables as a language model writes them, in OTSL or HTML -> cells. What it wrote is text and never run or shown as is.

OTSL (Lysak et al., ICDAR 2023) is a tag per place of the grid: a full or an empty cell, one that its left, upper or
both neighbours reach over, and the end of a row. A model may write anything, so nothing is an error: what is no
table has no cells, and no table has more than PLACES_MAX places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import takewhile
from typing import Final

from contracts.ocr import Cell

WRITTEN_MAX: Final = 200_000  # characters that are looked at
PLACES_MAX: Final = 4000
TEXT_MAX: Final = 10_000  # characters of one cell

_TAG: Final = re.compile(r"<(fcel|ecel|lcel|ucel|xcel|ched|rhed|srow|nl)>")
_BEGINS: Final = ("fcel", "ecel", "ched", "rhed", "srow")


def cells(written: str) -> list[Cell]:
    """The cells of the first table in `written`; none when there is no table."""
    written = written[:WRITTEN_MAX]
    if _TAG.search(written):
        return otsl(written)
    return html(written) if "<table" in written.lower() else []


def otsl(written: str) -> list[Cell]:
    """The cells of a table in OTSL."""
    parts = _TAG.split(written)[1 : 2 * PLACES_MAX + 1]
    rows: list[list[tuple[str, str]]] = [[]]
    for tag, text in zip(parts[::2], parts[1::2], strict=False):
        if tag == "nl":
            rows.append([])
        else:
            rows[-1].append((tag, " ".join(text.split())[:TEXT_MAX]))
    return [
        Cell(
            row=row,
            column=column,
            row_span=1 + _reach((_tag(rows[down], column) for down in range(row + 1, len(rows))), "ucel"),
            column_span=1 + _reach((_tag(line, at) for at in range(column + 1, len(line))), "lcel"),
            text="" if tag == "ecel" else text,
        )
        for row, line in enumerate(rows)
        for column, (tag, text) in enumerate(line)
        if tag in _BEGINS
    ]


def _reach(tags: Iterable[str], by: str) -> int:
    """How many of the first `tags` say that they are reached over."""
    return sum(1 for _ in takewhile(lambda tag: tag in (by, "xcel"), tags))


def _tag(row: list[tuple[str, str]], column: int) -> str:
    return row[column][0] if column < len(row) else ""


def html(written: str) -> list[Cell]:
    """The cells of the first table in HTML; tables inside of it are text of their cell."""
    reader = _Table()
    reader.feed(written)
    reader.close()
    reader.end_cell()
    return reader.cells


class _Table(HTMLParser):
    """Hears rows and cells and keeps what is between; all other tags are dropped, scripts and styles whole."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.cells: list[Cell] = []
        self._taken: set[tuple[int, int]] = set()
        self._row, self._depth, self._over, self._silent = -1, 0, False, 0
        self._open: tuple[int, int] | None = None
        self._text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth += tag == "table"
        self._silent += tag in ("script", "style")
        if self._depth != 1 or self._over:
            return
        if tag == "tr":
            self.end_cell()
            self._row += 1
        elif tag in ("td", "th"):
            self.end_cell()
            given = dict(attrs)
            self._open = _span(given.get("rowspan")), _span(given.get("colspan"))
        elif tag == "br":
            self._text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style") and self._silent > 0
        if self._depth == 1 and tag in ("td", "th", "tr", "table"):
            self.end_cell()
        if tag == "table" and self._depth:
            self._depth -= 1
            self._over |= self._depth == 0

    def handle_data(self, data: str) -> None:
        if self._open and not self._silent:
            self._text.append(data)

    def end_cell(self) -> None:
        """Put the open cell at the first free place of its row."""
        if self._open is None:
            return
        (rows, columns), row, column = self._open, max(self._row, 0), 0
        while (row, column) in self._taken:
            column += 1
        if len(self._taken) + rows * columns <= PLACES_MAX:
            self._taken.update((row + down, column + across) for down in range(rows) for across in range(columns))
            lines = [" ".join(line.split()) for line in "".join(self._text)[:TEXT_MAX].split("\n")]
            text = "\n".join(filter(None, lines))
            self.cells.append(Cell(row=row, column=column, row_span=rows, column_span=columns, text=text))
        self._open, self._text = None, []


def _span(given: str | None) -> int:
    return (
        min(max(int(given), 1), PLACES_MAX) if given and given.isascii() and given.isdigit() and len(given) < 6 else 1
    )
