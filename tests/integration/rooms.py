"""Ingest, orchestrator and output together on real servers, with a pipeline whose phases a no-op worker does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nats

import ingest.app
import ingest.settings
import orchestrator.app
import orchestrator.settings
import output.app
import output.settings
from tests.integration.conftest import SettingsOf, until
from tests.integration.desk import engine_for
from tests.integration.orchestra import Worker, calm, working
from tests.integration.wire import picture, served
from tests.servers.models import NatsServer

KEY, OTHER_KEY = "a-key-of-the-tests-1", "a-key-of-the-tests-2"
PATIENCE_S = 60.0  # real work, beside others
ENDED = ("succeeded", "failed", "dead", "cancelled")

# Reads as the photo's does: a look that a style gives, a frame that a crop gives, and what is made of both.
EDITED = """\
name: edited
version: 1
accepts: [image/jpeg]
deadline_s: 600
phases:
  look:  {command: noop, deadline_s: 60}
  grade: {command: noop, deadline_s: 60, needs: [look], when: options.style,
          parameters: {strength: options.style_strength}, attachments: [lut]}
  frame: {command: noop, deadline_s: 60, needs: [grade], parameters: {aspect: options.crop}}
  forms: {command: noop, deadline_s: 60, needs: [frame]}
"""


@dataclass
class Rooms:
    """What a tenant's client sees, each room at its own address; `worker` counts what was really done."""

    ingest: httpx.AsyncClient
    orchestrator: httpx.AsyncClient
    output: httpx.AsyncClient
    worker: Worker

    async def upload(self, content: bytes | None = None, **fields: str) -> httpx.Response:
        data = {"pipeline": "edited", **fields}
        return await self.ingest.post("/v1/uploads", data=data, files={"file": ("f", content or picture())})

    async def ended(self, answer: httpx.Response | dict[str, Any]) -> dict[str, Any]:
        """The job of an answer once it has ended, as output shows it."""
        told = answer if isinstance(answer, dict) else answer.json()
        assert isinstance(answer, dict) or answer.status_code == 202, answer.text

        async def over() -> dict[str, Any] | None:
            found = await self.output.get(f"/v1/jobs/{told['job_id']}")
            job: dict[str, Any] = found.json()
            return job if found.status_code == 200 and job["status"] in ENDED else None

        job: dict[str, Any] = await until(over, PATIENCE_S)
        return job

    def done(self, job_id: str) -> list[str]:
        """The phases that were commanded for a job, in order."""
        return [command.phase for command in self.worker.given if str(command.job_id) == job_id]


@asynccontextmanager
async def opened(settings_of: SettingsOf, nats_server: NatsServer, folder: Path) -> AsyncIterator[Rooms]:
    """All three, and a worker."""
    (folder / "edited.yaml").write_text(EDITED)
    keys = {"api_keys": f"demo:{KEY},other:{OTHER_KEY}", "operator_keys": "ada:an-operators-key-1"}
    deciding = settings_of(orchestrator.settings.Settings, "orchestrator", pipelines_dir=folder, **keys)
    engine = engine_for(deciding)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(calm(engine, nats_server))
        nc = await nats.connect(nats_server.url, user="setup", password=nats_server.passwords["setup"])
        stack.push_async_callback(nc.close)
        worker = await stack.enter_async_context(working(Worker(nc)))
        decides = await stack.enter_async_context(served(orchestrator.app.build(deciding)))
        taking = settings_of(ingest.settings.Settings, "ingest", orchestrator_url=decides.url, **keys)
        takes = await stack.enter_async_context(served(ingest.app.build(taking)))
        shows = await stack.enter_async_context(
            served(output.app.build(settings_of(output.settings.Settings, "output", **keys)))
        )
        headers = {"Authorization": f"Bearer {KEY}"}
        takes_, decides_, shows_ = (
            httpx.AsyncClient(base_url=one.url, headers=headers, timeout=30) for one in (takes, decides, shows)
        )
        for client in (takes_, decides_, shows_):
            stack.push_async_callback(client.aclose)
        yield Rooms(takes_, decides_, shows_, worker)
    await engine.dispose()
