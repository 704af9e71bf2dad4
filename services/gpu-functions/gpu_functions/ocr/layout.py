"""Lines of print -> blocks in the order of reading. Geometry only: no model says what belongs together.

The law: lines are laid level first (a photographed page slopes), tables are taken out as wholes, and what is left
is cut where the paper is white (recursive XY cut: Nagy and Seth, ICPR 1984): into columns where a white band runs
all the way down, else across at the widest bands, until only paragraphs are left. Lengths below are in heights
of a line of body text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import cv2
import numpy as np

from contracts.ocr import Block, Box, Cell, Kind, Page
from gpu_functions.ocr import tables
from gpu_functions.ocr.level import Level
from gpu_functions.ocr.lines import Floats, Found
from gpu_functions.ocr.scan import Scan

GUTTER: Final = 0.55  # of white between two columns of text: found boxes reach beyond their letters
PARAGRAPH: Final = 0.45  # of white between two paragraphs, at least
LOOSE: Final = 0.35  # and this much more than is usual around it
LARGER: Final = 1.15  # a title's letters than the body's: bold ones are wider, large ones both
JUMP: Final = 1.2  # from one line's letters to the next one's: another paragraph
LETTERS_MIN: Final = 6  # fewer do not tell how large they are
TITLE_WORDS_MAX: Final = 14


@dataclass(frozen=True, slots=True)
class Unit:
    """What is not cut any more: a line, or a table of several. `box` is left, top, right, bottom in pixels."""

    box: Floats
    lines: tuple[Found, ...]
    cells: tuple[tables.Cell, ...] = ()


def page(
    found: Sequence[Found], pixels: Scan, engine: str, size: tuple[int, int], rotation: int, languages: list[str]
) -> Page:
    """The page that the lines `found` on `pixels` make; the rest is as for `bound`."""
    level = Level.of(found, pixels)
    letters = letters_of(level.lines)
    blocks = [block(units, letters, level) for units in arranged(level, pixels)]
    return bound(blocks, level, engine, size, rotation, languages)


def bound(
    blocks: list[Block], level: Level, engine: str, size: tuple[int, int], rotation: int, languages: list[str]
) -> Page:
    """The page of these blocks. `size` is width and height as it came, before it was turned by `rotation`."""
    width, height = size if rotation in (0, 180) else size[::-1]
    return Page(
        engine=engine,
        width=width,
        height=height,
        rotation=cast(Literal[0, 90, 180, 270], rotation),
        skew=level.skew,
        languages=languages,
        blocks=blocks,
    )


def arranged(level: Level, pixels: Scan, *, drawn_only: bool = False) -> list[list[Unit]]:
    """The units of each block, in the order of reading; tables without rules too, unless `drawn_only`."""
    gray = level.pixels(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), np.uint8))
    grids, rest = tables.ruled(gray, level.lines, level.em)
    aligned, rest = ([], rest) if drawn_only else tables.aligned(rest, level.em)
    units = [Unit(grid.box, grid.lines, grid.cells) for grid in (*grids, *aligned)]
    return in_order([*units, *(Unit(line.box, (line,)) for line in rest)], level.em)


def in_order(units: list[Unit], em: float) -> list[list[Unit]]:
    """Cut until only blocks are left. A stack and no recursion: the units are as many as a stranger likes."""
    blocks: list[list[Unit]] = []
    waiting = [units] if units else []
    while waiting:
        group = waiting.pop()
        parts = _columns(group, em) or _bands(group, em)
        if parts is None:
            blocks.extend(_paragraphs(group, em))
        else:
            waiting.extend(reversed(parts))
    return blocks


def _columns(units: list[Unit], em: float) -> list[list[Unit]] | None:
    """Parts beside each other, from the left; None when no white band runs all the way down."""
    parts, gaps = _split(units, 0, lambda gap: gap >= GUTTER * em)
    return parts if gaps else None


def _bands(units: list[Unit], em: float) -> list[list[Unit]] | None:
    """Parts below each other, cut at the widest bands; None when no band is wider than between lines."""
    _, every = _split(units, 1, lambda _: True)
    if not every:
        return None
    widest = max(every)
    if widest <= max(PARAGRAPH * em, float(np.median(every)) + LOOSE * em) and not any(unit.cells for unit in units):
        return None
    parts, _ = _split(units, 1, lambda gap: gap >= 0.8 * widest)
    return parts


def _split(units: list[Unit], axis: int, wide: Callable[[float], bool]) -> tuple[list[list[Unit]], list[float]]:
    """Cut across `axis` (0: x, 1: y) at each gap that is `wide`; the parts, and the gaps that were cut at.

    Boxes reach over their letters, so that those of close lines overlap: a sixth of each side is no ink.
    """
    loose = np.array([(unit.box[axis + 2] - unit.box[axis]) / 6 if axis and not unit.cells else 0.0 for unit in units])
    begins = np.array([unit.box[axis] for unit in units]) + loose
    ends = np.array([unit.box[axis + 2] for unit in units]) - loose
    order = np.argsort(begins, kind="stable")
    parts, gaps, reach = [[units[order[0]]]], [], float(ends[order[0]])
    for at in order[1:]:
        gap = float(begins[at]) - reach
        if gap > 0 and wide(gap):
            gaps.append(gap)
            parts.append([])
        parts[-1].append(units[at])
        reach = max(reach, float(ends[at]))
    return parts, gaps


def _paragraphs(units: list[Unit], em: float) -> list[list[Unit]]:
    """A group without white bands: one block, or several where the letters change their size."""
    blocks: list[list[Unit]] = []
    before = 0.0
    for row in _rows(units, em):
        letters = letters_of([line for unit in row for line in unit.lines])
        jump = before and letters and max(letters, before) > JUMP * min(letters, before)
        if blocks and not jump and not any(unit.cells for unit in (*blocks[-1], *row)):
            blocks[-1].extend(row)
        else:
            blocks.append(list(row))
        before = letters or before
    return blocks


def letters_of(lines: Sequence[Found]) -> float:
    """The typical size of the letters of these lines, pixels: the root of the area that one takes; 0 for too few."""
    sizes = [
        math.sqrt(length * height / len(line.text))
        for line in lines
        for length, height in [line.size]
        if len(line.text) >= LETTERS_MIN
    ]
    return float(np.median(sizes)) if sizes else 0.0


def _rows(units: list[Unit], em: float) -> list[list[Unit]]:
    """Units beside each other, each row from the left, the rows from the top."""
    rows: list[list[Unit]] = []
    for unit in sorted(units, key=lambda unit: float(unit.box[1] + unit.box[3])):
        middle = (unit.box[1] + unit.box[3]) / 2
        last = rows[-1][-1] if rows else None
        if last is not None and not (last.cells or unit.cells) and middle - (last.box[1] + last.box[3]) / 2 < em / 2:
            rows[-1].append(unit)
        else:
            rows.append([unit])
    return [sorted(row, key=lambda unit: float(unit.box[0])) for row in rows]


def block(units: list[Unit], letters: float, level: Level) -> Block:
    """The block of these units, on the page as it lies. `letters`: the usual size of letters, for titles."""
    lines = [line for unit in units for line in unit.lines]
    cells = [cell for unit in units for cell in unit.cells]
    kind = Kind.TABLE if cells else Kind.TITLE if is_title(lines, letters) else Kind.TEXT
    return Block(
        kind=kind,
        box=hull(units, level),
        cells=[
            Cell(
                row=cell.row,
                column=cell.column,
                row_span=cell.row_span,
                column_span=cell.column_span,
                text=cell.text,
                box=box_of(cell.box, level),
            )
            for cell in cells
        ],
        lines=[line.turned(level.back).line(*level.size) for line in lines],
    )


def hull(units: Sequence[Unit], level: Level) -> Box:
    """What the units cover."""
    boxes = np.array([unit.box for unit in units])
    return box_of(np.array([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]), level)


def is_title(lines: Sequence[Found], letters: float) -> bool:
    """Whether these are larger than the page's usual `letters`, and few."""
    text = " ".join(line.text for line in lines)
    return letters_of(lines) >= LARGER * letters > 0 and len(text.split()) <= TITLE_WORDS_MAX


def box_of(box: Floats, level: Level) -> Box:
    """A level box, on the page as it lies: the hull of its corners, as shares of the page."""
    left, top, right, bottom = box
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    turned = corners @ level.back[:, :2].T + level.back[:, 2]
    (x, y), (x_, y_) = np.clip(np.array([turned.min(axis=0), turned.max(axis=0)]) / level.size, 0.0, 1.0).tolist()
    x, y = round(x, 6), round(y, 6)
    return x, y, round(min(x_ - x, 1.0 - x), 6), round(min(y_ - y, 1.0 - y), 6)
