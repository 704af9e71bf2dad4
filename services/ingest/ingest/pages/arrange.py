"""Words that lie on a page -> blocks in the order of reading. Pure geometry, in points of the page as it is shown.

Here nothing has to be guessed of what a word says or where it ends, so it takes less than for a picture: rules that
are drawn make tables; rows of short pieces that begin below each other do too; the rest is cut where the paper is
white (recursive XY cut: Nagy and Seth, ICPR 1984). Lengths are in heights of the usual line.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from contracts.ocr import Block, Cell, Kind, Line, Quad
from contracts.ocr import Box as Share
from contracts.ocr import Word as ReadWord

Box = tuple[float, float, float, float]  # left, top, right, bottom

GAP: Final = 1.0  # of white between two pieces of a row: more than a space, less than between columns
GUTTER: Final = 0.9  # of white between two columns
BAND: Final = 0.75  # of white between two paragraphs
LARGER: Final = 1.25  # a title's line than the usual one
TITLE_WORDS_MAX: Final = 14
ROWS_MIN: Final = 3  # of a table without rules
PIECE_MAX: Final = 28  # letters of its pieces, usually: longer ones are columns of prose
HAIR: Final = 2.5  # points that a rule is thick at most
DEPTH_MAX: Final = 12


@dataclass(frozen=True, slots=True)
class Word:
    """What stands between two spaces."""

    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Piece:
    """Words beside each other without a wide gap."""

    words: tuple[Word, ...]

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)

    @property
    def box(self) -> Box:
        return _hull([word.box for word in self.words])


Row = list[Piece]


@dataclass(slots=True)
class _Table:
    box: Box
    cells: dict[tuple[int, int], list[Piece]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Paper:
    """The page's size, and the height of its usual line."""

    width: float
    height: float
    em: float

    def share(self, box: Box) -> Share:
        left, top = _clip(box[0] / self.width), _clip(box[1] / self.height)
        return left, top, _clip(box[2] / self.width - left, 1 - left), _clip(box[3] / self.height - top, 1 - top)

    def quad(self, box: Box) -> Quad:
        left, top = _clip(box[0] / self.width), _clip(box[1] / self.height)
        right, bottom = _clip(box[2] / self.width), _clip(box[3] / self.height)
        return (left, top), (right, top), (right, bottom), (left, bottom)


def blocks(words: Sequence[Word], rules: Sequence[Box], width: float, height: float) -> list[Block]:
    """The page's blocks. Words whose middle lies beside the page are left out; `rules` are boxes of what is drawn."""
    on_page = [word for word in words if 0 <= _middle(word.box)[0] <= width and 0 <= _middle(word.box)[1] <= height]
    if not on_page:
        return []
    em = max(1.0, statistics.median(word.box[3] - word.box[1] for word in on_page))
    paper = _Paper(width, height, em)
    rows = _rows(on_page, em)
    tables, rest = _ruled(rows, _grids(rules, em))
    aligned, rest = _aligned(rest, em)
    things: list[tuple[Box, _Table | Piece]] = [(table.box, table) for table in (*tables, *aligned)]
    things += [(piece.box, piece) for row in rest for piece in row]
    return [_block(group, paper) for group in _cut(things, em)]


def _rows(words: Sequence[Word], em: float) -> list[Row]:
    """Words on one line, in pieces where the gap is wide."""
    lines: list[list[Word]] = []
    for word in sorted(words, key=lambda word: _middle(word.box)[1]):
        if lines and _middle(word.box)[1] - _middle(lines[-1][-1].box)[1] < 0.45 * em:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [_pieces(sorted(line, key=lambda word: word.box[0]), em) for line in lines]


def _pieces(line: list[Word], em: float) -> Row:
    found = [[line[0]]]
    for word in line[1:]:
        if word.box[0] - found[-1][-1].box[2] > GAP * em:
            found.append([])
        found[-1].append(word)
    return [Piece(tuple(words)) for words in found]


# -- tables --------------------------------------------------------------------------------------


