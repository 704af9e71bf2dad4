"""The browser page against the real stack: a photo is dragged in, develops, and is looked at.

Needs `chromium` on the PATH (Debian: apt-get install chromium); without it these tests are skipped.
The page's policy forbids eval, so waiting is done with locators, not with wait_for_function.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--headless=new", "--disable-background-networking"]
FROM_STORAGE = re.compile(r"^https?://.*X-Amz-Signature=")
A_JOB_MS = 60_000  # six phases on a busy machine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

# Hands the page a drop, as dragging a file from the desktop does.
DROP = """
([base64, name, type]) => {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    const event = new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer });
    document.querySelector(".drop").dispatchEvent(event);
  }
}
"""


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        await started.close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
async def page(browser: Browser, stack: Any, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    width, height = request.param
    context = await browser.new_context(viewport={"width": width, "height": height})
    opened = await context.new_page()
    await opened.goto(stack.base_url)
    yield opened
    await context.close()


@pytest.fixture
async def complaints(page: Page) -> list[str]:  # async, for to listen needs a running loop
    """What the browser complains of from here on: console errors, uncaught exceptions, refused policies."""
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda problem: heard.append(str(problem)))
    return heard


async def enter(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Open").click()


async def drop(page: Page, content: bytes, name: str, media_type: str = "image/jpeg") -> None:
    await expect(page.locator(".drop")).to_be_visible()
    await page.evaluate(DROP, [base64.b64encode(content).decode(), name, media_type])


def card_of(page: Page, name: str) -> Locator:
    return page.locator(".card", has=page.get_by_text(name, exact=True))


async def has_pixels(picture: Locator) -> bool:
    await expect(picture).to_have_attribute("src", re.compile("."))
    shown: bool = await picture.evaluate("(img) => img.decode().then(() => img.naturalWidth > 0)")
    return shown


@pytest.fixture(scope="module")
def photo(samples: dict[str, Path]) -> bytes:
    """Has a face, so that it is retouched."""
    return samples["astronaut.jpg"].read_bytes()


async def test_a_photo_that_is_dragged_in_develops_and_can_be_compared(
    page: Page, complaints: list[str], stack: Any, photo: bytes
) -> None:
    await enter(page, stack.api_key)
    await page.get_by_label("Crop").select_option("1:1")
    await drop(page, photo, "astronaut <b>.jpg")

    card = card_of(page, "astronaut <b>.jpg")  # the name is shown as it is, never as markup
    await expect(card).to_be_visible(timeout=A_JOB_MS)
    await expect(card.locator(".phases li")).to_have_count(6, timeout=A_JOB_MS)
    await expect(card.locator(".badge")).to_contain_text("succeeded", timeout=A_JOB_MS)
    thumb = card.locator(".frame img")
    await expect(thumb).to_have_attribute("src", FROM_STORAGE)  # no longer the preview of what was dropped
    await expect(thumb).to_be_visible()
    assert await has_pixels(thumb)

    await look_closely(page, card)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    assert complaints == []


async def test_the_styles_that_there_are_are_offered(page: Page, complaints: list[str], stack: Any) -> None:
    await enter(page, stack.api_key)
    await page.get_by_label("Style").click()
    await expect(page.locator('#styles option[value="mono"]')).to_have_text("built-in, version 1")
    assert complaints == []


async def test_a_job_of_another_tab_shows_its_original_too(
    page: Page, complaints: list[str], stack: Any, photo: bytes
) -> None:
    await enter(page, stack.api_key)
    await drop(page, photo, "astronaut.jpg")
    badge = card_of(page, "astronaut.jpg").locator(".badge")
    await expect(badge).to_contain_text("succeeded", timeout=A_JOB_MS)

    await page.reload()  # the tab forgets what it uploaded, and keeps the key

    await look_closely(page, page.locator(".card").first)
    assert complaints == []


async def test_what_is_refused_says_why_and_the_page_goes_on(page: Page, stack: Any) -> None:
    await enter(page, "no-key-of-this-stack")
    await expect(page.get_by_role("alert")).to_have_text("This key is not known here.")

    await enter(page, stack.api_key)
    await drop(page, b"hello", "letter.jpg")
    await expect(page.get_by_role("listitem").filter(has_text="letter.jpg")).to_contain_text("MEDIA_TYPE_UNSUPPORTED")
    await page.get_by_role("button", name="Dismiss").click()
    await expect(page.get_by_text("letter.jpg")).to_have_count(0)


async def test_the_key_is_in_no_address_and_can_be_forgotten(page: Page, stack: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await enter(page, stack.api_key)
    await page.get_by_role("button", name="Forget key").click()
    await expect(page.get_by_label("API key")).to_be_visible()

    assert asked
    assert not [url for url in asked if stack.api_key in url]
    assert await page.evaluate("sessionStorage.length + localStorage.length") == 0


async def look_closely(page: Page, card: Locator) -> None:
    """Opens a finished job and sees both pictures, the trace and the phases."""
    await card.get_by_role("button").click()
    detail = page.get_by_role("dialog")
    await expect(detail.get_by_role("row").filter(has_text="analyze")).to_contain_text("succeeded")
    await expect(detail.get_by_text("Trace", exact=True)).to_be_visible()
    await expect(detail.get_by_role("slider")).to_be_visible()
    assert await has_pixels(detail.get_by_alt_text("The finished photo"))
    assert await has_pixels(detail.get_by_alt_text("The photo as it was uploaded"))


# Cuts the stream at every byte; returns what was read each time, which must always be the same.
CUTS = """
async () => {
  const { parse } = await import("/events.js");
  const lines = ["retry: 1000", "", "id: 1", "event: a.v1.b", 'data: {"x": "ä\\u2028"}', ""];
  lines.push(": still here", "", "id: 2", "data: 1", "data: 2", "", "id: 3");
  const seen = new Set();
  for (const end of ["\\n", "\\r\\n", "\\r"]) {
    const body = new TextEncoder().encode([...lines, "data: cut off"].join(end));
    for (let at = 0; at <= body.length; at++) {
      const stream = new ReadableStream({
        start(controller) {
          controller.enqueue(body.slice(0, at));
          controller.enqueue(body.slice(at));
          controller.close();
        },
      });
      const events = [];
      for await (const event of parse(stream)) events.push(event);
      seen.add(JSON.stringify(events));
    }
  }
  return [...seen].map(JSON.parse);
}
"""


async def test_the_page_reads_an_event_stream_however_the_network_cuts_it(page: Page) -> None:
    assert await page.evaluate(CUTS) == [
        [
            {"id": "1", "type": "a.v1.b", "data": '{"x": "ä\u2028"}'},
            {"id": "2", "type": "message", "data": "1\n2"},
        ]
    ]
