"""Tables that a language model wrote, well or not."""

from __future__ import annotations

import pytest

from contracts import ocr_text
from gpu_functions.ocr import markup


@pytest.mark.parametrize(
    ("written", "grid"),
    [
        ("<fcel>Subject<fcel>Mark<nl><fcel>Art<fcel>A<nl>", [["Subject", "Mark"], ["Art", "A"]]),
        ("<table><tr><th>Subject<th>Mark<tr><td>Art</td><td>A</table>", [["Subject", "Mark"], ["Art", "A"]]),
        ("<fcel>Year<lcel><nl><ecel><fcel>4<nl>", [["Year", ""], ["", "4"]]),
        ("<table><tr><td colspan=2>Year</td></tr><tr><td></td><td>4</td></tr></table>", [["Year", ""], ["", "4"]]),
        ("<table><tr><td rowspan='2'>a</td><td>b</td></tr><tr><td>c</td></tr></table>", [["a", "b"], ["", "c"]]),
        ("<table><tr><td>5 &lt; 6<br>yes</td></tr></table>", [["5 < 6\nyes"]]),
        ("<table><tr><td>a<table><tr><td>b</td></tr></table></td></tr></table>", [["ab"]]),
        ("<table><tr><td>a<script>alert(1)</script></td></tr></table>", [["a"]]),
    ],
    ids=["otsl", "html without ends", "otsl that reaches over", "html that spans", "html that spans down", "entities",
         "a table in a table", "a script"],
)  # fmt: skip
def test_a_table_is_read_as_it_was_meant(written: str, grid: list[list[str]]) -> None:
    assert ocr_text.grid(markup.cells(written)) == grid


def test_spans_are_told() -> None:
    assert [(c.row_span, c.column_span) for c in markup.cells("<fcel>a<lcel><nl><ucel><xcel><nl>")] == [(2, 2)]
    assert [(c.row_span, c.column_span) for c in markup.cells("<table><tr><td rowspan=3 colspan=2>a")] == [(3, 2)]


@pytest.mark.parametrize("written", ["", "no table at all", "<b>bold</b>", "<table", "<nl><nl>"])
def test_what_is_no_table_has_no_cells(written: str) -> None:
    assert markup.cells(written) == []


@pytest.mark.parametrize(
    "written",
    [
        "<fcel>x" * 100_000,
        "<fcel>x<nl>" * 50_000,
        "<table>" + "<tr><td>x" * 50_000,
        "<table><tr>" + "<td colspan=99999 rowspan=99999>x" * 1000,
        "<table>" * 50_000 + "<tr><td>x",
        "<table><tr><td>" + "x" * 1_000_000,
    ],
    ids=["one endless row", "endless rows", "endless html", "absurd spans", "tables in tables", "one endless cell"],
)
def test_what_does_not_end_is_cut(written: str) -> None:
    cells = markup.cells(written)
    assert len(cells) <= markup.PLACES_MAX
    assert sum(len(cell.text) for cell in cells) <= 1_000_000
