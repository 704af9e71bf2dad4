"""The forms of a document: words lie where they are printed, fields are found, and nothing that was printed acts."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pikepdf
import pypdfium2
import pytest
from PIL import Image

from contracts import documents
from contracts.documents import ReadPage, Reason
from contracts.errors import SafelightError
from contracts.ocr import Block, Cell, Kind, Line, Page, Quad, Word
from output import paper
from output.paper import fields, searchable, tables, templates
from output.paper.templates import TemplateInvalid
from tests.documents import extracted

WORDS: Mapping[str, tuple[float, float, float, float]] = {
    "B": (0.10, 0.10, 0.12, 0.12),
    "Ibáñez": (0.12, 0.10, 0.24, 0.12),  # touches the one before it
    "94%": (0.70, 0.50, 0.76, 0.53),
    "\U0001f600x": (0.30, 0.80, 0.36, 0.83),
}
GUIDE = Path(__file__).parents[3] / "docs/guides/documents.md"
KNOWN = {text.replace("\U0001f600", "\ufffd"): box for text, box in WORDS.items()}


def quad(box: tuple[float, float, float, float]) -> Quad:
    left, top, right, bottom = box
    return (left, top), (right, top), (right, bottom), (left, bottom)


def line(**words: tuple[float, float, float, float]) -> Line:
    told = [Word(text=text, quad=quad(box), confidence=0.9) for text, box in words.items()]
    return Line(text=" ".join(words), words=told, confidence=0.9)


def of_words(rotation: Any = 0) -> Page:
    lines = [line(**{text: box}) for text, box in list(WORDS.items())[2:]]
    lines.insert(0, line(**dict(list(WORDS.items())[:2])))
    block = Block(kind=Kind.TEXT, box=(0, 0, 1, 1), lines=lines)
    return Page(engine="test@1", width=100, height=140, rotation=rotation, blocks=[block])


def document(*pages: Page | None, why: Reason = Reason.NO_TEXT) -> bytes:
    rows = [ReadPage(id=documents.sheet_id(n), number=n, why=why, page=page) for n, page in enumerate(pages, 1)]
    written = [documents.written(row, last=row is rows[-1]) for row in rows]
    return "".join([documents.FIRST_LINE, *written, documents.LAST_LINE]).encode()


def picture(width: int = 400, height: int = 560) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width), 200, np.uint8)).save(out, "JPEG")
    return out.getvalue()


def blank_pdf(turned: int = 0, inherited: bool = False) -> bytes:
    with pikepdf.new() as out:
        page = out.add_blank_page(page_size=(300, 420))
        page.Rotate = turned
        page.CropBox = [10, 20, 290, 400]
        page.obj.Contents = out.make_stream(b"q 0.5 0 0 0.5 7 9 cm")  # never restored
        if inherited:
            del page.obj["/Resources"]
            out.Root.Pages.Resources = pikepdf.Dictionary(ExtGState=pikepdf.Dictionary())
        out.Root.OpenAction = pikepdf.Dictionary(S=pikepdf.Name.JavaScript, JS="app.alert(1)")
        written = io.BytesIO()
        out.save(written)
        return written.getvalue()


# -- the PDF --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_each_word_lies_within_its_box_however_the_page_was_turned(turned: int, rotation: int) -> None:
    read = documents.read(document(of_words(rotation)))
    made, laid = searchable.pdf(read, blank_pdf(turned, inherited=turned == 90), {})
    page = pypdfium2.PdfDocument(made)[0]
    found = dict(extracted.words(page))
    assert (laid, set(found)) == (4, set(KNOWN))
    for text, box in KNOWN.items():
        where = extracted.shown(box, -rotation % 360)  # as the page lay before OCR turned it upright
        assert found[text] == pytest.approx(where, abs=0.004), text


def test_a_page_of_pictures_shows_the_very_bytes_and_says_what_is_on_it() -> None:
    jpeg = picture()
    made, _ = searchable.pdf(documents.read(document(of_words(), None)), None, {1: jpeg})
    with pikepdf.open(io.BytesIO(made)) as out:
        shown = out.pages[0].Resources.XObject.Page
        assert shown.read_raw_bytes() == jpeg
        assert len(out.pages) == 2, "a page that could not be read keeps its place"
    page = pypdfium2.PdfDocument(made)[0]
    drawn = page.render(scale=1).to_numpy()
    assert int(drawn.min()) >= 190, "the text is not to be seen"
    assert {text for text, _ in extracted.words(page)} == set(KNOWN)


def test_pages_with_a_sound_text_layer_get_nothing() -> None:
    _, laid = searchable.pdf(documents.read(document(of_words(), why=Reason.TEXT)), blank_pdf(), {})
    assert laid == 0


def test_what_a_file_would_do_when_it_is_opened_is_taken_out() -> None:
    made, _ = searchable.pdf(documents.read(document(of_words())), blank_pdf(), {})
    assert b"app.alert" not in made
    with pikepdf.open(io.BytesIO(made)) as out:
        assert "/OpenAction" not in out.Root


def test_a_file_that_cannot_be_written_to_says_so_and_quotes_nothing() -> None:
    with pytest.raises(SafelightError) as problem:
        searchable.pdf(documents.read(document(of_words())), b"%PDF-1.7 secret", {})
    assert problem.value.code == "DOCUMENT_CORRUPT"
    assert "secret" not in problem.value.detail


# -- text, tables ---------------------------------------------------------------------------------


def grid(*rows: tuple[str, ...]) -> Page:
    cells = [Cell(row=r, column=c, text=text) for r, row in enumerate(rows) for c, text in enumerate(row)]
    block = Block(kind=Kind.TABLE, box=(0, 0, 1, 1), cells=cells)
    return Page(engine="test@1", width=10, height=10, blocks=[block, block])


def test_no_cell_is_a_formula_and_numbers_stay_numbers() -> None:
    rows = [("=1+1", "@now", "-3.5%"), ("+cmd|x", " =2", "B-")]
    made = {one.name: one.data for one in tables.files(tables.sheets(documents.read(document(grid(*rows)))))}
    told = list(csv.reader(io.StringIO(made["table-p001-1.csv"].decode())))
    assert told == [["'=1+1", "'@now", "-3.5%"], ["'+cmd|x", "'=2", "B-"]]
    assert zipfile.ZipFile(io.BytesIO(made["tables.zip"])).namelist() == ["table-p001-1.csv", "table-p001-2.csv"]


def test_text_tells_which_page_is_missing_and_shows_no_marks() -> None:
    said = Page(
        engine="t@1", width=1, height=1, blocks=[Block(kind=Kind.TEXT, box=(0, 0, 1, 1), lines=[Line(text="<b>a|b")])]
    )
    made = {one.name: one.data.decode("latin-1") for one in paper.deliver(document(said, None), None, {}, None).made}
    assert made["document.txt"] == "<b>a|b\n\f[This page could not be read.]\n"
    assert "\\<b\\>a\\|b" in made["document.md"]
    assert "could not be read" in made["document.md"]


# -- fields ---------------------------------------------------------------------------------------


def text(*lines: str) -> Page:
    told = []
    for row, said in enumerate(lines):
        y = 0.1 + 0.03 * row
        words = {word: (0.1 + 0.1 * n, y, 0.19 + 0.1 * n, y + 0.02) for n, word in enumerate(said.split())}
        told.append(line(**words))
    return Page(engine="t@1", width=10, height=10, blocks=[Block(kind=Kind.TEXT, box=(0, 0, 1, 1), lines=told)])


@pytest.mark.parametrize(
    ("lines", "name", "term"),
    [
        pytest.param(("Student: Noah Doyle", "Term: Spring"), "Noah Doyle", "Spring", id="beside their labels"),
        pytest.param(("Student: Noah Term: Spring",), "Noah", "Spring", id="two on one line"),
        pytest.param(("ALUMNO : Inés Peña", "Período: Otoño"), "Inés Peña", "Otoño", id="in Spanish, an accent more"),
        pytest.param(("Student:Noah Doyle",), "Noah Doyle", None, id="a space that was not read"),
        pytest.param(("Studemt: Noah",), "Noah", None, id="a letter that was read wrong"),
        pytest.param(("Student", "Noah Doyle"), "Noah Doyle", None, id="below its label"),
        pytest.param(("The student: works",), "works", None, id="a label in a sentence is one"),
        pytest.param(("Students are many", "Noah"), None, None, id="no label at all"),
    ],
)
def test_a_field_is_what_stands_beside_its_label(lines: tuple[str, ...], name: str | None, term: str | None) -> None:
    found = fields.extract(documents.read(document(text(*lines))), templates.load()["report-card"]).fields
    told = {key: one.value if one else None for key, one in found.items()}
    assert (told["name"], told["term"]) == (name, term)


def test_a_field_says_where_it_is_and_how_sure_it_is() -> None:
    found = fields.extract(documents.read(document(text("Student: Noah"))), templates.load()["report-card"]).fields
    name = found["name"]
    assert name is not None
    assert (name.page, name.confidence) == (1, 0.9)
    assert name.box == pytest.approx((0.2, 0.1, 0.09, 0.02))


def test_rows_are_read_below_headings_and_a_mark_that_is_none_is_unsure() -> None:
    page = grid(("Subject", "Efforts", "Grade"), ("Art", "High", "A-"), ("Music", "Low", "Q"))
    found = fields.extract(documents.read(document(page)), templates.load()["report-card"]).tables["grades"]
    assert [(row["subject"].value, row["grade"].value, row["grade"].unsure) for row in found[:2]] == [
        ("Art", "A-", False),
        ("Music", "Q", True),
    ]


def test_a_template_of_ones_own_is_a_file_in_a_folder(tmp_path: Path) -> None:
    told = re.search(r"<!-- a test loads this file -->\n```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert told is not None
    (tmp_path / "permit.yaml").write_text(told[1])
    assert set(templates.load(tmp_path)) == {"report-card", "permit"}
    (tmp_path / "wrong.yaml").write_text("name: wrong\nversion: 1\nfields: {holder: {label: [Holder]}}\n")
    with pytest.raises(TemplateInvalid, match=r"wrong.yaml: .*labels"):
        templates.load(tmp_path)
