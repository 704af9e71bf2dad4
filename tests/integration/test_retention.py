"""What a tenant does not keep any longer is erased by itself, but for what is held and what makes styles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.uploads import UPLOAD_RECEIVED
from orchestrator import retention
from orchestrator.app import build
from orchestrator.audit import Actor
from orchestrator.erasures import Erasures
from orchestrator.receipts import Signer
from orchestrator.tables import OUTBOX
from runtime import clock, postgres
from runtime.outbox import Outbox, outgoing, publish
from tests.integration.conftest import SettingsOf
from tests.integration.desk import Desk, engine_for, pipelines_in, seated, settings_for
from tests.integration.orchestra import calm, submit, upload
from tests.integration.wire import served
from tests.servers.models import NatsServer

OPS = Actor("operator:ops", None, "")


@pytest.fixture(scope="module")
async def service(
    prepared: object, settings_of: SettingsOf, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, AsyncEngine]]:
    settings = settings_for(settings_of, pipelines_in(tmp_path_factory.mktemp("pipelines")))
    engine = engine_for(settings)
    async with calm(engine, nats_server), served(build(settings)) as site:
        yield site.url, engine
    await engine.dispose()


@pytest.fixture
async def desk(service: tuple[str, AsyncEngine], nc: Client) -> AsyncIterator[Desk]:
    async with seated(*service, nc) as made:
        yield made


async def over(desk: Desk, days: float) -> UUID:
    """A job of a tenant, whose end lies so many days back."""
    job = await desk.begun()
    await desk.reaches(job, "succeeded")
    async with postgres.transaction(desk.engine) as conn:
        await conn.execute(
            "UPDATE orchestrator.jobs SET ended_at = $2 WHERE id = $1", job, clock.now() - timedelta(days=days)
        )
    return job


async def enforced(desk: Desk) -> set[UUID]:
    """The jobs that retention lets be erased now."""
    js = desk.nc.jetstream()
    erasures = Erasures(desk.engine, js, Outbox(desk.engine, OUTBOX, js), None, Signer("s" * 32))  # type: ignore[arg-type]
    await retention.enforce(desk.engine, erasures)
    async with postgres.transaction(desk.engine) as conn:
        rows = await conn.fetch(
            "SELECT jobs FROM orchestrator.erasures WHERE target = 'retention' AND tenant = 'alice'"
        )
    return {job for row in rows for job in row["jobs"]}


async def kept(desk: Desk, days: int | None) -> dict[str, Any]:
    answer = await desk.http.put(
        "/v1/retention/alice", json={"days": days}, headers={"Authorization": "Bearer ops-key-0123456789"}
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()["days"]
    return found


async def test_what_is_older_than_its_tenant_keeps_it_is_erased(desk: Desk) -> None:
    old, young = await over(desk, 31), await over(desk, 29)
    assert not await enforced(desk) & {old, young}, "nobody has said how long"
    assert (await kept(desk, 30))["alice"] == 30
    assert await enforced(desk) >= {old}
    assert young not in await enforced(desk)
    assert "alice" not in await kept(desk, None)
    assert [line["action"] for line in await desk.audit("alice")][-2:] == ["retention.keep", "retention.keep"]


async def test_what_is_held_is_kept_until_it_is_released(desk: Desk) -> None:
    job = await over(desk, 400)
    async with postgres.transaction(desk.engine) as conn:
        upload = await conn.fetchval("SELECT upload_id FROM orchestrator.jobs WHERE id = $1", job)
    body = {"tenant": "alice", "upload": str(upload), "reason": "a case"}
    key = {"Authorization": "Bearer ops-key-0123456789"}
    hold = (await desk.http.post("/v1/holds", json=body, headers=key)).json()
    await kept(desk, 365)
    assert job not in await enforced(desk)
    (await desk.http.post(f"/v1/holds/{hold['id']}/release", headers=key)).raise_for_status()
    assert job in await enforced(desk)
    await kept(desk, None)


async def test_a_retention_is_some_days_and_an_operators_word(desk: Desk) -> None:
    for days in (0, -1, 36_501, "many"):
        answer = await desk.http.put(
            "/v1/retention/alice", json={"days": days}, headers={"Authorization": "Bearer ops-key-0123456789"}
        )
        assert answer.status_code == 422, days
    answer = await desk.http.put(
        "/v1/retention/alice", json={"days": 1}, headers={"Authorization": "Bearer alice-key-0123456789"}
    )
    assert answer.status_code == 403
    with pytest.raises(asyncpg.CheckViolationError):
        async with postgres.transaction(desk.engine) as conn:
            await conn.execute(
                "INSERT INTO orchestrator.retention (tenant, days, by) VALUES ($1, 0, 'x')", str(uuid4())
            )


async def test_another_version_of_an_upload_that_is_being_erased_never_begins(desk: Desk) -> None:
    first = upload("steps", "alice")
    await submit(desk.nc, first)
    await desk.reaches(first.job_id, "succeeded")
    await desk.post("/v1/erasures", status=202, upload=str(first.upload_id))
    other = upload("steps", "alice").model_copy(update={"upload_id": first.upload_id, "edit_of": first.job_id})
    after = upload("steps", "alice")
    await publish(
        desk.nc.jetstream(),
        [outgoing(UPLOAD_RECEIVED, one, message_id=f"{one.job_id}", key=f"{one.job_id}", source="test")
         for one in (other, after)],
    )  # fmt: skip
    await desk.reaches(after.job_id, "succeeded")
    async with postgres.transaction(desk.engine) as conn:
        jobs = await conn.fetch("SELECT id FROM orchestrator.jobs WHERE id = ANY($1)", [other.job_id, after.job_id])
        [taken] = await conn.fetch("SELECT count(*) FROM orchestrator.inbox WHERE message_id = $1", f"{other.job_id}")
    assert ([row["id"] for row in jobs], taken["count"]) == ([after.job_id], 1)
