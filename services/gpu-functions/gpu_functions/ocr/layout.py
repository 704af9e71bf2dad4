"""Lines of print -> blocks in the order of reading. Geometry only: no model says what belongs together.

The law: lines are laid level first (a photographed page slopes), tables are taken out as wholes, and what is left
is cut where the paper is white (recursive XY cut: Nagy and Seth, ICPR 1984): into columns where a white band runs
all the way down, else across at the widest bands, until only paragraphs are left. Lengths below are in heights
of a line of body text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

import cv2
import numpy as np

from contracts.ocr import Block, Box, Cell, Kind, Page
from gpu_functions.ocr import tables
from gpu_functions.ocr.lines import Floats, Found, shares
from gpu_functions.ocr.scan import Scan

GUTTER: Final = 0.8  # of white between two columns of text: found boxes reach a third beyond their letters
PARAGRAPH: Final = 0.45  # of white between two paragraphs, at least
LOOSE: Final = 0.35  # and this much more than is usual around it
LARGER: Final = 1.15  # a title's letters than the body's: bold ones are wider, large ones both
JUMP: Final = 1.2  # from one line's letters to the next one's: another paragraph
LETTERS_MIN: Final = 6  # fewer do not tell how large they are
TITLE_WORDS_MAX: Final = 14
SKEW_MAX: Final = 20.0  # degrees; more is no page that lies crooked, but something else


@dataclass(frozen=True, slots=True)
class Unit:
    """What is not cut any more: a line, or a table of several. `box` is left, top, right, bottom in pixels."""

    box: Floats
    lines: tuple[Found, ...]
    cells: tuple[tables.Cell, ...] = ()


def page(
    found: Sequence[Found], pixels: Scan, engine: str, size: tuple[int, int], rotation: int, languages: list[str]
) -> Page:
    """The page that the lines `found` on `pixels` make. `size` is width and height as it came, before `rotation`."""
    height, width = pixels.shape[:2]
    skew = slope(found)
    level = cv2.getRotationMatrix2D((width / 2, height / 2), skew, 1.0).astype(float)
    straight = [line.turned(level) for line in found]
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.uint8)
    if skew:
        gray = cv2.warpAffine(
            gray, level, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        ).astype(np.uint8)
    back = cv2.invertAffineTransform(level).astype(float)
    em = line_height(straight)
    letters = _letters(straight)
    blocks = [_block(units, letters, back, (width, height)) for units in arranged(straight, gray, em)]
    wide, high = size if rotation in (0, 180) else size[::-1]
    turn = cast(Literal[0, 90, 180, 270], rotation)
    return Page(engine=engine, width=wide, height=high, rotation=turn, skew=skew, languages=languages, blocks=blocks)


def arranged(lines: Sequence[Found], gray: Scan, em: float) -> list[list[Unit]]:
    """The units of each block, in the order of reading; `lines` and `gray` are level."""
    grids, rest = tables.ruled(gray, lines, em)
    aligned, rest = tables.aligned(rest, em)
    units = [Unit(grid.box, grid.lines, grid.cells) for grid in (*grids, *aligned)]
    return in_order([*units, *(Unit(line.box, (line,)) for line in rest)], em)


def slope(lines: Sequence[Found]) -> float:
    """By how many degrees clockwise the lines slope: the median, each weighing as much as it is long."""
    sides = np.array([line.quad[1] - line.quad[0] + line.quad[2] - line.quad[3] for line in lines]).reshape(-1, 2)
    angles = np.degrees(np.arctan2(sides[:, 1], sides[:, 0]))
    near = np.abs(angles) < SKEW_MAX
    if not near.any():
        return 0.0
    return round(_median(angles[near], np.hypot(*sides[near].T)), 3)


def line_height(lines: Sequence[Found]) -> float:
    """The height in pixels of body text: the median, each line weighing as much as its text is long."""
    if not lines:
        return 1.0
    return max(1.0, _median(np.array([line.size[1] for line in lines]), np.array([len(line.text) for line in lines])))


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
        letters = _letters([line for unit in row for line in unit.lines])
        jump = before and letters and max(letters, before) > JUMP * min(letters, before)
        if blocks and not jump and not any(unit.cells for unit in (*blocks[-1], *row)):
            blocks[-1].extend(row)
        else:
            blocks.append(list(row))
        before = letters or before
    return blocks


def _letters(lines: Sequence[Found]) -> float:
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


def _block(units: list[Unit], letters: float, back: Floats, size: tuple[int, int]) -> Block:
    """The block of these units, on the page as it lies: turned by `back`."""
    lines = [line for unit in units for line in unit.lines]
    cells = [cell for unit in units for cell in unit.cells]
    rims = [cell.box for cell in cells] + [line.box for line in lines]
    table = [
        Cell(
            row=cell.row,
            column=cell.column,
            row_span=cell.row_span,
            column_span=cell.column_span,
            text=cell.text,
            box=_box(_corners(cell.box), back, size),
        )
        for cell in cells
    ]
    kind = Kind.TABLE if table else Kind.TITLE if _is_title(lines, letters) else Kind.TEXT
    corners = np.concatenate([_corners(rim) for rim in rims] if table else [line.quad for line in lines])
    return Block(
        kind=kind, box=_box(corners, back, size), cells=table, lines=[line.turned(back).line(*size) for line in lines]
    )


def _is_title(lines: Sequence[Found], letters: float) -> bool:
    """Whether these are larger than the page's usual `letters`, and few."""
    text = " ".join(line.text for line in lines)
    return _letters(lines) >= LARGER * letters > 0 and len(text.split()) <= TITLE_WORDS_MAX


def _corners(box: Floats) -> Floats:
    left, top, right, bottom = box
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _box(corners: Floats, back: Floats, size: tuple[int, int]) -> Box:
    """The hull, as shares of the page, of points that are turned by `back`."""
    turned = replace(Found(corners, "", 0.0)).turned(back).box
    (left, top), _, (right, bottom), _ = shares(_corners(turned), *size)
    return left, top, round(min(right - left, 1.0 - left), 6), round(min(bottom - top, 1.0 - top), 6)


def _median(values: Floats, weights: Floats) -> float:
    """The value that as much weight lies below as above."""
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][int(np.searchsorted(share, share[-1] / 2))])
