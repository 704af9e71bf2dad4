"""A document through every process: its pages one by one, and at the end files in which what was printed is found."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pypdfium2
import pytest

from contracts.documents import Document, ReadPage
from tests.documents import extracted, papers, school
from tests.e2e.conftest import Stack, phase, phases

CARD = school.report_card(7, subjects=4)
PLAN = school.education_plan(8, "es")
WRITTEN, SCANNED = 1, 2  # pages


@pytest.fixture(scope="session")
async def read(stack: Stack) -> dict[str, Any]:
    """A card as text, a card as a scan, an empty page and one that cannot be opened, as one PDF."""
    pages = papers.pdf([papers.Born(CARD), papers.Scan(CARD), papers.Blank(), papers.Blank()])
    data = papers.with_broken_page(pages, 4)
    answer = await stack.upload(data, pipeline="document", languages="en,es", template="report-card")
    return await stack.ended(answer)


async def test_each_page_is_read_as_it_needs_and_a_bad_one_fails_alone(stack: Stack, read: dict[str, Any]) -> None:
    assert (read["status"], read["degraded"]) == ("succeeded", True), read
    assert set(phases(read).values()) == {"succeeded"}
    pages = phase(read, "inspect")["facts"]["pages"]
    assert [page["why"] for page in pages][:3] == ["text", "no-text", "blank"]
    assert phase(read, "assemble")["facts"]["not_read"] == [4]
    items = (await stack.client.get(f"/v1/jobs/{read['id']}/phases/ocr/items")).json()["items"]
    assert [item["status"] for item in items] == ["skipped", "succeeded", "skipped", "skipped"]
    assert [item["error"]["code"] for item in items if item.get("error")] == ["PAGE_UNREADABLE"]


async def test_the_document_holds_every_word_with_its_place_and_says_what_is_missing(
    stack: Stack, read: dict[str, Any]
) -> None:
    document = Document.model_validate_json(await stack.artifact(read, "assemble.document.json"))
    assert [(page.why, page.page is not None) for page in document.pages][:3] == [
        ("text", True),
        ("no-text", True),
        ("blank", True),
    ]
    assert document.pages[3].page is None
    wanted = sorted(word for line in CARD.lines for word in line.text.split())
    for number in (WRITTEN, SCANNED):
        assert words_of(document.pages[number - 1]) == wanted


def words_of(page: ReadPage) -> list[str]:
    assert page.page is not None
    return sorted(word.text for block in page.page.blocks for line in block.lines for word in line.words)


async def test_an_independent_reader_finds_each_word_of_the_pdf_within_its_box(
    stack: Stack, read: dict[str, Any]
) -> None:
    opened = pypdfium2.PdfDocument(await stack.artifact(read, "deliver.document.pdf"))
    height, width = CARD.pixels.shape[:2]
    for number in (WRITTEN, SCANNED):
        found = extracted.words(opened[number - 1])
        for line in CARD.lines:
            left, top, wide, high = line.box
            box = left / width, top / height, (left + wide) / width, (top + high) / height
            inside = [word for word, at in found if extracted.is_within(at, box, 0.01)]
            assert inside == line.text.split(), number


async def test_fields_and_tables_are_read_out_and_text_is_left_in_the_order_of_reading(
    stack: Stack, read: dict[str, Any]
) -> None:
    fields = json.loads(await stack.artifact(read, "deliver.fields.json"))
    assert {name: one["value"] for name, one in fields["fields"].items()} == {
        name: value for name, (_, value) in CARD.fields.items()
    }
    marks = [(row[0], row[1]) for row in CARD.tables[0][1:]]
    told = [(row["subject"]["value"], row["grade"]["value"]) for row in fields["tables"]["grades"]]
    assert told == marks * 2
    rows = list(csv.reader(io.StringIO((await stack.artifact(read, "deliver.table-p002-1.csv")).decode())))
    assert [tuple(row) for row in rows] == CARD.tables[0]
    text = (await stack.artifact(read, "deliver.document.txt")).decode()
    assert text.count("\f") == 3
    assert CARD.lines[0].text in (await stack.artifact(read, "deliver.document.md")).decode()


async def test_a_page_can_be_retried_alone(stack: Stack, read: dict[str, Any]) -> None:
    again = await stack.client.post(f"/v1/jobs/{read['id']}/retry", json={"reason": "once more"})
    assert again.status_code == 200, again.text
    ended = await stack.until(
        read["id"], lambda job: job["status"] == "succeeded" and job["revision"] > read["revision"]
    )
    items = (await stack.client.get(f"/v1/jobs/{ended['id']}/phases/rasterize/items")).json()["items"]
    assert [item["attempt"] for item in items] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("media", "pages"),
    [pytest.param("tiff", 2, id="a fax of two pages"), pytest.param("photo", 1, id="a photo of a page on a table")],
)
async def test_pictures_of_pages_become_a_pdf_that_can_be_searched(stack: Stack, media: str, pages: int) -> None:
    data = papers.tiff([PLAN, CARD]) if media == "tiff" else papers.photograph(PLAN)
    job = await stack.ended(await stack.upload(data, pipeline="document"))
    assert job["status"] == "succeeded", job
    opened = pypdfium2.PdfDocument(await stack.artifact(job, "deliver.document.pdf"))
    assert len(opened) == pages
    said = opened[0].get_textpage().get_text_range().split()
    wanted = [word for line in PLAN.lines for word in line.text.split()]
    assert sum(word in said for word in wanted) >= 0.95 * len(wanted)
    if media == "photo":
        items = (await stack.client.get(f"/v1/jobs/{job['id']}/phases/rasterize/items")).json()["items"]
        assert items[0]["facts"]["flattened"] is True


@pytest.mark.parametrize(
    ("make", "ending", "code"),
    [
        pytest.param(lambda: papers.locked(papers.of_many_pages(1)), "failed", "DOCUMENT_ENCRYPTED", id="locked"),
        pytest.param(lambda: papers.of_many_pages(10_000), "failed", "DOCUMENT_TOO_LONG", id="ten thousand pages"),
        pytest.param(lambda: b"%PDF-1.7\n" + b"\x00no" * 99, "failed", "DOCUMENT_CORRUPT", id="no document at all"),
        pytest.param(papers.bomb, "dead", "DECODE_LIMIT", id="a content that unfolds to ten gigabytes"),
    ],
)
async def test_what_cannot_be_read_ends_with_a_code_that_says_why(
    stack: Stack, make: Callable[[], bytes], ending: str, code: str
) -> None:
    job = await stack.ended(await stack.upload(make(), pipeline="document"))
    assert (job["status"], job["error"]["code"]) == (ending, code)


async def test_a_hundred_and_twenty_pages_of_every_kind_come_back_in_their_order(stack: Stack) -> None:
    def page(n: int) -> papers.Page:
        if n % 20 == 19:
            return papers.Blank()
        paper = (school.report_card, school.education_plan)[n % 2](200 + n, ("en", "es")[n // 2 % 2], dpi=120)
        return papers.Scan(paper) if n % 20 == 7 else papers.Born(paper)

    pages = [page(n) for n in range(120)]
    job = await stack.ended(await stack.upload(papers.pdf(pages), pipeline="document", languages="en,es"), 300)
    assert (job["status"], phase(job, "assemble")["facts"]["not_read"]) == ("succeeded", []), job
    assert (items(job, "ocr")["total"], items(job, "ocr")["ended"]) == (120, 120)
    document = Document.model_validate_json(await stack.artifact(job, "assemble.document.json"))
    opened = pypdfium2.PdfDocument(await stack.artifact(job, "deliver.document.pdf"))
    assert len(document.pages) == len(opened) == len(pages)
    for given, found, shown in zip(pages, document.pages, opened, strict=True):
        if isinstance(given, papers.Blank):
            assert (found.why, words_of(found)) == ("blank", [])
            continue
        assert found.why == ("text" if isinstance(given, papers.Born) else "no-text")
        text = " ".join(shown.get_textpage().get_text_range().split())
        assert given.paper.fields["name"][1] in text
        assert sum(line.text in text for line in given.paper.lines) >= 0.9 * len(given.paper.lines)


async def test_pages_can_be_read_while_others_wait_and_no_kill_in_between_loses_or_reads_one_twice(
    stack: Stack,
) -> None:
    cards = [school.report_card(40 + n, subjects=2, dpi=120) for n in range(6)]
    data = papers.pdf([papers.Scan(card) for card in cards])
    answer = await stack.upload(data, pipeline="document")
    job_id = answer.json()["job_id"]
    early = await stack.until(job_id, lambda job: items(job, "ocr")["ended"] >= 1)
    assert items(early, "ocr")["ended"] < len(cards), "the others are still waited for"
    listed = (await stack.client.get(f"/v1/jobs/{job_id}/phases/ocr/items")).json()["items"]
    first = next(item for item in listed if item["status"] == "succeeded")
    number = int(first["item"][1:])
    assert cards[number - 1].fields["name"][1] in (await stack.artifact(early, f"ocr.{first['item']}.page.md")).decode()
    for service in ("ingest", "gpu-bridge", "output", "orchestrator"):
        stack.kill(service)
    await stack.ready()
    job = await stack.ended(answer)
    assert (job["status"], phase(job, "assemble")["facts"]["not_read"]) == ("succeeded", []), job
    opened = pypdfium2.PdfDocument(await stack.artifact(job, "deliver.document.pdf"))
    for n, card in enumerate(cards):
        assert card.fields["name"][1] in " ".join(opened[n].get_textpage().get_text_range().split())
    bought = await asyncio.to_thread(
        stack.rows,
        "SELECT e.call FROM gpu_bridge.epochs e WHERE e.code IS NULL AND e.ended_at IS NOT NULL AND e.call IN "
        f"(SELECT c.call FROM gpu_bridge.commands c WHERE c.key LIKE '{job_id}.ocr.%')",
    )
    assert len(bought) == len({row["call"] for row in bought}) == len(cards), "each page was read once"


def items(job: dict[str, Any], name: str) -> dict[str, int]:
    """How the items of a phase stand; of one that has none yet, none."""
    counted = next((one.get("items") for one in job["phases"] if one["name"] == name), None)
    return counted or {"total": 0, "ended": 0}
