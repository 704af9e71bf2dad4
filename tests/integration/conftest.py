"""Servers with everything set up: streams, schemas, roles, bucket, styles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import nats
import pytest
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

import ingest.tables
import output.tables
from runtime.objects import Objects
from runtime.phases import Phases
from runtime.postgres import driver_url
from runtime.settings import _Part
from stack.setup import SetupSettings, setup
from tests.servers.fixtures import EnvironmentOf
from tests.servers.models import NatsServer, PostgresServer, S3Server

S = TypeVar("S", bound=_Part)
SettingsOf = Callable[..., Any]


@pytest.fixture(scope="session")
def settings_of(environment_of: EnvironmentOf) -> SettingsOf:
    """`settings_of(Settings, "ingest", link_s=1)`: a service's settings as the stack would give them."""

    def make(kind: type[S], name: str, **changes: Any) -> S:
        prefix = "SAFELIGHT_"
        given = {key.removeprefix(prefix).lower(): value for key, value in environment_of(name).items()}
        if "s3_access_key" in given:  # a test puts things where the service may not; `test_roles` has its own identity
            admin = environment_of("setup")
            given |= {key: admin[f"{prefix}{key.upper()}"] for key in ("s3_access_key", "s3_secret_key")}
        return kind(**{key: value for key, value in given.items() if key in kind.model_fields} | changes)

    return make


@pytest.fixture(scope="session")
async def prepared(
    nats_server: NatsServer, postgres_server: PostgresServer, s3_server: S3Server, settings_of: SettingsOf
) -> SetupSettings:
    """All three servers, set up as `safelight setup` does."""
    settings: SetupSettings = settings_of(SetupSettings, "setup")
    await setup(settings)
    return settings


@pytest.fixture
async def nc(prepared: SetupSettings, nats_server: NatsServer) -> AsyncIterator[Client]:
    """The broker, as the account that may do everything."""
    client = await nats.connect(nats_server.url, user="setup", password=nats_server.passwords["setup"])
    yield client
    await client.close()


@pytest.fixture
def engine_of(environment_of: EnvironmentOf, prepared: SetupSettings) -> Callable[[str], AsyncEngine]:
    """The database as a service's own role."""

    def make(name: str) -> AsyncEngine:
        return create_async_engine(driver_url(environment_of(name)["SAFELIGHT_POSTGRES_URL"]))

    return make


PhasesOf = Callable[[str, Objects], Phases]


@pytest.fixture
async def phases_of(engine_of: Callable[[str], AsyncEngine], nc: Client) -> AsyncIterator[PhasesOf]:
    """`phases_of("ingest", objects)`: what answers a room's commands, with the room's own role at the database."""
    tables = {"ingest": ingest.tables.ERASED, "output": output.tables.ERASED}
    engines: list[AsyncEngine] = []

    def make(room: str, objects: Objects) -> Phases:
        engines.append(engine_of(room))
        return Phases(room, nc.jetstream(), engines[-1], tables[room], objects)

    yield make
    for engine in engines:
        await engine.dispose()


async def until(holds: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """What `holds` (plain or async) returns as soon as it is true."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = holds()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s} s")
        await asyncio.sleep(0.02)
