"""Values read out of a document by a declared template: what stands beside a label, and rows below headings.

A template is data (`templates/*.yaml`, or a file in a user's folder): names of fields with the labels that they have
on paper. Print is read with mistakes, so labels are compared without case, accents and spaces, and one letter in
seven may be another. A value comes with its page, its box and how sure the reader was of its least sure word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from contracts.documents import ReadPage
from contracts.ocr import Block, Box, Cell, Kind, Line, Quad

ALIKE: Final = 0.85  # one wrong letter in seven
BELOW: Final = 2.2  # heights of the label, down to a value beneath it
LABEL_WORDS_MAX: Final = 6
VALUE_MAX: Final = 300  # letters: more is no value of a field


class Column(BaseModel):
    """What a field, or a column, is called on paper; `pattern` is what all of its value must match."""

    model_config = ConfigDict(extra="forbid")

    labels: list[str] = Field(min_length=1, max_length=50)
    pattern: str | None = None


class Template(BaseModel):
    """A template's file."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    version: int = Field(ge=1)
    fields: dict[str, Column] = Field(default_factory=dict, max_length=100)
    tables: dict[str, dict[str, Column]] = Field(default_factory=dict, max_length=20)


class Value(BaseModel):
    """What was found, and where. `unsure`: it does not look like what the template declares."""

    value: str
    page: int
    box: Box | None = None
    confidence: float | None = None
    unsure: bool = False


class Found(BaseModel):
    """The fields of a template; None for one that is not there."""

    template: str
    fields: dict[str, Value | None]
    tables: dict[str, list[dict[str, Value]]]


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    box: Box | None
    confidence: float | None


def extract(pages: Iterable[ReadPage], template: Mapping[str, Any]) -> Found:
    """The first value of each field in the order of reading, and all rows of tables, over all pages."""
    wanted = Template.model_validate(template)
    found: dict[str, Value | None] = dict.fromkeys(wanted.fields)
    rows: dict[str, list[dict[str, Value]]] = {name: [] for name in wanted.tables}
    for page in pages:
        blocks = page.page.blocks if page.page else []
        lines = [_words(line) for block in blocks for line in _lines(block)]
        for name, column in wanted.fields.items():
            if found[name] is None:
                found[name] = _beside(lines, column, wanted, page.number)
        for name, columns in wanted.tables.items():
            for block in blocks:
                if block.kind is Kind.TABLE:
                    rows[name] += _rows(block, columns, page.number)
    return Found(template=f"{wanted.name}@{wanted.version}", fields=found, tables=rows)


# -- beside a label ------------------------------------------------------------------------------


def _beside(lines: Sequence[list[_Word]], column: Column, template: Template, page: int) -> Value | None:
    labels = [label for one in template.fields.values() for label in one.labels]
    for n, line in enumerate(lines):
        for start in range(len(line)):
            end = _label(line, start, column.labels)
            if end is None:
                continue
            rest, glued = line[end:], _after_colon(line[end - 1].text)
            if glued:
                rest = [_Word(glued, line[end - 1].box, line[end - 1].confidence), *rest]
            value = _up_to_next_label(rest, labels) or _beneath(lines, n, line[start:end], labels)
            if value:
                return _value(value, column, page)
    return None


def _label(line: list[_Word], start: int, labels: Sequence[str]) -> int | None:
    """The end of a label that starts with this word of the line, None without one. A colon ends it, or the line."""
    said = ""
    for end in range(start + 1, min(len(line), start + LABEL_WORDS_MAX) + 1):
        head, colon, _ = line[end - 1].text.partition(":")
        said = f"{said} {head}"
        apart = not colon and end < len(line) and line[end].text == ":"
        alone = start == 0 and end == len(line)
        if (colon or apart or alone) and any(_alike(said, label) for label in labels):
            return end + apart
        if colon:
            return None
    return None


def _after_colon(text: str) -> str:
    head, colon, rest = text.partition(":")
    return rest.strip() if colon and head else ""


def _up_to_next_label(words: list[_Word], labels: Sequence[str]) -> list[_Word]:
    for at in range(1, len(words)):
        if _label(words, at, labels) is not None:
            return words[:at]
    return words


