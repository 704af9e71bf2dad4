"""The three servers are ready, ask for credentials, and keep what they acknowledged through kill -9."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import asyncpg
import nats
import psutil
import pytest
from minio import Minio
from minio.error import S3Error
from nats.aio.client import Client
from nats.errors import NoServersError

from stack import ports
from stack.home import new_secrets
from tests.servers.models import NatsServer, PostgresServer, S3Server
from tests.servers.wheels import WheelServer


async def _connect(server: NatsServer, user: str | None, password: str | None) -> Client:
    async def quiet(_problem: Exception) -> None: ...

    return await nats.connect(server.url, user=user, password=password, allow_reconnect=False, error_cb=quiet)


def _client(server: S3Server, secret_key: str | None = None) -> Minio:
    return Minio(
        server.endpoint.removeprefix("http://"),
        server.access_key,
        secret_key or server.secret_key,
        secure=False,
        region=server.region,
    )


def _bucket(server: S3Server, name: str) -> Minio:
    client = _client(server)
    if not client.bucket_exists(name):
        client.make_bucket(name)
    return client


# --- nats


async def test_every_user_of_the_configuration_connects(nats_server: NatsServer) -> None:
    for user, password in nats_server.passwords.items():
        connection = await _connect(nats_server, user, password)
        assert connection.is_connected
        await connection.close()


@pytest.mark.parametrize(
    ("user", "password"),
    [(None, None), ("setup", "wrong")],
    ids=["anonymous is refused", "a wrong password is refused"],
)
async def test_the_broker_wants_credentials(nats_server: NatsServer, user: str | None, password: str | None) -> None:
    # The client tells an authorization violation in one of several ways; anonymous even trips it (AttributeError).
    with pytest.raises((NoServersError, nats.errors.Error, AttributeError)):
        await _connect(nats_server, user, password)


async def test_a_service_may_not_create_a_stream(nats_server: NatsServer) -> None:
    connection = await _connect(nats_server, "ingest", nats_server.passwords["ingest"])
    try:
        with pytest.raises((nats.errors.Error, TimeoutError)):
            await connection.jetstream(timeout=0.3).add_stream(name="OWN", subjects=["own.>"])
    finally:
        await connection.close()


async def test_an_acknowledged_message_survives_kill_9(nats_server: NatsServer) -> None:
    connection = await _connect(nats_server, "setup", nats_server.passwords["setup"])
    stream = connection.jetstream()
    await stream.add_stream(name="SURVIVES", subjects=["survives"])
    ack = await stream.publish("survives", b"kept")
    nats_server.kill()
    nats_server.restart()
    again = await _connect(nats_server, "setup", nats_server.passwords["setup"])
    try:
        message = await again.jetstream().get_msg("SURVIVES", ack.seq)
        assert message.data == b"kept"
        await again.jetstream().delete_stream("SURVIVES")
    finally:
        await again.close()
        await connection.close()


# --- postgres


async def test_the_database_is_version_18_with_fsync_and_utf8(postgres_server: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres_server.url())
    try:
        assert str(await connection.fetchval("SHOW server_version")).startswith("18.")
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        assert await connection.fetchval("SHOW server_encoding") == "UTF8"
        assert await connection.fetchval("SELECT lower('ÄÖÜ')") == "äöü"
    finally:
        await connection.close()


async def test_the_database_wants_the_password(postgres_server: PostgresServer) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.url(password="wrong"))


async def test_a_committed_row_survives_kill_9(postgres_server: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres_server.url())
    await connection.execute("CREATE TABLE survives AS SELECT 42 AS answer")
    postgres_server.kill()
    postgres_server.restart()
    connection.terminate()
    again = await asyncpg.connect(postgres_server.url())
    try:
        assert await again.fetchval("SELECT answer FROM survives") == 42
        await again.execute("DROP TABLE survives")
    finally:
        await again.close()


async def test_a_server_whose_postmaster_alone_was_killed_starts_at_once(tmp_path: Path) -> None:
    server = WheelServer("postgres", tmp_path, ports.anywhere(), secrets := new_secrets())
    try:
        port = server.child.program.command[4]
        url = f"postgresql://postgres:{secrets['SAFELIGHT_POSTGRES_PASSWORD_ADMIN']}@127.0.0.1:{port}/postgres"
        busy = await asyncpg.connect(url)
        query = asyncio.create_task(busy.execute("SELECT pg_sleep(60)"))
        assert server.child.pid
        os.kill(server.child.pid, signal.SIGKILL)
        server.restart()
        again = await asyncpg.connect(url)
        assert await again.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)'") == 0
        await again.close()
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await query
    finally:
        server.stop()


# --- s3


@pytest.mark.parametrize("path", ["/", "/private/secret"], ids=["listing buckets", "reading an object"])
def test_anonymous_is_refused(s3_server: S3Server, path: str) -> None:
    client = _bucket(s3_server, "private")
    client.put_object("private", "secret", io.BytesIO(b"x"), 1)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(s3_server.endpoint + path, timeout=5)
    assert refused.value.code == 403


def test_a_wrong_secret_is_refused(s3_server: S3Server) -> None:
    with pytest.raises(S3Error) as refused:
        _client(s3_server, "wrong").list_buckets()
    assert refused.value.code == "SignatureDoesNotMatch"


def test_the_inner_ports_of_the_s3_server_do_not_hand_out_objects(
    s3_server: S3Server, server_ports: dict[str, int]
) -> None:
    client = _bucket(s3_server, "private")
    client.put_object("private", "secret", io.BytesIO(b"x"), 1)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{server_ports['s3-filer']}/buckets/private/secret", timeout=5)
    assert refused.value.code == 401


def test_one_of_sixteen_racing_writers_of_a_claim_wins(s3_server: S3Server) -> None:
    client = _bucket(s3_server, "claims")
    link = client.get_presigned_url("PUT", "claims", "claim")

    def write(number: int) -> int:
        request = urllib.request.Request(link, b"%d" % number, {"If-None-Match": "*"}, method="PUT")
        try:
            return cast(int, urllib.request.urlopen(request, timeout=10).status)
        except urllib.error.HTTPError as refused:
            return refused.code

    with ThreadPoolExecutor(16) as pool:
        answers = sorted(pool.map(write, range(16)))
    assert answers == [200, *[412] * 15]
    client.remove_object("claims", "claim")


def test_a_stored_object_survives_kill_9(s3_server: S3Server) -> None:
    client = _bucket(s3_server, "kept")
    content = bytes(range(256)) * 40_000  # 10 MB: several chunks, some of them just written
    client.put_object("kept", "object", io.BytesIO(content), len(content))
    s3_server.kill()
    s3_server.restart()
    answer = _client(s3_server).get_object("kept", "object")
    try:
        assert answer.read() == content
    finally:
        answer.close()
        answer.release_conn()


def test_servers_listen_on_loopback_only(
    nats_server: NatsServer, postgres_server: PostgresServer, s3_server: S3Server
) -> None:
    ports = {server.port for server in (nats_server, postgres_server, s3_server)}
    listening = [row.laddr for row in psutil.net_connections("inet") if row.status == psutil.CONN_LISTEN and row.laddr]
    assert {address.ip for address in listening if address.port in ports} == {"127.0.0.1"}
