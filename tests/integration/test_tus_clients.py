"""Real tus clients against a real process that is killed under them: tuspy, and tus-js-client in Chromium.

The browser's part needs `chromium` and `npm` on the PATH; without them it is skipped.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from playwright.async_api import Page, Route, async_playwright
from sqlalchemy.ext.asyncio import AsyncEngine
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from ingest.settings import Settings
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf, until
from tests.integration.test_tus import long_file
from tests.integration.ways import MIB, TUS
from tests.integration.wire import picture
from tests.servers.fixtures import EnvironmentOf

PARALLEL = 20
TUS_JS = "tus-js-client@4.3.1"
CHROMIUM = shutil.which("chromium")


class Process:
    """`python -m ingest`, as the stack starts it, which may be killed and started again."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._env = {"PATH": os.environ["PATH"], **given}
        self.url = f"http://127.0.0.1:{given['SAFELIGHT_HTTP_PORT']}"
        self.headers = {"Authorization": f"Bearer {given['SAFELIGHT_API_KEYS'].partition(':')[2]}"}
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._child = subprocess.Popen([sys.executable, "-m", "ingest"], env=self._env, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        if self._child:
            self._child.kill()
            self._child.wait()

    async def ready(self) -> None:
        async def answers() -> bool:
            try:
                async with httpx.AsyncClient() as client:
                    return (await client.get(f"{self.url}/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await until(answers, 60)

    async def restart(self) -> None:
        self.kill()
        self.start()
        await self.ready()


@pytest.fixture(scope="module")
async def ingest(prepared: object, environment_of: EnvironmentOf) -> AsyncIterator[Process]:
    process = Process(environment_of("ingest"))
    process.start()
    await process.ready()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Objects:
    return Objects(settings_of(Settings, "ingest"))


async def uploaded(engine: AsyncEngine, objects: Objects, upload_id: str) -> bytes:
    """What the upload's row refers to; it is what the row says."""
    async with engine.connect() as conn:
        query = "SELECT key, sha256 FROM ingest.uploads WHERE id = $1"
        row = (await conn.exec_driver_sql(query, (UUID(upload_id),))).one()
    return await objects.get_checked(row.key, row.sha256)


# -- tuspy ------------------------------------------------------------------------------------


def send(ingest: Process, content: bytes, seed: int) -> str:
    """Bring a file as tuspy does, broken off at places of chance, and by whatever happens. Its address."""
    chance, where = random.Random(seed), None
    client = TusClient(f"{ingest.url}{TUS}", headers=ingest.headers)
    for _ in range(300):
        try:
            uploader = client.uploader(
                file_stream=io.BytesIO(content), url=where, chunk_size=chance.randrange(50_000, 2 * MIB), retries=0
            )
            if where is None:
                uploader.set_url(uploader.create_url())
                where = uploader.url
            uploader.upload(stop_at=min(len(content), uploader.offset + chance.randrange(1, 2 * MIB)))
            if uploader.offset == len(content):
                return str(where)
        except (TusCommunicationError, OSError):
            time.sleep(0.2)  # as a client does: it is a program of its own, which waits for nobody here
    raise AssertionError("it did not come to its end")


async def test_tuspy_brings_twenty_files_at_once_though_the_service_is_killed_amid_them(
    ingest: Process, engine_of: Callable[[str], AsyncEngine], objects: Objects
) -> None:
    engine = engine_of("ingest")
    contents = [long_file(random.Random(seed).randrange(MIB, 4 * MIB)) for seed in range(PARALLEL)]
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(PARALLEL)
    sending = [loop.run_in_executor(threads, send, ingest, one, seed) for seed, one in enumerate(contents)]

    async def halfway() -> bool:
        async with engine.connect() as conn:
            query = 'SELECT count(*) FROM ingest.transfers WHERE "offset" > 500000'
            return bool((await conn.exec_driver_sql(query)).scalar_one() >= PARALLEL // 2)

    await until(halfway, 60)
    await ingest.restart()
    places = await asyncio.gather(*sending)
    async with httpx.AsyncClient(headers=ingest.headers | {"Tus-Resumable": "1.0.0"}) as client:
        for where, content in zip(places, contents, strict=True):
            looked = await client.head(where)
            assert looked.headers["Upload-Offset"] == str(len(content))
            assert looked.headers["Safelight-Job-Id"]
            assert await uploaded(engine, objects, looked.headers["Safelight-Upload-Id"]) == content
    await engine.dispose()


# -- tus-js-client in a browser ---------------------------------------------------------------


@pytest.fixture(scope="module")
def tus_js(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The client's own build for browsers, from the registry."""
    folder: Path = tmp_path_factory.mktemp("npm")
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no chromium or no npm is installed")
    command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", TUS_JS]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the registry of npm does not answer")
    return (folder / "node_modules/tus-js-client/dist/tus.min.js").read_text()


BRING = """
async ({headers, head, size, endpoint}) => {
    const bytes = new Uint8Array(size);
    bytes.set(Uint8Array.from(atob(head), c => c.charCodeAt(0)));
    for (let i = head.length; i < size; i++) bytes[i] = (i * 2654435761) >>> 24;
    const file = new File([bytes], 'holiday.jpg', {type: 'image/jpeg', lastModified: 1});
    window.told = {sent: 0, done: false, failed: null, resumed: false};
    const upload = new tus.Upload(file, {
        endpoint, headers, metadata: {filename: file.name, filetype: file.type, crop: '1:1'},
        retryDelays: [500, 1000, 1000, 1000, 2000, 2000, 5000, 5000],
        removeFingerprintOnSuccess: true,
        onProgress: sent => { window.told.sent = sent },
        onAfterResponse: (_, answer) => { window.told.job = answer.getHeader('Safelight-Job-Id') || window.told.job;
                                          window.told.upload = answer.getHeader('Safelight-Upload-Id') },
        onError: problem => { window.told.failed = String(problem) },
        onSuccess: () => { window.told.done = true },
    });
    const earlier = await upload.findPreviousUploads();
    if (earlier.length) { upload.resumeFromPreviousUpload(earlier[0]); window.told.resumed = true }
    upload.start();
}
"""


async def test_a_browser_goes_on_after_a_reload_and_after_the_service_was_killed(
    ingest: Process, engine_of: Callable[[str], AsyncEngine], objects: Objects, tus_js: str
) -> None:
    size, head, engine = 30 * MIB, picture(), engine_of("ingest")
    asked = {"headers": ingest.headers, "head": base64.b64encode(head).decode(), "size": size, "endpoint": TUS}

    async def page_of_a_product(route: Route) -> None:
        await route.fulfill(body=f"<!doctype html><script>{tus_js}</script>", content_type="text/html")

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page()
        await page.route("**/product", page_of_a_product)
        devtools = await page.context.new_cdp_session(page)
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 6 * MIB}
        await devtools.send("Network.emulateNetworkConditions", slow)
        await page.goto(f"{ingest.url}/product")
        await page.evaluate(BRING, asked)
        await until(lambda: _safe(engine, 1))
        await page.reload()
        await page.evaluate(BRING, asked)
        assert (await page.evaluate("window.told"))["resumed"]
        await until(lambda: _safe(engine, 12 * MIB))
        await ingest.restart()
        told = await until(lambda: _over(page), 60)
        await browser.close()
    assert told["done"], told
    assert told["job"]
    content = await uploaded(engine, objects, told["upload"])
    assert (len(content), content[: len(head)]) == (size, head)
    rest = bytes((i * 2654435761 & 0xFFFFFFFF) >> 24 for i in range(size - 1000, size))
    assert content[-1000:] == rest
    await engine.dispose()


async def _safe(engine: AsyncEngine, offset: int) -> bool:
    query = 'SELECT count(*) FROM ingest.transfers WHERE size = $1 AND "offset" >= $2'
    async with engine.connect() as conn:
        return bool((await conn.exec_driver_sql(query, (30 * MIB, offset))).scalar_one())


async def _over(page: Page) -> Any:
    told = await page.evaluate("window.told")
    return told if told["done"] or told["failed"] else None
