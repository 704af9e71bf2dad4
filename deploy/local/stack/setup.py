"""Set-up: the one owner of topology, roles, schemas, bucket and built-in styles.

Run once by the embedded stack and by compose before the services start, and again after every
upgrade: each step is idempotent and says what it changed. Services declare nothing themselves.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Final

import asyncpg
import nats
from nats.aio.client import Client
from pydantic import JsonValue, SecretStr
from sqlalchemy import MetaData
from sqlalchemy.engine import make_url

from runtime import audit, migrate, topology
from runtime.objects import Objects
from runtime.outbox import publish
from runtime.postgres import create_engine, driver_url
from runtime.settings import NatsSettings, S3Settings
from stack.styles import write_styles

CUBE: Final = "application/x-cube-lut"


@dataclass(frozen=True, slots=True)
class Room:
    """A service with a schema. Its role has the schema's name, owns it, and sees no other."""

    package: str
    schema: str

    @property
    def metadata(self) -> MetaData:
        """The tables that its code declares."""
        found: MetaData = import_module(f"{self.package}.tables").METADATA
        return found


ROOMS: Final = (
    Room("ingest", "ingest"),
    Room("orchestrator", "orchestrator"),
    Room("gpu_bridge", "gpu_bridge"),
    Room("output", "output"),
)


class SetupSettings(NatsSettings, S3Settings):
    """From the environment: a database superuser, the broker's `setup` account, and a password per role."""

    postgres_admin_url: SecretStr
    postgres_password_ingest: SecretStr
    postgres_password_orchestrator: SecretStr
    postgres_password_gpu_bridge: SecretStr
    postgres_password_output: SecretStr

    def role_url(self, room: Room) -> str:
        """The database as the room's own role."""
        password: SecretStr = getattr(self, f"postgres_password_{room.schema}")
        url = make_url(driver_url(self.postgres_admin_url.get_secret_value()))
        return url.set(username=room.schema, password=password.get_secret_value()).render_as_string(hide_password=False)


async def setup(settings: SetupSettings) -> list[str]:
    """Bring everything to what the code declares; returns what changed, in words.

    Raises:
        Exception: whatever the server that refuses says; nothing is half done that a second run would not finish.
    """
    done = await prepare_database(settings)
    for room in ROOMS:
        engine = create_engine(settings.role_url(room), service="setup")
        try:
            before, after = await migrate.upgrade(engine, room.package, room.schema)
        finally:
            await engine.dispose()
        if before != after:
            done.append(f"migrated schema {room.schema} from {before or 'nothing'} to {after}")
    done += await apply_topology(settings)
    return done + await _storage(settings)


async def apply_topology(settings: NatsSettings) -> list[str]:
    """Create or update streams and consumers; returns what changed, in words."""
    async with _broker(settings) as nc:
        return await topology.apply(nc.jetstream())


async def rewind(settings: NatsSettings, since: datetime) -> None:
    """Let the broker deliver the events since then once more."""
    async with _broker(settings) as nc:
        await topology.rewind(nc.jetstream(), since)
    await note(settings, "events.rewound", "EVENTS", since=since.isoformat())


async def note(settings: NatsSettings, action: str, subject: str, **details: JsonValue) -> None:
    """Tell the audit what somebody does at this machine's shell, past every service. Raises BROKER_UNAVAILABLE."""
    who = f"shell:{os.environ.get('USER') or os.getuid()}"
    async with _broker(settings) as nc:
        await publish(nc.jetstream(), [audit.noted("shell", who, action, subject, details=details)])


async def check_topology(settings: NatsSettings) -> None:
    """Raises TopologyMismatch, saying what differs."""
    async with _broker(settings) as nc:
        await topology.check(nc.jetstream())


async def draft_migration(settings: SetupSettings, room: Room) -> str:
    """The body of the room's next `upgrade()`: what its tables in code have and its schema has not."""
    engine = create_engine(settings.role_url(room), service="setup")
    try:
        return await migrate.draft(engine, room.metadata)
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def _broker(settings: NatsSettings) -> AsyncIterator[Client]:
    password = settings.nats_password.get_secret_value() if settings.nats_password else None
    context = settings.nats_tls
    nc = await nats.connect(
        settings.nats_url,
        user=settings.nats_user,
        password=password,
        connect_timeout=5,
        tls=context,
        tls_handshake_first=context is not None,
    )
    try:
        yield nc
    finally:
        await nc.close()


async def prepare_database(settings: SetupSettings) -> list[str]:
    url = make_url(settings.postgres_admin_url.get_secret_value().replace("+asyncpg", ""))
    done = await _create_database(url.database or "safelight", url.set(database="postgres").render_as_string(False))
    conn = await asyncpg.connect(url.render_as_string(False))
    try:
        for room in ROOMS:
            password: SecretStr = getattr(settings, f"postgres_password_{room.schema}")
            known = await conn.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", room.schema)
            verb = "ALTER" if known else "CREATE"
            template = f"{verb} ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD %L"
            secret = password.get_secret_value()
            statement = await conn.fetchval("SELECT format($1, $2::text, $3::text)", template, room.schema, secret)
            await conn.execute(statement)
            await conn.execute(f'CREATE SCHEMA IF NOT EXISTS "{room.schema}" AUTHORIZATION "{room.schema}"')
            if not known:
                done.append(f"created role and schema {room.schema}")
    finally:
        await conn.close()
    return done


async def _create_database(name: str, server_url: str) -> list[str]:
    conn = await asyncpg.connect(server_url)
    try:
        if await conn.fetchval("SELECT true FROM pg_database WHERE datname = $1", name):
            return []
        await conn.execute(await conn.fetchval("SELECT format('CREATE DATABASE %I', $1::text)", name))
        return [f"created database {name}"]
    finally:
        await conn.close()


async def _storage(settings: S3Settings) -> list[str]:
    objects = Objects(settings)
    done = []
    try:
        await objects.ensure_bucket()
        if await objects.ensure_private():
            done.append("took a policy off the bucket: it is private")
        with tempfile.TemporaryDirectory() as folder:
            for path in write_styles(Path(folder)):
                key = f"styles/{path.name}"
                if await objects.size(key) is None:
                    await objects.put(key, path.read_bytes(), CUBE)
                    done.append(f"stored style {path.stem}")
    finally:
        objects.close()
    return done
