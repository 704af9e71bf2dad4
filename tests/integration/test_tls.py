"""TLS to the real servers: whom we believe is spoken to, a stranger is not, and nobody speaks in the open."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError

from contracts.envelope import WriteUrl
from contracts.errors import SafelightError
from gpu_functions import transfer
from gpu_functions.engine import Output
from runtime import postgres, service
from runtime.objects import Objects
from runtime.settings import NatsSettings, PostgresSettings, S3Settings
from stack import certificates, ports, servers
from stack.home import new_secrets
from stack.processes import Child, Program
from stack.setup import ROOMS, SetupSettings, apply_topology, prepare_database
from tests.integration.conftest import until
from tests.servers.models import NatsServer, PostgresServer

ROLES = [room.schema for room in ROOMS]
PORTS, SECRETS = ports.anywhere(), new_secrets()
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # PostgreSQL's protocol, 54.7
TRUSTED = "sslmode=verify-full&sslrootcert={}/ca.pem"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our authority with its certificates, and a stranger's in `stranger`."""
    folder = tmp_path_factory.mktemp("tls")
    for one in (folder, folder / "stranger"):
        certificates.write(one, datetime.now(UTC))
    return folder


def ran(program: Program, log: Path) -> Child:
    child = Child(program, log)
    child.start()
    return child


@pytest.fixture(scope="module")
async def broker(files: Path) -> Any:
    """The stack's broker with TLS that comes first, and asks for a certificate of the client's."""
    own = files / "nats-home" / "nats"
    program = servers.nats(files / "nats-home", own, PORTS, SECRETS)
    names = (files / "nats" / "cert.pem", files / "nats" / "key.pem", files / "ca.pem")
    wanted = 'tls {{ cert_file: "{}", key_file: "{}", ca_file: "{}", verify: true, handshake_first: true }}\n'

    def prepare() -> None:
        program.prepare()
        with (own / "nats.conf").open("a") as file:
            file.write(wanted.format(*names))

    child = ran(replace(program, prepare=prepare, ready=lambda: servers.accepts_tcp(PORTS["nats"])), files / "nats.log")
    await until(child.is_ready)
    yield child
    child.kill()


def broker_settings(files: Path, **changes: Any) -> NatsSettings:
    about: dict[str, Any] = {
        "nats_url": f"tls://127.0.0.1:{PORTS['nats']}",
        "nats_user": "setup",
        "nats_password": SecretStr(SECRETS["SAFELIGHT_NATS_PASSWORD_SETUP"]),
        "nats_ca_file": files / "ca.pem",
        "nats_cert_file": files / "client" / "cert.pem",
        "nats_key_file": files / "client" / "key.pem",
    }
    return NatsSettings(**about | changes)


