"""What a test gets to know of a server, and what it may do to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote


class Running(Protocol):
    """A server that runs, whatever runs it."""

    def kill(self) -> None:
        """End it at once, as a crash would (SIGKILL), and return when it is gone."""
        ...

    def restart(self) -> None:
        """Kill it if it runs, start it on the same port and data, and return when it is ready."""
        ...


@dataclass(frozen=True, slots=True)
class Server:
    """A server on loopback."""

    running: Running
    port: int

    def kill(self) -> None:
        """See Running.kill. The test must `restart` it: the server is shared by the session."""
        self.running.kill()

    def restart(self) -> None:
        """See Running.restart."""
        self.running.restart()


@dataclass(frozen=True, slots=True)
class NatsServer(Server):
    """JetStream. `passwords` by user: setup, ingest, orchestrator, gpu-bridge, output."""

    passwords: Mapping[str, str]

    @property
    def url(self) -> str:
        """Without credentials: connect with user= and password=."""
        return f"nats://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class PostgresServer(Server):
    """PostgreSQL 18. `password` is the superuser's; role passwords are the test's to set (`stack.setup` does)."""

    password: str

    def url(self, database: str = "postgres", role: str = "postgres", password: str | None = None) -> str:
        """A connection URL: the superuser's unless another role and its password are given."""
        return f"postgresql://{role}:{quote(password or self.password)}@127.0.0.1:{self.port}/{database}"


@dataclass(frozen=True, slots=True)
class S3Server(Server):
    """An S3 endpoint with one identity that may do everything, and no bucket at first."""

    access_key: str
    secret_key: str
    region: str = "us-east-1"

    @property
    def endpoint(self) -> str:
        """http://host:port"""
        return f"http://127.0.0.1:{self.port}"
