"""Tables: where rules make cells, and where texts stand in rows and columns without any.

A ruled table is found as its holders see it: long straight rules that cross; the holes that they leave are the
cells, so that merged cells come by themselves. An aligned one is believed only when three rows or more have texts
in the same columns and its columns hold few words: two columns of prose are no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from gpu_functions.ocr.lines import Floats, Found
from gpu_functions.ocr.scan import Scan

CELLS_MAX: Final = 4000
TABLES_MAX: Final = 40  # of a page, those with the most cells
CONTRAST: Final = 14.0  # of a rule to its paper, levels of 255
LINES_PER_CELL_MAX: Final = 12  # more is a frame around text, and no cell
ROWS_MIN: Final = 3  # of an aligned table
ROW_PITCH_MAX: Final = 3.0  # heights of a line from one row to the next
FILLED_MIN: Final = 0.6
PROSE_WORDS: Final = 4  # a column that has so many in most of its cells is prose


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell; `box` is left, top, right, bottom in pixels."""

    row: int
    column: int
    row_span: int
    column_span: int
    text: str
    box: Floats


@dataclass(frozen=True, slots=True)
class Grid:
    """A table with the lines that it took from the page, in the order of its cells."""

    box: Floats
    cells: tuple[Cell, ...]
    lines: tuple[Found, ...]


def ruled(gray: Scan, lines: Sequence[Found], em: float) -> tuple[list[Grid], list[Found]]:
    """Tables whose cells are drawn, and the lines that are in none. `em`: the height of a line in pixels."""
    rest = list(lines)
    grids: list[Grid] = []
    for holes in _holes(_rules(gray, em), em) if len(rest) > 1 else []:
        outer = np.array([*holes[:, :2].min(axis=0), *holes[:, 2:].max(axis=0)])
        inside = [line for line in rest if _holds(outer, _middle(line.box))]
        grid = _grid(holes, inside, em)
        if grid is not None:
            grids.append(grid)
            taken = set(map(id, inside))
            rest = [line for line in rest if id(line) not in taken]
    return grids, rest


def aligned(lines: Sequence[Found], em: float) -> tuple[list[Grid], list[Found]]:
    """Tables without rules, and the lines that are in none."""
    grids: list[Grid] = []
    taken: set[int] = set()
    for rows in _runs(_rows(lines, em), em):
        grid = _aligned(rows, em)
        if grid is not None:
            grids.append(grid)
            taken.update(map(id, grid.lines))
    return grids, [line for line in lines if id(line) not in taken]


def _rules(gray: Scan, em: float) -> npt.NDArray[np.uint8]:
    """A mask of long straight lines, level and upright; letters' own strokes are shorter than that.

    A rule is thin across (a black hat finds it beside any text) and steady along (an average drowns the noise).
    """
    mask = np.zeros(gray.shape, np.uint8)
    for turned, long in ((False, 4 * em), (True, 2 * em)):
        page = np.ascontiguousarray(gray.T) if turned else gray
        thin = cv2.morphologyEx(page, cv2.MORPH_BLACKHAT, np.ones((max(5, round(em / 3)), 1), np.uint8))
        steady = cv2.blur(thin, (max(3, round(em / 3)), 1))
        dark = (steady > CONTRAST + 1.5 * float(np.median(thin))).astype(np.uint8)
        joined = cv2.morphologyEx(dark, cv2.MORPH_CLOSE, np.ones((1, max(1, round(em / 8))), np.uint8))
        found = np.asarray(cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((1, max(1, round(long))), np.uint8)))
        mask |= np.asarray(found.T if turned else found, np.uint8)
    reach = 2 * max(1, round(em / 12)) + 1  # rules that almost meet
    return np.asarray(cv2.dilate(mask, np.ones((reach, reach), np.uint8)), np.uint8)