@pytest.fixture(scope="module")
async def database(files: Path, postgres_server: PostgresServer) -> AsyncIterator[int]:
    """The port of a PostgreSQL that is spoken to by TLS alone.

    The wheel's build has no TLS of its own: what stands before it takes PostgreSQL's request for TLS, as a
    pooler in front of a database does, and nothing else.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files / "postgres" / "cert.pem", files / "postgres" / "key.pem")

    async def pumped(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if await reader.readexactly(8) == SSL_REQUEST:
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(context)
                there = await asyncio.open_connection("127.0.0.1", postgres_server.port)
                await asyncio.gather(pumped(reader, there[1]), pumped(there[0], writer))
        writer.close()

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def database_url(server: PostgresServer, port: int, files: Path, query: str = TRUSTED) -> str:
    return f"postgresql://postgres:{server.password}@127.0.0.1:{port}/postgres?{query.format(files)}"


@pytest.fixture(scope="module")
async def storage(files: Path) -> Any:
    """SeaweedFS that speaks HTTPS only."""
    own = files / "s3-home" / "s3"
    program = servers.s3(files / "s3-home", own, PORTS, SECRETS)
    more = (f"-s3.cert.file={files / 's3' / 'cert.pem'}", f"-s3.key.file={files / 's3' / 'key.pem'}")
    ready: Callable[[], bool] = lambda: servers.http_ok(PORTS["s3-master"], "/dir/status", b'"Url"')  # noqa: E731
    child = ran(replace(program, command=(*program.command, *more), ready=ready), files / "s3.log")
    await until(child.is_ready)
    await until(lambda: servers.accepts_tcp(PORTS["s3"]))
    yield child
    child.kill()


def storage_settings(files: Path, **changes: Any) -> S3Settings:
    about: dict[str, Any] = {
        "s3_endpoint": f"https://127.0.0.1:{PORTS['s3']}",
        "s3_ca_file": files / "ca.pem",
        "s3_access_key": SecretStr(SECRETS["SAFELIGHT_S3_ACCESS_KEY"]),
        "s3_secret_key": SecretStr(SECRETS["SAFELIGHT_S3_SECRET_KEY"]),
    }
    return S3Settings(**about | changes)


# -- the broker -------------------------------------------------------------------------------------


async def test_a_service_speaks_tls_with_the_broker(broker: Child, files: Path) -> None:
    assert await apply_topology(broker_settings(files))
    mine = broker_settings(
        files, nats_user="output", nats_password=SecretStr(SECRETS["SAFELIGHT_NATS_PASSWORD_OUTPUT"])
    )
    app = FastAPI()
    app.state.checks = []
    async with service.nats_broker(app, mine, "output") as (_, nc):
        assert nc.is_connected
        for check in app.state.checks:
            await check()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"nats_ca_file": "stranger/ca.pem"}, id="its certificate is of another authority"),
        pytest.param({"nats_cert_file": None, "nats_key_file": None}, id="we show no certificate"),
        pytest.param(
            {"nats_cert_file": "stranger/client/cert.pem", "nats_key_file": "stranger/client/key.pem"},
            id="we show a stranger's",
        ),
        pytest.param({"nats_url": "nats://", "nats_ca_file": None}, id="we speak in the open"),
    ],
)
async def test_who_is_not_believed_gets_no_connection(broker: Child, files: Path, changes: dict[str, Any]) -> None:
    given = {name: files / value if value and name != "nats_url" else value for name, value in changes.items()}
    if "nats_url" in given:
        given["nats_url"] = f"nats://127.0.0.1:{PORTS['nats']}"
    known = broker_settings(files, **given)
    assert known.nats_password
    refused: list[Exception] = []

    async def note(problem: Exception) -> None:
        refused.append(problem)

    with pytest.raises(Exception) as problem:  # noqa: PT011  # nats-py has no one class for it
        await nats.connect(
            known.nats_url,
            user=known.nats_user,
            password=known.nats_password.get_secret_value(),
            tls=known.nats_tls,
            tls_handshake_first=known.nats_tls is not None,
            allow_reconnect=False,
            connect_timeout=2,
            error_cb=note,
        )
    assert not isinstance(problem.value, AssertionError)


async def test_a_broker_that_answers_in_the_open_is_told_nothing(nats_server: NatsServer, files: Path) -> None:
    """Somebody in between could take TLS out of a greeting: so we wait for none."""
    known = broker_settings(files, nats_url=f"tls://127.0.0.1:{nats_server.port}")
    with pytest.raises(Exception):  # noqa: B017, PT011
        await nats.connect(
            known.nats_url, tls=known.nats_tls, tls_handshake_first=True, allow_reconnect=False, connect_timeout=2
        )


# -- the database -----------------------------------------------------------------------------------


async def test_set_up_and_a_service_speak_tls_with_the_database(
    database: int, postgres_server: PostgresServer, server_secrets: dict[str, str], files: Path
) -> None:
    url = database_url(postgres_server, database, files).replace("/postgres?", "/over_tls?")
    # Roles belong to the whole server: they keep the passwords that other tests know.
    given: dict[str, Any] = {
        f"postgres_password_{role}": SecretStr(server_secrets[f"SAFELIGHT_POSTGRES_PASSWORD_{role.upper()}"])
        for role in ROLES
    }
    given |= {"postgres_admin_url": SecretStr(url), "s3_access_key": SecretStr("x"), "s3_secret_key": SecretStr("x")}
    settings = SetupSettings(**given)
    assert "created database over_tls" in await prepare_database(settings)
    engine = postgres.create_engine(settings.role_url(ROOMS[0]), service="test")
    await postgres.check(engine)
    await engine.dispose()


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("sslmode=verify-full&sslrootcert={}/stranger/ca.pem", id="it is of another authority"),
        pytest.param("sslmode=verify-full", id="the system does not know its authority"),
        pytest.param("sslmode=disable", id="we speak in the open"),
    ],
)
async def test_the_database_is_not_reached(
    database: int, postgres_server: PostgresServer, files: Path, query: str
) -> None:
    engine = postgres.create_engine(database_url(postgres_server, database, files, query), service="test")
    with pytest.raises(SafelightError, match="DATABASE_UNAVAILABLE"):
        await postgres.check(engine)
    await engine.dispose()


async def test_a_database_that_answers_in_the_open_is_told_nothing(
    postgres_server: PostgresServer, files: Path
) -> None:
    engine = postgres.create_engine(database_url(postgres_server, postgres_server.port, files), service="test")
    with pytest.raises(SafelightError, match="DATABASE_UNAVAILABLE"):
        await postgres.check(engine)
    await engine.dispose()


@pytest.mark.parametrize("mode", ["require", "prefer", "verify-ca"])
def test_tls_that_keeps_nobody_out_is_refused_at_start(mode: str) -> None:
    with pytest.raises(ValidationError, match="sslmode must be verify-full"):
        PostgresSettings(postgres_url=SecretStr(f"postgresql://a:b@c/d?sslmode={mode}"))


# -- storage ----------------------------------------------------------------------------------------


async def test_services_and_functions_speak_tls_with_storage(
    storage: Child, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = Objects(storage_settings(files))
    await objects.ensure_bucket()
    await objects.put("uploads/x", b"content", "text/plain")
    assert await objects.get("uploads/x") == b"content"
    from datetime import timedelta

    url = await objects.write_url("calls/y", timedelta(minutes=1))
    assert url.startswith("https://")
    output = Output(data=b"made", media_type="text/plain")
    with transfer.client() as http, pytest.raises(SafelightError, match="STORAGE_UNAVAILABLE"):
        transfer.upload(http, WriteUrl(url=url, key="calls/y"), output)
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "ca.pem"))
    with transfer.client() as http:
        transfer.upload(http, WriteUrl(url=url, key="calls/y"), output)
    assert await objects.get("calls/y") == b"made"
    objects.close()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"s3_ca_file": "stranger/ca.pem"}, id="its certificate is of another authority"),
        pytest.param({"s3_ca_file": None}, id="the system does not know its authority"),
        pytest.param({"s3_endpoint": "http", "s3_ca_file": None}, id="we speak in the open"),
    ],
)
async def test_storage_is_not_reached(storage: Child, files: Path, changes: dict[str, Any]) -> None:
    given = {name: files / value if value and name == "s3_ca_file" else value for name, value in changes.items()}
    if "s3_endpoint" in given:
        given["s3_endpoint"] = f"http://127.0.0.1:{PORTS['s3']}"
    objects = Objects(storage_settings(files, **given))
    with pytest.raises(SafelightError, match="STORAGE_UNAVAILABLE"):
        await objects.check()
    objects.close()


# -- half a lock ------------------------------------------------------------------------------------


def test_files_without_tls_are_refused_at_start(files: Path) -> None:
    with pytest.raises(ValidationError, match="does not begin with tls://"):
        broker_settings(files, nats_url="nats://127.0.0.1:1")
    with pytest.raises(ValidationError, match="does not begin with https://"):
        storage_settings(files, s3_endpoint="http://127.0.0.1:1")
