"""The rooms' parts of a document: each command is answered once, in words that tell nothing of what a page says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from nats.aio.client import Client

import ingest.documents
import output.documents
from contracts.artifacts import ObjectRef
from contracts.documents import Document, Reason, Sheet, sheet_id
from contracts.phases import PhaseFailed, PhaseSucceeded, RunPhase
from ingest.settings import MIB, Settings
from output.paper import templates
from runtime.objects import Objects
from runtime.sandbox import Sandbox
from tests.documents import papers, school
from tests.integration.conftest import PhasesOf, SettingsOf
from tests.integration.wire import command, outcome, stored

CARD = school.report_card(5, subjects=3)
PDF = "application/pdf"


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "ingest"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """As ingest has it for PDFs, with its own limit."""
    made = Sandbox(workers=1, memory_bytes=1024 * MIB, preload=["ingest.pages.pdf"])
    yield made
    made.close()


@pytest.fixture
def apart(phases_of: PhasesOf, objects: Objects, sandbox: Sandbox) -> ingest.documents.Documents:
    return ingest.documents.Documents(phases_of("ingest", objects), objects, sandbox, sandbox)


@pytest.fixture
def together(phases_of: PhasesOf, objects: Objects, sandbox: Sandbox) -> output.documents.Documents:
    return output.documents.Documents(phases_of("output", objects), objects, sandbox, templates.load())


async def ended(nc: Client, given: RunPhase) -> PhaseSucceeded:
    return PhaseSucceeded.model_validate((await outcome(nc, given)).body)


def page(original: ObjectRef, number: int, why: Reason) -> RunPhase:
    sheet = Sheet(id=sheet_id(number), number=number, ocr=why.needs_ocr, why=why)
    given = command("rasterize", inputs={"original": original}, page=sheet.model_dump(mode="json"))
    return given.model_copy(update={"item": sheet.id})


async def test_a_document_goes_through_both_rooms_and_no_message_holds_a_word_of_it(
    nc: Client,
    objects: Objects,
    apart: ingest.documents.Documents,
    together: output.documents.Documents,
    capfd: pytest.CaptureFixture[str],
) -> None:
    original = await stored(objects, papers.pdf([papers.Born(CARD), papers.Blank()]), PDF)
    first = command("inspect", inputs={"original": original})
    await apart.inspect(first)
    inspected = await ended(nc, first)
    pages: Any = inspected.facts["pages"]
    read: dict[str, ObjectRef] = {}
    for number, why in ((1, Reason.TEXT), (2, Reason.BLANK)):
        given = page(original, number, why)
        await apart.rasterize(given)
        for artifact in (await ended(nc, given)).artifacts:
            read[f"rasterize.{given.item}.{artifact.name}"] = artifact
    assemble = command("assemble", inputs={"original": original, **read}, pages=pages)
    await together.assemble(assemble)
    [document] = (await ended(nc, assemble)).artifacts
    assert len(Document.model_validate_json(await objects.get(document.key)).pages) == 2
    deliver = command(
        "deliver", inputs={"original": original, "assemble.document.json": document}, template="report-card"
    )
    await together.deliver(deliver)
    delivered = await ended(nc, deliver)
    assert {one.name for one in delivered.artifacts} >= {"document.pdf", "document.md", "document.txt", "fields.json"}
    words = {word for _, value in CARD.fields.values() for word in value.split()}
    said = "".join([str([(await outcome(nc, one)).body for one in (first, assemble, deliver)]), *capfd.readouterr()])
    assert [word for word in words if word in said] == []


async def test_a_command_that_comes_twice_writes_the_same_and_is_answered_once(
    nc: Client, objects: Objects, apart: ingest.documents.Documents
) -> None:
    original = await stored(objects, papers.pdf([papers.Scan(CARD)]), PDF)
    given = page(original, 1, Reason.NO_TEXT)
    await apart.rasterize(given)
    [first] = (await ended(nc, given)).artifacts
    before = await objects.get(first.key)
    await apart.rasterize(given)
    assert await objects.get(first.key) == before
    assert (await ended(nc, given)).artifacts == [first]


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(papers.bomb, "DECODE_LIMIT", id="a content that unfolds to ten gigabytes"),
        pytest.param(lambda: papers.of_many_pages(10_000), "DOCUMENT_TOO_LONG", id="ten thousand pages"),
    ],
)
async def test_a_file_that_means_harm_dies_in_its_child(
    nc: Client, objects: Objects, apart: ingest.documents.Documents, make: Any, code: str
) -> None:
    given = command("inspect", deadline_s=20, inputs={"original": await stored(objects, make(), PDF)})
    await apart.inspect(given)
    failed = PhaseFailed.model_validate((await outcome(nc, given)).body)
    assert failed.code == code


async def test_a_document_of_which_no_page_was_read_fails_and_so_does_a_template_that_is_none(
    nc: Client, objects: Objects, together: output.documents.Documents
) -> None:
    original = await stored(objects, papers.pdf([papers.Blank()]), PDF)
    nothing = command(
        "assemble", inputs={"original": original}, pages=[{"id": "p001", "number": 1, "ocr": True, "why": "no-text"}]
    )
    await together.assemble(nothing)
    assert PhaseFailed.model_validate((await outcome(nc, nothing)).body).code == "NO_PAGE_READ"
    unknown = command("deliver", inputs={"original": original}, template="nobody")
    await together.deliver(unknown)
    assert PhaseFailed.model_validate((await outcome(nc, unknown)).body).code == "TEMPLATE_UNKNOWN"