def _grids(rules: Sequence[Box], em: float) -> list[tuple[list[float], list[float]]]:
    """Where drawn lines cross: the edges of columns and of rows of each grid with two cells at least."""
    across: list[Box] = []
    down: list[Box] = []
    for left, top, right, bottom in rules:
        wide, high = right - left, bottom - top
        if high <= HAIR and wide > 2 * em:
            across.append((left, top, right, bottom))
        elif wide <= HAIR and high > em:
            down.append((left, top, right, bottom))
        elif wide > 2 * em and high > em:  # a frame, or a cell that is filled
            across += [(left, top, right, top), (left, bottom, right, bottom)]
            down += [(left, top, left, bottom), (right, top, right, bottom)]
    grids = []
    for region in _regions([*across, *down]):
        xs = _edges([(box[0] + box[2]) / 2 for box in down if _inside(box, region)])
        ys = _edges([(box[1] + box[3]) / 2 for box in across if _inside(box, region)])
        if len(xs) >= 2 and len(ys) >= 2 and len(xs) + len(ys) >= 5:
            grids.append((xs, ys))
    return grids


def _regions(boxes: Sequence[Box]) -> list[Box]:
    """Hulls of boxes that touch each other."""
    found: list[Box] = []
    for box in sorted(boxes, key=lambda one: (one[1], one[0])):
        grown = (box[0] - HAIR, box[1] - HAIR, box[2] + HAIR, box[3] + HAIR)
        touching = [one for one in found if _meet(one, grown)]
        found = [one for one in found if one not in touching]
        found.append(_hull([*touching, box]))
    return found


def _edges(at: Sequence[float]) -> list[float]:
    edges: list[float] = []
    for one in sorted(at):
        if not edges or one - edges[-1] > 2 * HAIR:
            edges.append(one)
    return edges


def _ruled(rows: list[Row], grids: list[tuple[list[float], list[float]]]) -> tuple[list[_Table], list[Row]]:
    """The tables that are drawn, and what lies beside them. A word belongs to the cell that its middle is in."""
    tables = [_Table((xs[0], ys[0], xs[-1], ys[-1])) for xs, ys in grids]
    rest: list[Row] = []
    for row in rows:
        left: Row = []
        for piece in row:
            beside: list[Word] = []
            inside: dict[tuple[int, int, int], list[Word]] = {}
            for word in piece.words:
                x, y = _middle(word.box)
                where = next(
                    (
                        (n, r, c)
                        for n, (xs, ys) in enumerate(grids)
                        if (r := _slot(ys, y)) is not None and (c := _slot(xs, x)) is not None
                    ),
                    None,
                )
                (beside if where is None else inside.setdefault(where, [])).append(word)
            for (n, r, c), words in inside.items():
                tables[n].cells.setdefault((r, c), []).append(Piece(tuple(words)))
            if beside:
                left.append(Piece(tuple(beside)))
        if left:
            rest.append(left)
    return [table for table in tables if table.cells], rest


def _slot(edges: list[float], at: float) -> int | None:
    return next((n for n in range(len(edges) - 1) if edges[n] <= at < edges[n + 1]), None)


def _aligned(rows: list[Row], em: float) -> tuple[list[_Table], list[Row]]:
    """Tables without rules: three rows or more of short pieces that begin below each other."""
    tables: list[_Table] = []
    rest: list[Row] = []
    run: list[Row] = []

    def end() -> None:
        lengths = [len(piece.text) for row in run for piece in row]
        if len(run) >= ROWS_MIN and statistics.median(lengths) <= PIECE_MAX:
            columns = [piece.box[0] for piece in max(run, key=len)]
            table = _Table(_hull([piece.box for row in run for piece in row]))
            for r, row in enumerate(run):
                for piece in row:
                    column = min(range(len(columns)), key=lambda c: abs(columns[c] - piece.box[0]))
                    table.cells.setdefault((r, column), []).append(piece)
            tables.append(table)
        else:
            rest.extend(run)
        run.clear()

    for row in rows:
        near = not run or row[0].box[1] - run[-1][0].box[3] < 1.8 * em
        fits = not run or sum(_begins(piece, run[-1], em) for piece in row) >= 2
        if len(row) >= 2 and near and fits:
            run.append(row)
            continue
        end()
        run.extend([row] if len(row) >= 2 else [])
        rest.extend([] if len(row) >= 2 else [row])
    end()
    return tables, sorted(rest, key=lambda row: row[0].box[1])


def _begins(piece: Piece, above: Row, em: float) -> bool:
    return any(abs(piece.box[0] - other.box[0]) < 0.8 * em for other in above)


# -- the order of reading ------------------------------------------------------------------------

_Thing = tuple[Box, _Table | Piece]


