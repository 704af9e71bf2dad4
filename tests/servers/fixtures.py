"""Session fixtures: three real servers, started when the first test asks for one.

SAFELIGHT_TEST_SERVERS says what runs them:

    auto (default)   containers when a Docker engine answers, else wheels
    containers       testcontainers; a failure when no engine answers
    wheels           the embedded stack's programs

Both give the same servers with the same credentials on free ports. Ports and passwords are one
table per session, so `environment_of` gives a service exactly the variables that a stack would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack import ports, services
from stack.home import ROLES, new_secrets
from tests.servers.models import NatsServer, PostgresServer, S3Server
from tests.servers.otlp import OtlpReceiver

StartServer = Callable[[str], Any]
EnvironmentOf = Callable[[str], dict[str, str]]


@pytest.fixture(scope="session")
def server_ports() -> dict[str, int]:
    """A free port for every row of `stack.ports.PORTS`, services included."""
    return ports.anywhere()


@pytest.fixture(scope="session")
def server_secrets() -> dict[str, str]:
    """Every secret of a stack, by the names of `stack.home.SECRETS`."""
    return new_secrets()


@pytest.fixture(scope="session")
def start_server(
    tmp_path_factory: pytest.TempPathFactory, server_ports: dict[str, int], server_secrets: dict[str, str]
) -> Iterator[StartServer]:
    """Start one of nats, postgres, s3; everything is stopped when the session ends."""
    runner = _runner()
    home = tmp_path_factory.mktemp("servers")
    started: list[Any] = []

    def start(name: str) -> Any:
        server = runner(name, home, server_ports, server_secrets)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def _runner() -> Callable[..., Any]:
    from tests.servers.wheels import WheelServer

    choice = os.environ.get("SAFELIGHT_TEST_SERVERS", "auto")
    if choice == "wheels" or (choice == "auto" and not Path(_socket()).exists()):
        return WheelServer
    from tests.servers.containers import ContainerServer, engine_answers

    if choice == "containers" or engine_answers():
        return ContainerServer
    return WheelServer


def _socket() -> str:
    """A Docker engine that is not where DOCKER_HOST says or here is not looked for."""
    return "/" if "DOCKER_HOST" in os.environ else "/var/run/docker.sock"


@pytest.fixture(scope="session")
def nats_server(start_server: StartServer, server_ports: dict[str, int], server_secrets: dict[str, str]) -> NatsServer:
    """JetStream with the users of deploy/nats/nats.conf and no stream."""
    users = {name.lower().replace("_", "-"): f"SAFELIGHT_NATS_PASSWORD_{name}" for name in ("SETUP", *ROLES)}
    passwords = {user: server_secrets[name] for user, name in users.items()}
    return NatsServer(start_server("nats"), server_ports["nats"], passwords)


@pytest.fixture(scope="session")
def postgres_server(
    start_server: StartServer, server_ports: dict[str, int], server_secrets: dict[str, str]
) -> PostgresServer:
    """PostgreSQL with a superuser and nothing else."""
    password = server_secrets["SAFELIGHT_POSTGRES_PASSWORD_ADMIN"]
    return PostgresServer(start_server("postgres"), server_ports["postgres"], password)


@pytest.fixture(scope="session")
def s3_server(start_server: StartServer, server_ports: dict[str, int], server_secrets: dict[str, str]) -> S3Server:
    """An S3 server without a bucket."""
    access, secret = server_secrets["SAFELIGHT_S3_ACCESS_KEY"], server_secrets["SAFELIGHT_S3_SECRET_KEY"]
    return S3Server(start_server("s3"), server_ports["s3"], access, secret)


@pytest.fixture(scope="session")
def environment_of(server_ports: dict[str, int], server_secrets: dict[str, str]) -> EnvironmentOf:
    """The SAFELIGHT_ variables of a service by its name, of `setup`, or of a `client`. Starts no server."""

    def environment(name: str) -> dict[str, str]:
        if name == "setup":
            return services.setup_environment(server_ports, server_secrets)
        if name == "client":
            return services.client_environment(server_ports, server_secrets)
        row = next(row for row in services.SERVICES if row.name == name)
        return services.environment(row, server_ports, server_secrets)

    return environment


@pytest.fixture
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """A receiver of traces for one test: give its `endpoint` as OTEL_EXPORTER_OTLP_ENDPOINT."""
    with OtlpReceiver() as receiver:
        yield receiver
