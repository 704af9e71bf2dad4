"""Calls that were under way when the ledger got its new shape go on in it; what was over stays over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from nats.aio.client import Client
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.phases import RunPhase
from gpu_bridge.settings import Settings
from gpu_bridge.tables import METADATA
from runtime import migrate, postgres
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf
from tests.integration.ledger_desk import Desk, Scripted, succeeded
from tests.integration.provider_conformance import INVERSE
from tests.integration.wire import outcome, picture, stored, told
from tests.servers.models import PostgresServer

DATABASE = "upgraded_bridge"


@pytest.fixture
async def engine(
    prepared: object, settings_of: SettingsOf, postgres_server: PostgresServer
) -> AsyncIterator[AsyncEngine]:
    """A database of its own, in which the third migration was the last."""
    server = await asyncpg.connect(postgres_server.url())
    await server.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    await server.execute(f"CREATE DATABASE {DATABASE}")
    await server.close()
    admin = await asyncpg.connect(postgres_server.url(DATABASE))
    await admin.execute('CREATE SCHEMA gpu_bridge AUTHORIZATION "gpu_bridge"')
    await admin.close()
    url = make_url(settings_of(Settings, "gpu-bridge").postgres_url.get_secret_value()).set(database=DATABASE)
    made = postgres.create_engine(url.render_as_string(hide_password=False), service="test", connections_max=10)
    async with made.begin() as conn:
        await conn.run_sync(_to_the_third)
    yield made
    await made.dispose()


def _to_the_third(conn: Connection) -> None:
    config, scripts = migrate._scripts("gpu_bridge")

    def steps(revision: str | tuple[str, ...], _context: MigrationContext) -> list[object]:
        return scripts._upgrade_revs("0003", revision)  # type: ignore[arg-type,return-value]

    with EnvironmentContext(config, scripts, fn=steps, as_sql=False, destination_rev="0003") as environment:
        environment.configure(connection=conn, version_table="alembic_version", version_table_schema="gpu_bridge")
        environment.run_migrations()


async def test_open_calls_go_on_and_ended_ones_stay_answered(
    engine: AsyncEngine, nc: Client, settings_of: SettingsOf
) -> None:
    objects = Objects(settings_of(Settings, "gpu-bridge"))
    image = await stored(objects, picture(), "image/jpeg")
    desk = Desk(engine, nc, objects, image, await stored(objects, INVERSE.encode(), "application/x-cube-lut"))
    queued, running, ended, stopped = (desk.given() for _ in range(4))
    now = datetime.now(UTC)
    async with engine.begin() as conn:
        for given, state in ((queued, "queued"), (running, "running"), (ended, "succeeded"), (stopped, "cancelled")):
            lease = now + timedelta(seconds=60) if state == "running" else None
            over = None if state in ("queued", "running") else now
            await conn.execute(
                text(
                    "INSERT INTO gpu_bridge.calls (key, function, tenant, command, state, lease_until, leased_by, "
                    "ended_at, provider, handle) VALUES (:key, 'style.apply', 'demo', :command, :state, :lease, :by, "
                    ":over, 'local', 'old')"
                ),
                {
                    "key": given.key,
                    "command": json.dumps(given.model_dump(mode="json")),
                    "state": state,
                    "lease": lease,
                    "by": uuid4(),
                    "over": over,
                },
            )
    before, _ = await migrate.upgrade(engine, "gpu_bridge", "gpu_bridge")
    assert before == "0003"
    assert await migrate.differences(engine, METADATA) == []
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    for given in (queued, running):
        assert (await outcome(nc, given)).subject == "evt.phase.v1.succeeded"
    again: list[RunPhase] = [queued, running, ended, stopped]
    await desk.follows(bridge, *again)
    last = await desk.written(bridge)
    await outcome(nc, last)
    assert len(near.bodies) == 3
    assert await told(nc, ended.key) == []
    assert await told(nc, stopped.key) == []
    await bridge.stop()
    objects.close()