def _cut(things: list[_Thing], em: float, depth: int = 0) -> list[list[_Thing]]:
    """Groups of things in the order of reading: columns where white runs all the way down, else bands."""
    if len(things) < 2 or depth >= DEPTH_MAX:
        return [things] if things else []
    for axis, wide in ((0, GUTTER * em), (1, BAND * em)):
        parts = _split(things, axis, wide)
        if len(parts) > 1 and (axis or _are_columns(parts)):
            return [group for part in parts for group in _cut(part, em, depth + 1)]
    ordered = sorted(things, key=lambda thing: (round(_middle(thing[0])[1] / (0.5 * em)), thing[0][0]))
    return _by_kind(ordered, em)


def _are_columns(parts: list[list[_Thing]]) -> bool:
    """Whether parts stand beside each other, with several lines each: pieces of one row do not."""
    hulls = [_hull([thing[0] for thing in part]) for part in parts]
    lowest, highest = min(box[3] for box in hulls), max(box[1] for box in hulls)
    return all(len(part) > 1 for part in parts) and lowest - highest >= 0.5 * min(_high(box) for box in hulls)


def _split(things: list[_Thing], axis: int, wide: float) -> list[list[_Thing]]:
    ordered = sorted(things, key=lambda thing: thing[0][axis])
    parts, reach = [[ordered[0]]], ordered[0][0][axis + 2]
    for thing in ordered[1:]:
        if thing[0][axis] - reach > wide:
            parts.append([])
        parts[-1].append(thing)
        reach = max(reach, thing[0][axis + 2])
    return parts


def _by_kind(things: list[_Thing], em: float) -> list[list[_Thing]]:
    """A table stands alone, and so do lines whose letters are of another size."""
    groups: list[list[_Thing]] = []
    for thing in things:
        before = groups[-1][-1] if groups else None
        same = (
            before is not None
            and not isinstance(thing[1], _Table)
            and not isinstance(before[1], _Table)
            and _high(thing[0]) < LARGER * _high(before[0]) < LARGER**2 * _high(thing[0])
        )
        if same:
            groups[-1].append(thing)
        else:
            groups.append([thing])
    return groups


def _block(things: list[_Thing], paper: _Paper) -> Block:
    box = paper.share(_hull([thing[0] for thing in things]))
    first = things[0][1]
    if isinstance(first, _Table):
        cells = [
            Cell(
                row=row,
                column=column,
                text="\n".join(piece.text for piece in pieces),
                box=paper.share(_hull([piece.box for piece in pieces])),
            )
            for (row, column), pieces in sorted(first.cells.items())
        ]
        lines = [_line([piece], paper) for _, pieces in sorted(first.cells.items()) for piece in pieces]
        return Block(kind=Kind.TABLE, box=box, lines=lines, cells=cells)
    pieces = [thing[1] for thing in things if isinstance(thing[1], Piece)]
    rows = _together(pieces, paper.em)
    words = sum(len(piece.words) for piece in pieces)
    title = words <= TITLE_WORDS_MAX and min(_high(piece.box) for piece in pieces) >= LARGER * paper.em
    return Block(kind=Kind.TITLE if title else Kind.TEXT, box=box, lines=[_line(row, paper) for row in rows])


def _together(pieces: list[Piece], em: float) -> list[Row]:
    rows: list[Row] = []
    for piece in pieces:
        if rows and abs(_middle(rows[-1][-1].box)[1] - _middle(piece.box)[1]) < 0.45 * em:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    return rows


def _line(pieces: Sequence[Piece], paper: _Paper) -> Line:
    words = [word for piece in pieces for word in piece.words]
    return Line(
        text=" ".join(word.text for word in words),
        quad=paper.quad(_hull([word.box for word in words])),
        words=[ReadWord(text=word.text, quad=paper.quad(word.box)) for word in words],
    )


def _hull(boxes: Sequence[Box]) -> Box:
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _high(box: Box) -> float:
    return box[3] - box[1]


def _meet(one: Box, other: Box) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _inside(box: Box, region: Box) -> bool:
    x, y = _middle(box)
    return region[0] - HAIR <= x <= region[2] + HAIR and region[1] - HAIR <= y <= region[3] + HAIR


def _clip(value: float, most: float = 1.0) -> float:
    return round(min(max(value, 0.0), max(most, 0.0)), 6)
