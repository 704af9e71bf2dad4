"""The same servers as containers, where a Docker engine answers.

Host ports are fixed beforehand, so that a restarted server is found again. Images and options are
those of docker-compose.yml. This module is imported only when it is used: its library is slow to load.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from testcontainers.core.container import DockerContainer

from stack import broker, servers, storage

READY_S = 60.0
IMAGES = {"nats": "nats:2.15-alpine", "postgres": "postgres:18-alpine", "s3": "chrislusf/seaweedfs:4.48"}


def _nats(ports: Mapping[str, int], secrets: Mapping[str, str]) -> tuple[Any, Callable[[], bool]]:
    container = DockerContainer(IMAGES["nats"]).with_bind_ports(4222, ports["nats"])
    container.with_volume_mapping(str(broker.FILE), "/etc/nats/nats.conf", "ro")
    container.with_command("-c /etc/nats/nats.conf -sd /data")
    for name, value in secrets.items():
        if name.startswith("SAFELIGHT_NATS_PASSWORD_"):
            container.with_env(name, value)
    return container, lambda: servers.greets(ports["nats"], b"INFO ")


def _postgres(ports: Mapping[str, int], secrets: Mapping[str, str]) -> tuple[Any, Callable[[], bool]]:
    container = DockerContainer(IMAGES["postgres"]).with_bind_ports(5432, ports["postgres"])
    container.with_env("POSTGRES_PASSWORD", secrets["SAFELIGHT_POSTGRES_PASSWORD_ADMIN"])
    return container, lambda: servers.accepts(ports["postgres"])


def _s3(ports: Mapping[str, int], secrets: Mapping[str, str]) -> tuple[Any, Callable[[], bool]]:
    container = DockerContainer(IMAGES["s3"]).with_bind_ports(8333, ports["s3"])
    known = Path(tempfile.mkdtemp()) / "identities.json"
    known.write_text(json.dumps(storage.identities(secrets)))
    container.with_volume_mapping(str(known), "/etc/seaweedfs/identities.json", "ro")
    flags = "-webdav=false -admin.ui=false -s3.iam=false -s3.config=/etc/seaweedfs/identities.json"
    container.with_command(f"mini -dir=/data -master.telemetry=false {flags}")
    return container, lambda: servers.http_ok(ports["s3"], "/healthz")


_MAKE = {"nats": _nats, "postgres": _postgres, "s3": _s3}


class ContainerServer:
    """A container that is waited for."""

    def __init__(self, name: str, _home: Path, ports: Mapping[str, int], secrets: Mapping[str, str]) -> None:
        self._container, self._ready = _MAKE[name](ports, secrets)
        self._container.start()
        self._await_ready()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self) -> None:
        engine_view = self._container.get_wrapped_container()
        engine_view.reload()
        if engine_view.status == "running":
            engine_view.kill()
        engine_view.start()
        self._await_ready()

    def stop(self) -> None:
        self._container.stop()

    def _await_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not self._ready():
            if time.monotonic() > deadline:
                raise RuntimeError("a container did not become ready")
            time.sleep(0.1)


def engine_answers() -> bool:
    """Whether a Docker engine is there to ask."""
    docker = import_module("docker")
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    try:
        return bool(docker.from_env(timeout=3).ping())
    except Exception:  # docker raises a dozen kinds; each means no
        return False