def _holes(mask: npt.NDArray[np.uint8], em: float) -> list[Floats]:
    """For each thing that rules make, the boxes of the holes in it: N×4, left, top, right, bottom."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return []
    by_owner: dict[int, list[tuple[float, float, float, float]]] = {}
    for contour, (*_, owner) in zip(contours, tree[0], strict=True):
        x, y, wide, high = cv2.boundingRect(contour)
        if owner >= 0 and wide >= 0.6 * em and high >= 0.6 * em:
            by_owner.setdefault(int(owner), []).append((x, y, x + wide, y + high))
    tables = [np.array(holes, float) for holes in by_owner.values() if 4 <= len(holes) <= CELLS_MAX]
    return sorted(tables, key=len, reverse=True)[:TABLES_MAX]


def _grid(holes: Floats, lines: Sequence[Found], em: float) -> Grid | None:
    """The table of these cells; None when they make no rows and columns, or hold what no table holds."""
    columns, rows = _edges(holes[:, [0, 2]], em), _edges(holes[:, [1, 3]], em)
    if len(columns) < 3 or len(rows) < 3 or not lines:
        return None
    order = np.lexsort((holes[:, 0], np.searchsorted(rows, holes[:, 1] + 0.6 * em)))
    contents = _contents(holes[order], lines)
    if max(len(held) for held in contents) > LINES_PER_CELL_MAX:
        return None
    cells = []
    for hole, held in zip(holes[order], contents, strict=True):
        left, right = (_nearest(columns, edge) for edge in hole[[0, 2]])
        top, bottom = (_nearest(rows, edge) for edge in hole[[1, 3]])
        spans = max(1, bottom - top), max(1, right - left)
        cells.append(Cell(top, left, *spans, _stacked(held, em), hole))
    within = sorted(lines, key=lambda line: _place(holes[order], line))
    outer = np.array([*holes[:, :2].min(axis=0), *holes[:, 2:].max(axis=0)])
    return Grid(outer, tuple(cells), tuple(within))


def _contents(holes: Floats, lines: Sequence[Found]) -> list[list[tuple[Floats, str]]]:
    """What stands in each cell: middles and texts. A line that runs over a rule is given out word by word."""
    contents: list[list[tuple[Floats, str]]] = [[] for _ in holes]
    for line in lines:
        parts = [(line.part(begin, end), text) for text, begin, end, _ in line.words()]
        homes = [_home(holes, quad.mean(axis=0)) for quad, _ in parts]
        if len(set(homes)) <= 1:
            parts, homes = [(line.quad, line.text)], homes[:1] or [_home(holes, _middle(line.box))]
        for (quad, text), home in zip(parts, homes, strict=True):
            contents[home].append((quad.mean(axis=0), text))
    return contents


def _stacked(held: list[tuple[Floats, str]], em: float) -> str:
    """The texts of one cell: a line each, and what stands beside each other with a space between."""
    rows: list[list[tuple[Floats, str]]] = []
    for middle, text in sorted(held, key=lambda one: float(one[0][1])):
        if rows and middle[1] - rows[-1][0][0][1] < em / 2:
            rows[-1].append((middle, text))
        else:
            rows.append([(middle, text)])
    return "\n".join(" ".join(text for _, text in sorted(row, key=lambda one: float(one[0][0]))) for row in rows)


def _home(holes: Floats, point: Floats) -> int:
    """The cell that holds the point, or the one that is nearest to it."""
    outside = np.maximum(holes[:, :2] - point, 0) + np.maximum(point - holes[:, 2:], 0)
    return int(np.argmin(outside.sum(axis=1)))


def _place(holes: Floats, line: Found) -> tuple[int, float]:
    return _home(holes, _middle(line.box)), float(line.box[1])


def _edges(sides: Floats, em: float) -> Floats:
    """Where rules run: the sides of cells, those that are closer than a rule is thick taken together."""
    values = np.sort(sides.ravel())
    groups = np.split(values, np.flatnonzero(np.diff(values) > 0.6 * em) + 1)
    return np.array([group.mean() for group in groups])


def _nearest(edges: Floats, value: float) -> int:
    return int(np.argmin(np.abs(edges - value)))


def _rows(lines: Sequence[Found], em: float) -> list[list[Found]]:
    rows: list[list[Found]] = []
    for line in sorted(lines, key=lambda line: float(_middle(line.box)[1])):
        if rows and _middle(line.box)[1] - _middle(rows[-1][-1].box)[1] < em / 2:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [sorted(row, key=lambda line: float(line.box[0])) for row in rows]


def _runs(rows: list[list[Found]], em: float) -> list[list[list[Found]]]:
    """Rows of two texts or more that follow closely upon each other."""
    runs: list[list[list[Found]]] = [[]]
    for row in rows:
        far = runs[-1] and _middle(row[0].box)[1] - _middle(runs[-1][-1][0].box)[1] > ROW_PITCH_MAX * em
        if len(row) < 2 or far:
            runs.append([])
        if len(row) >= 2:
            runs[-1].append(row)
    return [run for run in runs if len(run) >= ROWS_MIN]


def _aligned(rows: list[list[Found]], em: float) -> Grid | None:
    """The table of these rows, or None when they do not stand in columns, or are prose."""
    lines = [line for row in rows for line in row]
    columns = _bands(lines, em / 2)
    places = [[int(np.searchsorted(columns[:, 0], line.box[0], side="right")) - 1 for line in row] for row in rows]
    once = all(len(set(row)) == len(row) for row in places)
    if len(columns) < 2 or not once or len(lines) < FILLED_MIN * len(columns) * len(rows):
        return None
    words = [
        float(np.median([len(line.text.split()) for row, at in zip(rows, places, strict=True)
                         for line, column in zip(row, at, strict=True) if column == one]))
        for one in range(len(columns))
    ]  # fmt: skip
    if sum(count >= PROSE_WORDS for count in words) > 1 or min(words) >= PROSE_WORDS - 1:
        return None
    tops = [min(float(line.box[1]) for line in row) for row in rows]
    ends = [max(float(line.box[3]) for line in row) for row in rows]
    cells = [
        Cell(
            number,
            column,
            1,
            1,
            line.text,
            np.array([columns[column, 0], tops[number], columns[column, 1], ends[number]]),
        )
        for number, (row, at) in enumerate(zip(rows, places, strict=True))
        for line, column in zip(row, at, strict=True)
    ]
    outer = np.array([columns[0, 0], min(tops), columns[-1, 1], max(ends)])
    return Grid(outer, tuple(cells), tuple(lines))


def _bands(lines: Sequence[Found], gap: float) -> Floats:
    """Left and right of each column: where lines lie above each other, with more than `gap` of white between."""
    spans = sorted((float(line.box[0]), float(line.box[2])) for line in lines)
    bands = [list(spans[0])]
    for left, right in spans[1:]:
        if left - bands[-1][1] > gap:
            bands.append([left, right])
        bands[-1][1] = max(bands[-1][1], right)
    return np.array(bands)


def _middle(box: Floats) -> Floats:
    return (box[:2] + box[2:]) / 2


def _holds(box: Floats, point: Floats) -> bool:
    return bool((box[:2] <= point).all() and (point <= box[2:]).all())
