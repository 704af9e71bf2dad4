"""A job that was under way when the orchestrator got its second schema goes on in it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.pipelines import BUILT_IN, load
from orchestrator.settings import Settings
from orchestrator.tables import METADATA
from runtime import migrate, postgres
from tests.integration.conftest import SettingsOf
from tests.integration.orchestra import ORIGINAL, bench, broken_laws, now, succeeds
from tests.servers.models import PostgresServer

DATABASE = "upgraded"
# As the first version wrote it.
PHOTO_1: dict[str, Any] = {
    "name": "photo",
    "version": 1,
    "accepts": ["image/jpeg"],
    "deadline_s": 3600.0,
    "phases": [
        {
            "name": name,
            "channel": channel,
            "deadline_s": 120.0,
            "backoff_s": [1.0, 5.0],
            "needs": needs,
            "when": None,
            "parameters": {},
            "attachments": [],
        }
        for name, channel, needs in (
            ("analyze", "cmd.analysis.v1.run", []),
            ("crop", "cmd.render.v1.run.crop", ["analyze"]),
            ("variants", "cmd.render.v1.run.variants", ["crop"]),
        )
    ],
}


@pytest.fixture
async def engine(
    prepared: object, settings_of: SettingsOf, postgres_server: PostgresServer
) -> AsyncIterator[AsyncEngine]:
    """A database of its own, in which the first migration was the last."""
    server = await asyncpg.connect(postgres_server.url())
    await server.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    await server.execute(f"CREATE DATABASE {DATABASE}")
    await server.close()
    admin = await asyncpg.connect(postgres_server.url(DATABASE))
    await admin.execute("CREATE SCHEMA orchestrator AUTHORIZATION orchestrator")
    await admin.close()
    url = make_url(settings_of(Settings, "orchestrator").postgres_url.get_secret_value()).set(database=DATABASE)
    made = postgres.create_engine(url.render_as_string(hide_password=False), service="test")
    async with made.begin() as conn:
        await conn.run_sync(_to_the_first)
    yield made
    await made.dispose()


def _to_the_first(conn: Connection) -> None:
    config, scripts = migrate._scripts("orchestrator")

    def steps(revision: str | tuple[str, ...], _context: MigrationContext) -> list[object]:
        return scripts._upgrade_revs("0001", revision)  # type: ignore[arg-type,return-value]

    with EnvironmentContext(config, scripts, fn=steps, as_sql=False, destination_rev="0001") as environment:
        environment.configure(connection=conn, version_table="alembic_version", version_table_schema="orchestrator")
        environment.run_migrations()


async def test_a_job_under_way_goes_on_after_the_upgrade(engine: AsyncEngine) -> None:
    job, at = uuid4(), now()
    ended = {"status": "succeeded", "attempt": 1, "facts": {}, "artifacts": [], "degraded": False}
    out = {**ended, "status": "running", "deadline": (at + timedelta(minutes=2)).isoformat()}
    state = {
        "id": str(job),
        "tenant": "t",
        "upload_id": str(uuid4()),
        "pipeline": "photo",
        "pipeline_version": 1,
        "original": ORIGINAL.model_dump(),
        "attachments": {},
        "options": {},
        "status": "running",
        "created_at": at.isoformat(),
        "deadline": (at + timedelta(hours=1)).isoformat(),
        "phases": {"analyze": ended, "crop": out, "variants": {**ended, "status": "queued", "attempt": 0}},
        "ended_at": None,
        "traceparent": None,
    }
    async with postgres.transaction(engine) as conn:
        await conn.execute(
            "INSERT INTO orchestrator.pipelines (name, version, definition) VALUES ('photo', 1, $1::text::jsonb)",
            json.dumps(PHOTO_1),
        )
        await conn.execute(
            "INSERT INTO orchestrator.jobs (id, tenant, pipeline, pipeline_version, status, revision, state, wake_at, "
            "created_at) VALUES ($1, 't', 'photo', 1, 'running', 2, $2::text::jsonb, $3, $4)",
            job,
            json.dumps(state),
            at + timedelta(minutes=2),
            at,
        )
        for revision, effect in ((1, f"{job}.analyze.1"), (2, f"{job}.crop.1")):
            await conn.execute(
                "INSERT INTO orchestrator.history (job_id, revision, at, input, effects) VALUES ($1, $2, $3, 'x', $4)",
                job,
                revision,
                at,
                [effect],
            )
        await conn.execute(
            "INSERT INTO orchestrator.outbox (message_id, subject, headers, body) VALUES ('m', 's', '{}', 'b')"
        )
    before, _ = await migrate.upgrade(engine, "orchestrator", "orchestrator")
    assert before == "0001"
    assert await migrate.differences(engine, METADATA) == []
    assert await broken_laws(engine, ["photo"]) == [], "what was out before is counted"
    async with bench(engine, load(BUILT_IN / "photo.yaml")) as desk:
        [left] = await desk.ask("SELECT message_ids, bodies FROM orchestrator.outbox")
        assert (left.message_ids, left.bodies) == (["m"], [b"b"])
        await desk.shell.take([succeeds(job, "crop")])
        assert f"{job}.variants.1" in await desk.sent(job)
        await desk.laws()
        await desk.shell.take([succeeds(job, "variants")])
        assert ((await desk.row(job)).status, await desk.history(job)) == (
            "succeeded",
            ["x", "x", "Succeeded crop.1", "Succeeded variants.1"],
        )
        await desk.laws()
