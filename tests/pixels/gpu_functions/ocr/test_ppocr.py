"""The CPU reads a page whose truth is known, whichever way it lies, and tells no word of it but in its outputs."""

from __future__ import annotations

import json
import logging
from typing import Any

import cv2
import jiwer
import numpy as np
import pytest
from pydantic import ValidationError

from contracts import ocr_text
from contracts.errors import SafelightError
from contracts.ocr import Kind, Page
from gpu_functions.catalog import choose
from gpu_functions.engine import Facts, Output
from gpu_functions.ocr.ppocr import PpOcr
from gpu_functions.runner import Runner
from tests.bench.ocr import right_fields
from tests.documents import school
from tests.pixels.gpu_functions.conftest import Storage
from tests.pixels.gpu_functions.ocr import papers

Read = tuple[school.Paper, dict[str, Output], Facts]


@pytest.fixture(scope="session")
def read(reader: PpOcr) -> Read:
    paper = papers.small()
    return paper, *reader.run({"image": papers.png(paper.pixels)}, {"languages": ["en"]})


@pytest.fixture(scope="session")
def page(read: Read) -> Page:
    return papers.page_of(read[1])


def error_rate(paper: school.Paper, page: Page) -> float:
    return float(jiwer.cer(papers.flat(paper.text), papers.flat(ocr_text.text(page))))


def test_a_page_is_read_in_its_order(read: Read, page: Page) -> None:
    assert error_rate(read[0], page) <= 0.005  # measured: 0


def test_fields_and_marks_are_where_they_are_looked_for(read: Read, page: Page) -> None:
    right, of = right_fields(read[0], page)
    assert (right, of) == (7, 7)  # four fields and three marks


def test_the_table_has_the_cells_that_were_printed(read: Read, page: Page) -> None:
    (table,) = (block for block in page.blocks if block.kind is Kind.TABLE)
    assert ocr_text.grid(table.cells) == [list(row) for row in read[0].tables[0]]


def test_the_headline_is_a_title_in_markdown(read: Read) -> None:
    assert read[1]["markdown"].data.decode().startswith("## Student Progress Report\n")


def test_all_boxes_lie_on_the_page_and_words_in_their_lines(page: Page) -> None:
    words = 0
    for block in page.blocks:
        x, y, width, height = block.box
        assert x + width <= 1.0 + 1e-6
        assert y + height <= 1.0 + 1e-6
    for _, line in papers.lines(page):
        assert line.quad
        assert " ".join(word.text for word in line.words) == line.text
        left, top, right, bottom = papers.bounds(line.quad)
        for word in line.words:
            words += 1
            x, y, x_, y_ = papers.bounds(word.quad)
            assert left - 2e-6 <= x < x_ <= right + 2e-6
            assert top - 2e-6 <= y < y_ <= bottom + 2e-6
    assert words > 60


def test_words_lie_where_they_were_printed(read: Read, page: Page) -> None:
    """Against the printer's own measures: the first and last words of lines, to a character's width."""
    height, width = read[0].pixels.shape[:2]
    printed = {line.text: line.box for line in read[0].lines}
    checked = 0
    for _, line in papers.lines(page):
        if line.text in printed and len(line.words) > 3 and list(printed).count(line.text) == 1:
            left, top, wide, high = printed[line.text]
            first, last = papers.bounds(line.words[0].quad), papers.bounds(line.words[-1].quad)
            assert abs(first[0] * width - left) < 12
            assert abs(last[2] * width - left - wide) < 12
            assert first[1] * height - 8 < top < top + high < first[3] * height + 8
            checked += 1
    assert checked >= 3


def test_facts_are_numbers_and_hold_no_word_of_the_page(read: Read, page: Page) -> None:
    paper, _, facts = read
    assert facts["tables"] == 1
    assert facts["rotation"] == 0
    assert facts["words"] == sum(len(line.words) for _, line in papers.lines(page))
    assert all(isinstance(value, int | float) for value in facts.values())
    said = json.dumps(facts)
    assert not any(word in said for word in paper.text.split() if len(word) > 3)


