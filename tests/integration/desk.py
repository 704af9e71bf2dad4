"""The orchestrator over HTTP, as a test sits before it: pipelines, keys, and a worker that answers as it wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
from nats.aio.client import Client
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.settings import Settings
from runtime import postgres
from tests.integration.conftest import SettingsOf, until
from tests.integration.orchestra import Worker, broken_laws, submit, upload, working

# fmt: off
PIPELINES: Final = {
    # Nothing is tried twice.
    "steps": """
        version: 1
        phases:
          first:  {command: noop, deadline_s: 60}
          second: {command: noop, deadline_s: 60, needs: [first], parameters: {strength: options.style_strength}}
          third:  {command: noop, deadline_s: 60, needs: [second], parameters: {aspect: options.crop}}
        """,
    # Everything is tried three times, one after the other.
    "stubborn": """
        version: 1
        phases:
          only: {command: noop, deadline_s: 60, retry: {"*": [0, 0]}}
        """,
    # It can do without its first phase.
    "lenient": """
        version: 1
        phases:
          maybe: {command: noop, deadline_s: 60, on_failure: skip}
          sure:  {command: noop, deadline_s: 60, needs: [maybe]}
        """,
    # It can do without it too, and says that something lacks.
    "forgiving": """
        version: 1
        phases:
          maybe: {command: noop, deadline_s: 60, on_failure: degrade}
          sure:  {command: noop, deadline_s: 60, needs: [maybe]}
        """,
    # One at a time.
    "narrow": """
        version: 1
        phases:
          only: {command: noop, deadline_s: 60, running_max: 1}
        """,
}
# What becomes of the steps: the second has another condition, the third is gone, a fourth is new.
STEPS_2: Final = """
        version: 2
        phases:
          first:  {command: noop, deadline_s: 60}
          second: {command: noop, deadline_s: 90, needs: [first], parameters: {strength: options.style_strength}}
          fourth: {command: noop, deadline_s: 60, needs: [second]}
        """
# fmt: on
KEYS: Final = {name: f"{name}-key-0123456789" for name in ("alice", "bob", "ops", "eve")}  # eve's is nobody's
OPS: Final = "operator:ops"


def pipelines_in(folder: Path, **changed: str) -> Path:
    """The files of these pipelines, but for those that a test has changed."""
    for name, rest in (PIPELINES | changed).items():
        lines = [line.removeprefix("        ") for line in rest.splitlines()]
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\naccepts: [image/jpeg]\ndeadline_s: 600\n" + "\n".join(lines)
        )
    return folder


def settings_for(settings_of: SettingsOf, folder: Path, **changes: Any) -> Settings:
    """Of a service that knows the pipelines of this folder, two tenants and an operator."""
    tenants = SecretStr(",".join(f"{name}:{KEYS[name]}" for name in ("alice", "bob")))
    keys = {"api_keys": tenants, "operator_keys": SecretStr(f"ops:{KEYS['ops']}")}
    found: Settings = settings_of(Settings, "orchestrator", pipelines_dir=folder, **keys, **changes)
    return found


def engine_for(settings: Settings) -> AsyncEngine:
    """The database of the service."""
    return postgres.create_engine(settings.postgres_url.get_secret_value(), service="test")


@dataclass
class Desk:
    """The service over HTTP, and the worker that answers it. `codes` are by tenant and phase: what fails."""

    http: httpx.AsyncClient
    nc: Client
    engine: AsyncEngine
    worker: Worker

    @property
    def codes(self) -> dict[tuple[str, str], str]:
        return self.worker.codes

    async def ask(self, method: str, path: str, who: str = "alice", status: int = 200, **about: Any) -> Any:
        """The JSON of an answer that has this status."""
        headers = {"Authorization": f"Bearer {KEYS[who]}"}
        answer = await self.http.request(method, path, headers=headers, **about)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, who: str = "alice", status: int = 200, **parameters: Any) -> Any:
        return await self.ask("GET", path, who, status, params=parameters)

    async def post(
        self, path: str, who: str = "alice", status: int = 200, start: str | None = None, **body: Any
    ) -> Any:
        """`start` is sent as `from`, which is no name in Python."""
        return await self.ask("POST", path, who, status, json=body | ({"from": start} if start else {}))

    async def begun(self, tenant: str = "alice", name: str = "steps", **about: Any) -> UUID:
        """A job whose upload has come in."""
        made = upload(name, tenant, **about)
        await submit(self.nc, made)
        return made.job_id

    async def died(self, phase: str = "second", code: str = "OBJECT_MISSING", **about: Any) -> UUID:
        """A job that is dead (or failed), because this phase failed with this code. Later attempts succeed."""
        [job] = await self.all_died(1, phase, code, **about)
        return job

    async def all_died(
        self, count: int, phase: str = "second", code: str = "OBJECT_MISSING", **about: Any
    ) -> list[UUID]:
        """As `died`, so many at once, in the order of their letters."""
        tenant = about.get("tenant", "alice")
        self.codes[tenant, phase] = code
        jobs = [await self.begun(**about) for _ in range(count)]

        async def over() -> bool:
            return {await self.status(job) for job in jobs} <= {"dead", "failed"}

        await until(over)
        del self.codes[tenant, phase]
        return jobs

    async def status(self, job: UUID) -> str | None:
        async with self.engine.connect() as conn:
            found = await conn.execute(text("SELECT status FROM orchestrator.jobs WHERE id = :id"), {"id": job})
            status: str | None = found.scalar_one_or_none()
            return status

    async def reaches(self, job: UUID, status: str) -> None:
        async def there() -> bool:
            return await self.status(job) == status

        await until(there)

    async def is_known(self, job: UUID) -> None:
        async def known() -> bool:
            return await self.status(job) is not None

        await until(known)

    async def at_work(self, job: UUID, phase: str) -> None:
        """Wait until the worker holds the command of this phase."""
        await until(lambda: any(c.job_id == job and c.phase == phase for c in self.worker.held))

    def runs(self, job: UUID) -> list[tuple[str, int]]:
        """The commands that were given for it: phase and attempt."""
        return [(c.phase, c.attempt) for c in self.worker.given if c.job_id == job]

    async def audit(self, subject: object) -> list[dict[str, Any]]:
        """What was done to it, oldest first."""
        found: list[dict[str, Any]] = (await self.get("/v1/audit", "ops", subject=str(subject)))["items"]
        return found[::-1]

    async def letters(self, **which: Any) -> list[dict[str, Any]]:
        """Dead letters, newest first."""
        found: list[dict[str, Any]] = (await self.get("/v1/dead-letters", "ops", limit=200, **which))["items"]
        return found

    async def letter_of(self, job: UUID, **which: Any) -> dict[str, Any]:
        """The newest dead letter of a job, whole."""
        mine = [one for one in await self.letters(**which) if one["job_id"] == str(job)]
        found: dict[str, Any] = await self.get(f"/v1/dead-letters/{mine[0]['id']}", "ops")
        return found


@asynccontextmanager
async def seated(url: str, engine: AsyncEngine, nc: Client) -> AsyncIterator[Desk]:
    """A desk before a service. What it lets wait ends, and then all rows must say what the jobs say."""
    worker = Worker(nc)
    async with httpx.AsyncClient(base_url=url, timeout=30) as http, working(worker):
        yield Desk(http, nc, engine, worker)
        await worker.let_go()
    wrong = await broken_laws(engine, PIPELINES)
    assert not wrong, "\n".join(wrong)
