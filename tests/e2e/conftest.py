"""The whole stack, started once for all end-to-end tests: real servers, every service its own process."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stack import control
from stack.home import Home
from stack.ports import HOST, anywhere
from stack.samples import write_samples
from tests.servers.otlp import OtlpReceiver

ENDED = ("succeeded", "failed", "dead", "cancelled")
PATIENCE_S = 90.0


@dataclass
class Stack:
    """A running stack and what tests do with it."""

    home: Home
    base_url: str
    api_key: str
    spans: OtlpReceiver
    page_port: int  # a page that is served there, on loopback, may upload from its users' browsers
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient(
            base_url=self.base_url, headers={"Authorization": f"Bearer {self.api_key}"}, timeout=60
        )

    async def upload(self, file: Path | bytes, *, idempotency_key: str | None = None, **options: str) -> httpx.Response:
        """POST one file. `options` are form fields."""
        data = await asyncio.to_thread(file.read_bytes) if isinstance(file, Path) else file
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self.client.post("/v1/uploads", data=options, files={"file": ("f", data)}, headers=headers)

    async def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        answer = await self.client.get(f"/v1/jobs/{job_id}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def until(
        self, job_id: str, holds: Callable[[dict[str, Any]], bool], patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """The job as soon as the condition holds. The front door or output may be away in between."""
        deadline = time.monotonic() + patience_s
        job: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                job = await self.job(job_id)
            except httpx.HTTPError:
                job = {}
            if job and holds(job):
                return job
            await asyncio.sleep(0.05)
        raise AssertionError(f"not within {patience_s} s: {json.dumps(job)[:2000]}")

    async def ended(self, answer: httpx.Response, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """The job that an upload's answer names, once it has ended."""
        assert answer.status_code == 202, answer.text
        return await self.until(answer.json()["job_id"], lambda job: job["status"] in ENDED, patience_s)

    async def artifact(self, job: Mapping[str, Any], name: str) -> bytes:
        """An artifact's bytes, through the signed link."""
        link = await self.client.get(f"/v1/jobs/{job['id']}/artifacts/{name}")
        assert link.status_code == 307, link.text
        async with httpx.AsyncClient() as stranger:  # the link is all it takes
            found = await stranger.get(link.headers["Location"])
        found.raise_for_status()
        return found.content

    def process(self, name: str) -> psutil.Process:
        """The process of a service or server."""
        return psutil.Process(self.home.read_state()["processes"][name]["pid"])

    def kill(self, name: str) -> None:
        """kill -9; the supervisor starts it again."""
        process = self.process(name)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    async def ready(self) -> None:
        """Wait until every process is ready again."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            rows = self.home.read_state()["processes"].values()
            if all(row["status"] == "ready" for row in rows):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"not ready: {self.home.read_state()['processes']}")

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What the database says, as its administrator."""
        import asyncpg

        async def ask() -> list[dict[str, Any]]:
            url = control.setup_environment(self.home)["SAFELIGHT_POSTGRES_ADMIN_URL"]
            conn = await asyncpg.connect(url)
            try:
                return [dict(row) for row in await conn.fetch(query)]
            finally:
                await conn.close()

        with asyncio.Runner() as runner:
            return runner.run(ask())


def phases(job: Mapping[str, Any]) -> dict[str, str]:
    """Phase -> status."""
    return {phase["name"]: phase["status"] for phase in job["phases"]}


def phase(job: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One phase of a job."""
    return next(one for one in job["phases"] if one["name"] == name)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack on free ports, in a folder with a space and letters that are not ASCII."""
    home = Home(tmp_path_factory.mktemp("e2e") / "Fotos für Zoë" / ".safelight")
    home.path.mkdir(parents=True)
    ports = anywhere()
    page_port = next(port for port in iter(lambda: anywhere()["console"], None) if port not in ports.values())
    home.write_state({"ports": ports})
    with OtlpReceiver() as spans, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAFELIGHT_HOME", str(home.path))
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", spans.endpoint)
        patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "5000")  # milliseconds; a minute where nobody says so
        patch.setenv("SAFELIGHT_CORS_ORIGINS", f"http://{HOST}:{page_port}")
        try:
            control.up(home)
            known = control.client_environment(home)
            yield Stack(home, known["SAFELIGHT_URL"], known["SAFELIGHT_API_KEY"], spans, page_port)
        finally:
            control.down(home)


@pytest.fixture(autouse=True)
async def _all_ready(stack: Stack) -> None:
    """Each test finds every process ready, whatever the one before it killed."""
    await stack.ready()


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo's photos by name."""
    return {one.path.name: one.path for one in write_samples(tmp_path_factory.mktemp("samples"))}