def test_reading_says_nothing_in_logs_or_print(
    reader: PpOcr, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reader.run({"image": papers.png(papers.small().pixels[:200])}, {})
    out, err = capfd.readouterr()
    assert not caplog.records
    assert out == err == ""


@pytest.mark.parametrize("quarter", [1, 2, 3], ids=["on its right side", "on its head", "on its left side"])
def test_a_turned_page_is_read_upright(reader: PpOcr, offline: None, quarter: int) -> None:
    paper = papers.small("es")
    part = paper.pixels[:280]  # title and fields
    outputs, facts = reader.run({"image": papers.png(np.ascontiguousarray(np.rot90(part, -quarter)))}, {})
    page = papers.page_of(outputs)
    assert facts["rotation"] == page.rotation == 360 - 90 * quarter
    assert (page.width, page.height) == (part.shape[1], part.shape[0])
    text = papers.flat(ocr_text.text(page))
    assert "Informe de Progreso Escolar" in text
    assert all(f"{label}: {value}" in text for label, value in paper.fields.values())


def test_a_photographed_page_is_read_though_it_slopes(reader: PpOcr) -> None:
    paper = school.education_plan(2, "en", dpi=100)
    outputs, facts = reader.run(
        {"image": school.worn(paper.pixels, 1, school.Wear(skew=-2.5, blur=0.6, noise=6.0, jpeg=70))}, {}
    )
    page = papers.page_of(outputs)
    assert facts["skew"] == pytest.approx(2.5, abs=0.3)
    assert error_rate(paper, page) <= 0.02  # measured: 0.000, two columns and a table included
    assert right_fields(paper, page) == (6, 6)


def test_a_receipt_is_read_though_it_is_long(reader: PpOcr) -> None:
    paper = papers.small()
    fields = paper.pixels[112:240, 60:360]
    long = np.vstack([np.full((1100, 300, 3), 250, np.uint8), fields, np.full((1100, 300, 3), 250, np.uint8)])
    text = papers.flat(ocr_text.text(papers.page_of(reader.run({"image": papers.png(long)}, {})[0])))
    assert text == " ".join(f"{label}: {value}" for label, value in paper.fields.values())


def test_a_page_of_short_words_is_not_turned_on_its_head(reader: PpOcr) -> None:
    """The model that judges lines is wrong about these."""
    pixels = np.full((300, 500, 3), 255, np.uint8)
    for y in range(40, 290, 40):
        for x in range(20, 400, 150):
            cv2.putText(pixels, f"ab{x % 7}", (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (0, 0, 0), 2)
    assert reader.run({"image": papers.png(pixels)}, {})[1]["rotation"] == 0


def test_a_page_without_text_has_no_blocks(reader: PpOcr) -> None:
    outputs, facts = reader.run({"image": papers.png(np.full((300, 200, 3), 250, np.uint8))}, {})
    page = papers.page_of(outputs)
    assert page.blocks == []
    assert (page.width, page.height) == (200, 300)
    assert facts["lines"] == facts["words"] == 0
    assert outputs["markdown"].data.strip() == b""


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)], ids=["one pixel", "a thread", "a post"])
def test_an_absurd_shape_is_a_page_too(reader: PpOcr, size: tuple[int, int]) -> None:
    outputs, _ = reader.run({"image": papers.png(np.full((*size, 3), 128, np.uint8))}, {})
    assert papers.page_of(outputs).blocks == []


def test_black_on_transparent_is_read_as_on_white(reader: PpOcr) -> None:
    pixels = np.zeros((80, 400, 4), np.uint8)
    cv2.putText(pixels, "Safelight 2025", (12, 52), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (0, 0, 0, 255), 3, cv2.LINE_AA)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    assert papers.flat(ocr_text.text(papers.page_of(reader.run({"image": data}, {})[0]))) == "Safelight 2025"


def test_a_page_in_sixteen_bits_is_read_as_in_eight(reader: PpOcr) -> None:
    pixels = papers.small().pixels[60:110]
    deep = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)[1].tobytes()
    texts = [ocr_text.text(papers.page_of(reader.run({"image": one}, {})[0])) for one in (papers.png(pixels), deep)]
    assert texts[0] == texts[1] != "\n"


@pytest.mark.parametrize(
    "data",
    [b"", b"%PDF-1.7 no picture", papers.png(papers.small().pixels)[:9000]],
    ids=["no bytes", "no picture", "cut off"],
)
def test_what_is_no_picture_is_refused_with_a_code(reader: PpOcr, data: bytes) -> None:
    with pytest.raises(SafelightError) as refused:
        reader.run({"image": data}, {})
    assert refused.value.code == "IMAGE_CORRUPT"


def test_an_item_without_an_image_is_refused_with_a_code(reader: PpOcr) -> None:
    with pytest.raises(SafelightError, match="MESSAGE_INVALID"):
        reader.run({}, {})


@pytest.mark.parametrize(
    "parameters",
    [{"max_side": 20_000}, {"max_side": 1}, {"languages": ["x" * 40]}, {"languages": ["en"] * 9}],
    ids=["too large", "too small", "no language", "too many languages"],
)
def test_parameters_have_bounds(reader: PpOcr, parameters: Any) -> None:
    with pytest.raises(ValidationError):
        reader.run({"image": papers.png(np.zeros((9, 9, 3), np.uint8))}, parameters)


def test_the_cpu_is_who_reads_where_no_weights_are() -> None:
    chosen = choose("ocr.read", "gpu")
    assert chosen.row.label == "ppocr-onnx@1"
    assert [passed.partition(":")[0] for passed in chosen.passed_over] == ["paddleocr-vl@2", "paddleocr@1"]


def test_a_call_answers_with_objects_and_numbers_and_no_word_of_the_page(storage: Storage) -> None:
    paper = papers.small()
    item = storage.item("page", image=papers.png(paper.pixels[:280]))
    item = item.model_copy(update={"outputs": {role: storage.target(f"page.{role}") for role in ("ocr", "markdown")}})
    answer = Runner("cpu", tell_s=0).run(storage.request("ocr.read", storage.marked(item)))
    assert answer.engine == "ppocr-onnx@1"
    assert answer.items[0].error is None
    assert paper.fields["name"][1] in storage.objects["page.markdown"].decode()
    told = [answer.model_dump_json().encode(), storage.objects["page.progress"], storage.objects["page.result"]]
    assert not any(word.encode() in one for word in paper.text.split() if len(word) > 5 for one in told)
