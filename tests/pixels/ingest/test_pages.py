"""A document is taken apart: which pages are read as text, what they say, and what a picture of a page becomes."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pikepdf
import pytest
from PIL import Image

from contracts.documents import Reason
from contracts.errors import SafelightError
from contracts.ocr import Kind, Page
from ingest import pages
from ingest.analysis import formats
from ingest.intake import PDF
from ingest.pages.textlayer import Layer, judge
from tests.documents import papers, school

CARD = school.report_card(3, subjects=5)
PROSE = "The student follows directions and works well in a small group. Reading fluency has grown since spring."


# -- whether a text layer is sound ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        pytest.param(Layer(PROSE), Reason.TEXT, id="prose"),
        pytest.param(Layer(PROSE, covered=0.3), Reason.TEXT, id="prose beside a photo"),
        pytest.param(Layer("B- 94% 3/4 17.5"), Reason.TEXT, id="a few marks"),
        pytest.param(Layer("こんにちは、" * 40), Reason.TEXT, id="a language without vowels of its own"),
        pytest.param(Layer(""), Reason.BLANK, id="nothing at all"),
        pytest.param(Layer(" \n", drawn=True), Reason.NO_TEXT, id="something drawn, and no letter"),
        pytest.param(Layer("Copy 3", covered=0.98, drawn=True), Reason.COVERED, id="a stamp on a scan"),
        pytest.param(Layer(PROSE, hidden=1.0, covered=1.0), Reason.HIDDEN, id="somebody's OCR"),
        pytest.param(Layer("".join(chr(0xF000 + n % 90) for n in range(300))), Reason.GARBLED, id="private letters"),
        pytest.param(Layer("\ufffd" * 200 + PROSE), Reason.GARBLED, id="letters that nobody knows"),
        pytest.param(Layer(PROSE, unmapped=20), Reason.GARBLED, id="a font without a map"),
        pytest.param(Layer("Wkh vwxghqw iroorzv gluhfwlrqv " * 6), Reason.GARBLED, id="letters that are others"),
        pytest.param(Layer("#$%&'()*+,-./<=>" * 20), Reason.GARBLED, id="marks without a word"),
        pytest.param(Layer(PROSE, fields=3), Reason.FORM, id="fields that were filled in"),
        pytest.param(Layer("a" * 50_001), Reason.CROWDED, id="more letters than a page holds"),
    ],
)
def test_a_text_layer_is_believed_when_it_says_what_is_printed(layer: Layer, why: Reason) -> None:
    assert judge(layer) is why


def test_pages_that_are_sound_cost_no_ocr_and_the_others_say_why() -> None:
    data = papers.pdf([papers.Born(CARD), papers.Scan(CARD), papers.Blank()])
    found = pages.inspect(data, PDF)
    assert [(sheet.id, sheet.ocr, sheet.why) for sheet in found.sheets] == [
        ("p001", False, Reason.TEXT),
        ("p002", True, Reason.NO_TEXT),
        ("p003", False, Reason.BLANK),
    ]


def test_a_scan_with_an_invisible_layer_is_read_again() -> None:
    with pikepdf.open(io.BytesIO(papers.pdf([papers.Born(CARD)]))) as out:
        content = out.pages[0].Contents.read_bytes().replace(b"BT", b"BT 3 Tr")
        out.pages[0].Contents = out.make_stream(content)
        written = io.BytesIO()
        out.save(written)
    assert pages.inspect(written.getvalue(), PDF).sheets[0].why is Reason.HIDDEN


# -- the words of a text layer --------------------------------------------------------------------


def read(data: bytes, number: int = 1) -> Page:
    made = {one.name: one for one in pages.rasterize(data, PDF, number, Reason.TEXT).made}
    assert set(made) == {"ocr.json", "page.md"}
    return Page.model_validate_json(made["ocr.json"].data)


def placed(page: Page) -> list[tuple[str, float, float]]:
    return [
        (word.text, *np.mean(word.quad, axis=0)) for block in page.blocks for line in block.lines for word in line.words
    ]


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_words_stand_where_they_are_seen_however_the_page_is_turned(turned: int) -> None:
    data = papers.pdf([papers.Born(CARD)])
    with pikepdf.open(io.BytesIO(data)) as out:
        out.pages[0].Rotate = turned
        out.pages[0].CropBox = [20, 30, 595, 842]
        written = io.BytesIO()
        out.save(written)
    drawn = pages.rasterize(written.getvalue(), PDF, 1, Reason.NO_TEXT)
    picture = cv2.imdecode(np.frombuffer(drawn.made[0].data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    page = read(written.getvalue())
    assert (page.width, page.height) == picture.shape[::-1]
    words = [word for block in page.blocks for line in block.lines for word in line.words]
    assert len(words) > 60
    for word in words:
        corners = np.array([word.quad[0], word.quad[2]]) * [page.width, page.height]
        (left, top), (right, bottom) = corners.astype(int)
        assert picture[top:bottom, left:right].min() < 128, "there is ink where the word is said to stand"


def test_a_table_that_is_drawn_becomes_one_and_prose_is_read_column_by_column() -> None:
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas: Any = Canvas(out, pagesize=A4)
    for n, text in enumerate(("left one", "left two", "left three", "left four")):
        canvas.drawString(60, 780 - 14 * n, text + " of a column of prose")
        canvas.drawString(330, 780 - 14 * n, text.replace("left", "right") + " of a column of prose")
    for x in (60, 200, 300):
        canvas.line(x, 600, x, 540)
    for y in (600, 580, 560, 540):
        canvas.line(60, y, 300, y)
    for row, cells in enumerate((("Subject", "Grade"), ("Art", "A"), ("Music", "B+"))):
        for column, text in enumerate(cells):
            canvas.drawString((64, 204)[column], 586 - 20 * row, text)
    canvas.save()
    page = read(out.getvalue())
    table = next(block for block in page.blocks if block.kind is Kind.TABLE)
    assert [(cell.row, cell.column, cell.text) for cell in table.cells] == [
        (0, 0, "Subject"),
        (0, 1, "Grade"),
        (1, 0, "Art"),
        (1, 1, "A"),
        (2, 0, "Music"),
        (2, 1, "B+"),
    ]
    prose = [line.text.split()[:2] for block in page.blocks if block.kind is not Kind.TABLE for line in block.lines]
    assert prose == [[side, n] for side in ("left", "right") for n in ("one", "two", "three", "four")]


# -- pictures -------------------------------------------------------------------------------------


def test_a_photo_of_a_page_on_a_table_is_laid_flat() -> None:
    made = pages.rasterize(papers.photograph(CARD), "image/jpeg", 1, Reason.PICTURE)
    assert made.facts["flattened"] is True
    flat = cv2.imdecode(np.frombuffer(made.made[0].data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert flat is not None
    assert np.median(flat[:40]) > 200, "no table is left at the rim"
    assert abs(flat.shape[0] / flat.shape[1] / 1.414 - 1) < 0.12, "it has the shape of A4, or nearly"


@pytest.mark.parametrize("angle", [-4.0, -0.8, 0.0, 2.5])
def test_lines_that_slope_are_made_level(angle: float) -> None:
    data = school.worn(CARD.pixels, 1, school.Wear(skew=angle, noise=4.0))
    assert pages.rasterize(data, "image/jpeg", 1, Reason.PICTURE).facts["skew"] == pytest.approx(-angle, abs=0.25)


def test_each_page_of_a_fax_is_taken_by_its_number() -> None:
    other = school.education_plan(4)
    data = papers.tiff([CARD, other])
    assert len(pages.inspect(data, "image/tiff").sheets) == 2
    second = pages.rasterize(data, "image/tiff", 2, Reason.PICTURE).made[0].data
    seen = cv2.imdecode(np.frombuffer(second, np.uint8), cv2.IMREAD_GRAYSCALE)
    wanted = cv2.cvtColor(other.pixels, cv2.COLOR_RGB2GRAY)
    assert seen is not None
    assert np.corrcoef(cv2.resize(seen, (400, 560)).ravel(), cv2.resize(wanted, (400, 560)).ravel())[0, 1] > 0.9


def test_a_tiff_may_have_as_many_pages_as_a_document_and_a_phone_may_send_heic() -> None:
    page = Image.new("1", (8, 8))
    out = io.BytesIO()
    page.save(out, "TIFF", save_all=True, append_images=[page] * 149)
    assert len(pages.inspect(out.getvalue(), "image/tiff").sheets) == 150
    assert len(pages.inspect(formats._HEIC, "image/heic").sheets) == 1
    made = pages.rasterize(formats._HEIC, "image/heic", 1, Reason.PICTURE).made[0]
    assert (made.media_type, made.width, made.height) == ("image/jpeg", 16, 16)


# -- what means harm ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(papers.locked(papers.of_many_pages(1)), "DOCUMENT_ENCRYPTED", id="a password"),
        pytest.param(papers.of_many_pages(501), "DOCUMENT_TOO_LONG", id="a page too many"),
        pytest.param(b"%PDF-1.7\n" + b"\0" * 200, "DOCUMENT_CORRUPT", id="nothing behind the header"),
        pytest.param(papers.pdf([papers.Born(CARD)])[:900], "DOCUMENT_CORRUPT", id="cut after 900 bytes"),
    ],
)
def test_what_is_no_document_is_refused_with_a_reason(data: bytes, code: str) -> None:
    with pytest.raises(SafelightError) as problem:
        pages.inspect(data, PDF)
    assert problem.value.code == code


def test_a_page_of_five_metres_is_drawn_no_larger_than_it_is_read() -> None:
    facts = pages.rasterize(papers.huge_page(), PDF, 1, Reason.NO_TEXT).facts
    assert max(facts["width"], facts["height"]) <= 3508


def test_a_page_that_is_none_is_unreadable_and_its_neighbours_are_not() -> None:
    data = papers.with_broken_page(papers.pdf([papers.Born(CARD), papers.Blank()]), 2)
    sheets = pages.inspect(data, PDF).sheets
    assert sheets[0].why is Reason.TEXT
    assert read(data).blocks
    with pytest.raises(SafelightError, match="PAGE_UNREADABLE"):
        pages.rasterize(data, PDF, 2, sheets[1].why)
