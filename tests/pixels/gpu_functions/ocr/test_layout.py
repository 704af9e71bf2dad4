"""Lines of print become blocks, columns and tables by where they stand."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
import pytest

from contracts import ocr_text
from contracts.ocr import Kind, Page
from gpu_functions.ocr import layout
from gpu_functions.ocr.lines import Found
from tests.pixels.gpu_functions.ocr import papers

HIGH = 20  # of a line, pixels


def found(text: str, x: float, y: float, wide: float | None = None, high: float = HIGH) -> Found:
    """A line as a reader finds it; letters are half as wide as high."""
    right = x + (wide or len(text) * high / 2)
    return Found(np.array([[x, y], [right, y], [right, y + high], [x, y + high]], float), text, 0.9)


def laid(lines: list[Found], pixels: Any = None, rotation: int = 0) -> Page:
    blank = np.full((1000, 800, 3), 255, np.uint8)
    return layout.page(lines, blank if pixels is None else pixels, "test@1", (800, 1000), rotation, [])


def texts(page: Page) -> list[list[str]]:
    return [[line.text for line in block.lines] for block in page.blocks]


def paragraph(x: float, y: float, name: str, rows: int = 5) -> list[Found]:
    return [found(f"{name} says row {at} of prose", x, y + 26 * at) for at in range(rows)]


def test_columns_are_read_one_after_the_other() -> None:
    left, right = paragraph(50, 200, "left"), paragraph(400, 204, "right")
    mixed = [line for pair in zip(left, right, strict=True) for line in pair]
    page = laid([found("One headline over both of them", 50, 100, high=34), *mixed])
    assert texts(page) == [["One headline over both of them"], [f.text for f in left], [f.text for f in right]]
    assert [block.kind for block in page.blocks] == [Kind.TITLE, Kind.TEXT, Kind.TEXT]


def test_a_wide_band_of_white_parts_paragraphs_and_the_space_between_lines_does_not() -> None:
    assert len(laid(paragraph(50, 100, "first") + paragraph(50, 270, "second")).blocks) == 2
    assert len(laid([found(f"row {at} is set with much space", 50, 100 + 40 * at) for at in range(8)]).blocks) == 1


def test_texts_beside_each_other_are_one_row() -> None:
    (block,) = laid([found("later", 140, 103), found("Name:", 50, 100)]).blocks[:1]
    assert block.lines[0].text == "Name:"


def drawn(rows: list[int], columns: list[int], gaps: list[tuple[int, int, int, int]] = []) -> Any:  # noqa: B006
    """Rules at these places; `gaps` are wiped out, so that cells merge."""
    pixels = np.full((1000, 800, 3), 255, np.uint8)
    for y in rows:
        cv2.line(pixels, (columns[0], y), (columns[-1], y), (60, 60, 60), 2)
    for x in columns:
        cv2.line(pixels, (x, rows[0]), (x, rows[-1]), (60, 60, 60), 2)
    for left, top, right, bottom in gaps:
        pixels[top:bottom, left:right] = 255
    return pixels


def test_rules_make_cells_and_a_missing_rule_merges_them() -> None:
    pixels = drawn([100, 150, 200, 250], [50, 250, 450, 650], gaps=[(240, 104, 260, 147)])
    lines = [
        found("over two", 70, 115),
        found("c", 470, 115),
        *(found(f"{row}{column}", 70 + 200 * column, 65 + 50 * row) for row in (2, 3) for column in range(3)),
        found("prose below the table", 50, 300),
    ]
    table, prose = laid(lines, pixels).blocks
    assert prose.kind is Kind.TEXT
    assert [(c.row, c.column, c.row_span, c.column_span, c.text) for c in table.cells] == [
        (0, 0, 1, 2, "over two"),
        (0, 2, 1, 1, "c"),
        *((row - 1, column, 1, 1, f"{row}{column}") for row in (2, 3) for column in range(3)),
    ]
    x, y, width, height = table.cells[0].box or (0, 0, 0, 0)
    assert x * 800 == pytest.approx(51, abs=5)
    assert y * 1000 == pytest.approx(101, abs=5)
    assert width * 800 == pytest.approx(398, abs=8)
    assert height * 1000 == pytest.approx(48, abs=8)


def test_a_line_that_runs_over_a_rule_is_given_to_both_cells() -> None:
    lines = [found("Reading", 60, 115), found("A steady", 230, 115, wide=160), found("Art B low", 60, 165, wide=390)]
    (table,) = laid(lines, drawn([100, 150, 200], [50, 210, 300, 480])).blocks
    assert ocr_text.grid(table.cells) == [["Reading", "A", "steady"], ["Art", "B", "low"]]


def test_a_sloping_table_has_the_same_cells() -> None:
    pixels = drawn([100, 150, 200], [50, 250, 450])
    turn = cv2.getRotationMatrix2D((400, 500), -4.0, 1.0).astype(float)
    sloping = cv2.warpAffine(pixels, turn, (800, 1000), borderValue=(255, 255, 255))
    lines = [found(f"cell {r}{c}", 70 + 200 * c, 115 + 50 * r, wide=120).turned(turn) for r in (0, 1) for c in (0, 1)]
    page = laid(lines, sloping)
    assert page.skew == pytest.approx(4.0, abs=0.1)
    assert ocr_text.grid(page.blocks[0].cells) == [["cell 00", "cell 01"], ["cell 10", "cell 11"]]


def test_texts_in_rows_and_columns_are_a_table_without_rules() -> None:
    rows = [("Mathematics", "A"), ("Reading", "B+"), ("Science", "C"), ("Art", "A-")]
    lines = [
        found(text, 50 + 300 * at, 100 + 30 * row) for row, pair in enumerate(rows) for at, text in enumerate(pair)
    ]
    (table,) = laid(lines).blocks
    assert table.kind is Kind.TABLE
    assert ocr_text.grid(table.cells) == [list(row) for row in rows]


def test_a_frame_around_a_page_is_no_table() -> None:
    lines = [found(f"row {at} of much text in a frame", 80, 60 + 28 * at) for at in range(30)]
    page = laid(lines, drawn([20, 930, 960], [20, 700, 760]))
    assert all(block.kind is not Kind.TABLE for block in page.blocks)


def test_a_page_on_its_side_tells_its_upright_size() -> None:
    page = laid([found("text", 10, 10)], np.full((800, 1000, 3), 255, np.uint8), rotation=90)
    assert (page.width, page.height, page.rotation) == (1000, 800, 90)


def test_a_thousand_scattered_lines_are_ordered_in_bounded_time() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform((0, 0), (760, 980), (1000, 2))
    before = time.process_time()
    page = laid([found(f"t{at}", x, y) for at, (x, y) in enumerate(places)])
    assert sum(len(block.lines) for block in page.blocks) == 1000
    assert time.process_time() - before < 6.0


def test_words_without_places_lie_by_their_length() -> None:
    (_, line), *_ = papers.lines(laid([found("one three", 100, 100, wide=90)]))
    assert [word.text for word in line.words] == ["one", "three"]
    assert papers.bounds(line.words[1].quad)[0] * 800 == pytest.approx(100 + 90 * 4 / 9, abs=0.1)