def _beneath(lines: Sequence[list[_Word]], n: int, label: list[_Word], labels: Sequence[str]) -> list[_Word]:
    """The line right of the label, or just below it."""
    here = _hull([word.box for word in label])
    if here is None:
        return []
    best: tuple[float, list[_Word]] | None = None
    for at, line in enumerate(lines):
        box = _hull([word.box for word in line])
        if at == n or box is None or not line or _label(line, 0, labels) is not None:
            continue
        beside = abs((box[1] + box[3] / 2) - (here[1] + here[3] / 2)) < 0.6 * here[3] and box[0] >= here[0] + here[2]
        below = 0 < box[1] - here[1] < BELOW * here[3] and box[0] < here[0] + here[2] and here[0] < box[0] + box[2]
        distance = box[0] - here[0] - here[2] if beside else 1 + box[1] - here[1] if below else None
        if distance is not None and (best is None or distance < best[0]):
            best = distance, line
    return best[1] if best else []


# -- below headings ------------------------------------------------------------------------------


def _rows(block: Block, columns: Mapping[str, Column], page: int) -> Iterator[dict[str, Value]]:
    """The rows of a table whose headings name every column."""
    rows: dict[int, dict[int, Cell]] = {}
    for cell in block.cells:
        rows.setdefault(cell.row, {})[cell.column] = cell
    head: dict[str, int] = {}
    for number in sorted(rows):
        row = rows[number]
        if not head:
            told = {
                name: next((at for at, cell in row.items() if any(_alike(cell.text, one) for one in column.labels)), -1)
                for name, column in columns.items()
            }
            head = told if min(told.values()) >= 0 else {}
            continue
        found = {
            name: _value([_in_cell(row[at], block)], columns[name], page)
            for name, at in head.items()
            if at in row and row[at].text.strip()
        }
        if found:
            yield found


def _in_cell(cell: Cell, block: Block) -> _Word:
    """A cell, as sure as the least sure of the words whose middle is in it."""
    text = " ".join(cell.text.split())
    if cell.box is None:
        return _Word(text, None, None)
    x, y, width, height = cell.box
    sure = [
        word.confidence
        for line in block.lines
        for word in _words(line)
        if word.box is not None
        and word.confidence is not None
        and x <= word.box[0] + word.box[2] / 2 <= x + width
        and y <= word.box[1] + word.box[3] / 2 <= y + height
    ]
    return _Word(text, cell.box, min(sure, default=None))


# -- both ----------------------------------------------------------------------------------------


def _value(words: list[_Word], column: Column, page: int) -> Value:
    text = " ".join(word.text for word in words)[:VALUE_MAX].strip().lstrip(":： ")
    sure = [word.confidence for word in words if word.confidence is not None]
    return Value(
        value=text,
        page=page,
        box=_hull([word.box for word in words]),
        confidence=round(min(sure), 4) if sure else None,
        unsure=column.pattern is not None and re.fullmatch(column.pattern, text) is None,
    )


def _lines(block: Block) -> Iterator[Line]:
    yield from block.lines
    if not block.lines:
        for cell in block.cells:
            yield Line(text=" ".join(cell.text.split()), quad=_quad(cell.box) if cell.box else None)


def _words(line: Line) -> list[_Word]:
    if line.words:
        return [_Word(word.text, _box(word.quad), word.confidence) for word in line.words if word.text]
    box = _box(line.quad) if line.quad else None
    return [_Word(text, box, line.confidence) for text in line.text.split()]


def _box(quad: Quad) -> Box:
    xs, ys = [point[0] for point in quad], [point[1] for point in quad]
    return min(xs), min(ys), round(max(xs) - min(xs), 6), round(max(ys) - min(ys), 6)


def _quad(box: Box) -> Quad:
    x, y, width, height = box
    right, bottom = min(1.0, x + width), min(1.0, y + height)
    return (x, y), (right, y), (right, bottom), (x, bottom)


def _hull(boxes: Sequence[Box | None]) -> Box | None:
    known = [box for box in boxes if box is not None]
    if not known:
        return None
    left, top = min(box[0] for box in known), min(box[1] for box in known)
    right, bottom = max(box[0] + box[2] for box in known), max(box[1] + box[3] for box in known)
    return left, top, round(min(right, 1.0) - left, 6), round(min(bottom, 1.0) - top, 6)


def _alike(said: str, label: str) -> bool:
    one, other = _plain(said), _plain(label)
    if not one or abs(len(one) - len(other)) > max(1, len(other) // 8):
        return False
    return one == other or SequenceMatcher(None, one, other, autojunk=False).ratio() >= ALIKE


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    bare = unicodedata.normalize("NFKD", text.casefold())
    return "".join(one for one in bare if one.isalnum())
