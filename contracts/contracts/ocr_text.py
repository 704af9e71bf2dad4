"""A page that was read -> Markdown and plain text. Pure.

What was read is text and stays text: whatever Markdown or HTML would take for a mark is escaped, so that a
page cannot bring links, pictures or scripts into what is shown to somebody else.
"""

from __future__ import annotations

import re
from typing import Final

from contracts.ocr import Block, Cell, Kind, Page

_MARKS: Final = re.compile(r"([\\`*_\[\]<>|~$])")
_START: Final = re.compile(r"^(\s*)([#+\-=]|\d+[.)](?=\s|$))")
_CELLS_MAX: Final = 10_000  # of one table, spans filled in


def markdown(page: Page) -> str:
    """The page as GitHub's Markdown: headings, paragraphs, tables, formulas between $$."""
    return "\n\n".join(filter(None, map(_block, page.blocks))) + "\n"


def text(page: Page) -> str:
    """The page as plain text: a line per line, an empty one between blocks, a table's cells between tabs."""
    return "\n\n".join(filter(None, map(_plain, page.blocks))) + "\n"


def _block(block: Block) -> str:
    lines = [line.text for line in block.lines]
    match block.kind:
        case Kind.TITLE:
            return f"## {_escaped(' '.join(lines))}" if lines else ""
        case Kind.TABLE:
            return _table(grid(block.cells))
        case Kind.FORMULA:
            return "$$\n" + "\n".join(lines).replace("$", "") + "\n$$" if lines else ""
        case _:
            return "\n".join(_START.sub(_not_a_mark, _escaped(line)) for line in lines)


def _plain(block: Block) -> str:
    if block.kind is Kind.TABLE:
        return "\n".join("\t".join(" ".join(cell.split()) for cell in row) for row in grid(block.cells))
    return "\n".join(line.text for line in block.lines)


def grid(cells: list[Cell]) -> list[list[str]]:
    """The texts of a table, row by row; what a span covers is empty, and what would be absurdly large is cut."""
    columns = max((cell.column + cell.column_span for cell in cells), default=0)
    rows = max((cell.row + cell.row_span for cell in cells), default=0)
    columns = min(columns, _CELLS_MAX)
    rows = min(rows, _CELLS_MAX // max(columns, 1))
    table = [[""] * columns for _ in range(rows)]
    for cell in cells:
        if cell.row < rows and cell.column < columns:
            table[cell.row][cell.column] = cell.text
    return table


def _table(rows: list[list[str]]) -> str:
    if not rows:
        return ""
    head, *body = [f"| {' | '.join(_escaped(' '.join(cell.split())) for cell in row)} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def _escaped(line: str) -> str:
    return _MARKS.sub(r"\\\1", line.replace("&", "&amp;"))


def _not_a_mark(start: re.Match[str]) -> str:
    space, mark = start.groups()
    return f"{space}{mark[:-1]}\\{mark[-1]}"
