"""What was read is shown as text: no mark on a page becomes one of Markdown or HTML."""

from __future__ import annotations

import pytest

from contracts import ocr_text
from contracts.ocr import Block, Cell, Kind, Line, Page

BOX = (0.0, 0.0, 1.0, 1.0)


def page(*blocks: Block) -> Page:
    return Page(engine="test@1", width=10, height=10, blocks=list(blocks))


def block(kind: Kind, *lines: str) -> Block:
    return Block(kind=kind, box=BOX, lines=[Line(text=line) for line in lines])


def test_each_kind_has_its_form() -> None:
    cells = [Cell(row=0, column=0, text="Subject"), Cell(row=0, column=1, text="Mark"), Cell(row=1, column=1, text="A")]
    table = Block(kind=Kind.TABLE, box=BOX, cells=cells)
    whole = page(block(Kind.TITLE, "Report"), block(Kind.TEXT, "one", "two"), table, block(Kind.FORMULA, "a^2"))
    assert ocr_text.markdown(whole) == (
        "## Report\n\none\ntwo\n\n| Subject | Mark |\n| --- | --- |\n|  | A |\n\n$$\na^2\n$$\n"
    )
    assert ocr_text.text(whole) == "Report\n\none\ntwo\n\nSubject\tMark\n\tA\n\na^2\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("<script>alert(1)</script>", "\\<script\\>alert(1)\\</script\\>"),
        ("![x](http://a.example/b)", "!\\[x\\](http://a.example/b)"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("# no heading", "\\# no heading"),
        ("1. no list", "1\\. no list"),
        ("- no list", "\\- no list"),
        ("a | b", "a \\| b"),
        ("5 - 3 = 2.", "5 - 3 = 2."),
    ],
    ids=["a script", "a picture", "an entity", "a heading", "a numbered list", "a list", "a cell's rim", "plain text"],
)
def test_marks_on_the_page_are_shown_and_not_followed(said: str, shown: str) -> None:
    assert ocr_text.markdown(page(block(Kind.TEXT, said))) == f"{shown}\n"


def test_a_formula_cannot_end_its_own_frame() -> None:
    assert ocr_text.markdown(page(block(Kind.FORMULA, "x $$ <b>"))).count("$") == 4


def test_an_absurd_span_makes_no_absurd_table() -> None:
    wide = Block(kind=Kind.TABLE, box=BOX, cells=[Cell(row=0, column=10**9, row_span=10**9, text="x")])
    assert len(ocr_text.markdown(page(wide))) < 200_000
