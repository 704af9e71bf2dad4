"""The example page in a browser, from another origin than the API: twenty photos are dragged in and finish.

Needs `chromium` and `npm` on the PATH; without them it is skipped.
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from example import server
from PIL import Image
from playwright.async_api import Page, async_playwright, expect

from stack.ports import HOST
from tests.e2e.conftest import Stack

CHROMIUM = shutil.which("chromium")
PHOTOS = 20
ALL_OF_THEM_MS = 150_000  # six phases of each, on a busy machine

DROP = """
files => {
  const dataTransfer = new DataTransfer();
  for (const [name, base64] of files) {
    const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
    dataTransfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  }
  const event = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer });
  document.querySelector("#drop").dispatchEvent(event);
}
"""
WIDTHS = "img => img.decode().then(() => img.naturalWidth)"


@pytest.fixture(scope="module")
def tus_js(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `npm install` brings for the page."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no chromium or no npm is installed")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copy(server.HERE / "package.json", folder)
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the registry of npm does not answer")
    return folder / server.TUS.relative_to(server.HERE)


@pytest.fixture
async def page(stack: Stack, tus_js: Path) -> AsyncIterator[Page]:
    """The page, served as `just example` serves it."""
    app = server.build(stack.base_url, stack.api_key, tus_js)
    config = uvicorn.Config(app, HOST, stack.page_port, log_level="warning", timeout_graceful_shutdown=1)
    product = uvicorn.Server(config)
    listening = config.bind_socket()
    listening.listen()  # who comes before it has started waits
    thread = threading.Thread(target=product.run, args=([listening],))
    thread.start()
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            opened = await browser.new_page()
            await opened.goto(f"http://{HOST}:{stack.page_port}/")
            yield opened
            await browser.close()
    finally:
        product.should_exit = True
        thread.join()


def small(photo: Path, turn: int) -> str:
    """A photo of 300 pixels, none of which is like another."""
    with Image.open(photo) as whole:
        whole.thumbnail((300, 300))
        file = io.BytesIO()
        whole.convert("RGB").rotate(turn / 10).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


async def test_twenty_photos_are_dragged_in_finish_and_are_compared(
    page: Page, stack: Stack, samples: dict[str, Path]
) -> None:
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda problem: complaints.append(str(problem)))
    page.on("request", lambda request: asked.append(f"{request.method} {request.url} {request.headers}"))

    await page.evaluate(DROP, [(f"photo {n}.jpg", small(samples["coffee.png"], n)) for n in range(PHOTOS)])

    cards = page.locator("#photos li")
    await expect(cards).to_have_count(PHOTOS)
    await expect(page.get_by_role("status")).to_have_text(f"{PHOTOS} of {PHOTOS} finished", timeout=ALL_OF_THEM_MS)
    card = cards.filter(has_text="photo 7.jpg")
    await expect(card.locator(".what")).to_have_text("succeeded")
    assert await card.locator("img").evaluate(WIDTHS) == 300

    await card.get_by_role("button").click()
    before, after = (page.get_by_role("dialog").get_by_alt_text(which) for which in ("before", "after"))
    assert await before.evaluate(WIDTHS) == await after.evaluate(WIDTHS) == 300
    await page.get_by_label("Before and after").fill("30")
    assert await after.evaluate("img => img.style.clipPath") == "inset(0px 0px 0px 30%)"

    uploads = [line for line in asked if line.startswith(f"POST {stack.base_url}/v1/uploads/tus")]
    assert len(uploads) == PHOTOS, "they went to Safelight itself"
    assert not [line for line in asked if stack.api_key in line], "the key never left the server"
    assert complaints == []


async def test_a_file_that_is_no_photo_says_why(page: Page) -> None:
    await page.evaluate(DROP, [("letter.jpg", base64.b64encode(b"hello").decode())])
    await expect(page.locator("#photos li")).to_contain_text("MEDIA_TYPE_UNSUPPORTED", timeout=20_000)
