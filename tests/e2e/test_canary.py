"""What a document says stays in its objects: no table, message, log or span holds a word of it.

Canary words go through the whole stack in documents that succeed, fail, and are replayed; then every store is searched.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.pdfgen.canvas import Canvas

from tests.e2e.conftest import Stack
from tests.integration.conftest import until

WORDS = ("Zanzibarquill", "Oxbowlantern")  # born-digital text, and words to be read in a picture
NAME = "Wimplefrost-report-card.pdf"
ASKED = {"pipeline": "document", "template": "report-card"}


def born_digital(words: str) -> bytes:
    """A page whose text layer says these words, often enough to be sound."""
    made = io.BytesIO()
    page = Canvas(made, pagesize=(595, 842))
    page.drawString(72, 804, f"Student: {words}")
    for n in range(12):
        page.drawString(72, 780 - 24 * n, f"{words} has attended all classes of term {n}")
    page.save()
    return made.getvalue()


def scanned(words: str) -> bytes:
    """A picture of a page that says them."""
    page = Image.new("RGB", (1240, 1754), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=48)
    for n in range(6):
        pen.text((120, 160 + 120 * n), f"{words} grade {n}", "black", font)
    made = io.BytesIO()
    page.save(made, "PDF", resolution=150)
    return made.getvalue()


@pytest.fixture(scope="module")
async def told(stack: Stack) -> list[dict[str, str]]:
    """Documents that succeed, one that fails, and one that was retried from its start."""
    jobs = [
        await stack.ended(await stack.client.post("/v1/uploads", data=ASKED, files={"file": file}))
        for file in (
            (NAME, born_digital(WORDS[0]), "application/pdf"),
            (NAME, scanned(WORDS[1]), "application/pdf"),
        )
    ]
    broken = born_digital(WORDS[0])[:700]
    jobs.append(
        await stack.ended(
            await stack.client.post("/v1/uploads", data={"pipeline": "document"}, files={"file": (NAME, broken)})
        )
    )
    again = await stack.client.post(f"/v1/jobs/{jobs[1]['id']}/retry", json={"from": "start"})
    assert again.status_code == 200, again.text
    await stack.until(jobs[1]["id"], lambda job: job["status"] == "succeeded" and job["revision"] > jobs[1]["revision"])
    operator = {"Authorization": f"Bearer {stack.home.secrets()['SAFELIGHT_OPERATOR_KEY']}"}
    letters = (await stack.client.get("/v1/dead-letters", headers=operator)).json()["items"]
    [letter] = [one["id"] for one in letters if one["job_id"] == jobs[2]["id"]]
    replayed = await stack.client.post(f"/v1/dead-letters/{letter}/replay", json={}, headers=operator)
    assert replayed.status_code == 200, replayed.text
    await stack.until(jobs[2]["id"], lambda job: job["status"] == "failed" and job["revision"] > jobs[2]["revision"])
    return jobs


async def test_the_words_were_read(stack: Stack, told: list[dict[str, str]]) -> None:
    assert [job["status"] for job in told] == ["succeeded", "succeeded", "failed"]
    for job, word in zip(told, WORDS, strict=False):
        made = await stack.artifact(job, "deliver.document.pdf")
        text = "".join(page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(made))
        assert word in text
    assert WORDS[0] in json.loads(await stack.artifact(told[0], "deliver.fields.json"))["fields"]["name"]["value"]


async def test_no_store_holds_a_word_of_them(stack: Stack, told: list[dict[str, str]]) -> None:
    searched = [*WORDS, Path(NAME).stem]
    await until(lambda: stack.spans.bodies["/v1/traces"] and stack.spans.bodies["/v1/metrics"])
    found = await asyncio.to_thread(lambda: list(leaks(stack, searched)))
    assert found == []
    operator = {"Authorization": f"Bearer {stack.home.secrets()['SAFELIGHT_OPERATOR_KEY']}"}
    for path in ("/v1/audit/export", "/v1/dead-letters", "/v1/providers/costs"):
        exported = (await stack.client.get(path, headers=operator)).text
        assert not any(word in exported for word in searched), path


def leaks(stack: Stack, words: list[str]) -> Iterator[str]:
    """where one of the words stands: tables, the broker's files, logs, spans, metrics."""
    pattern = "|".join([*words, *(word.encode().hex() for word in words)])  # bytes are shown as digits
    tables = stack.rows(
        "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables "
        "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    for table in tables:
        [row] = stack.rows(f"SELECT count(*) AS n FROM {table['name']} AS t WHERE t::text ~* '{pattern}'")
        if row["n"]:
            yield f"table {table['name']}"
    spelt = re.compile(pattern.encode(), re.IGNORECASE)
    for folder in (stack.home.data / "nats", stack.home.logs):
        yield from (str(path.name) for path in folder.rglob("*") if path.is_file() and spelt.search(path.read_bytes()))
    for path, bodies in stack.spans.bodies.items():  # spans with their events, and metrics, as they were exported
        if any(spelt.search(body) for body in bodies):
            yield path
