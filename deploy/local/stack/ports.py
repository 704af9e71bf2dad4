"""Ports: one table of defaults, and the choice of a free one when a default is taken.

A port that was chosen once is tried first at the next start, so that addresses survive a restart.
Everything listens on loopback only.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"

# The S3 server (SeaweedFS) is a master, a volume server, a filer and a gateway in one process;
# each speaks HTTP to clients and gRPC to the others.
# fmt: off
PORTS: Final[Mapping[str, int]] = {
    "console":        8080,  # the front door: the one address users need
    "ingest":         8001,
    "orchestrator":   8002,
    "gpu-bridge":     8003,
    "output":         8004,
    "nats":           4222,
    "postgres":       5432,
    "s3":             8333,  "s3-grpc":        18333,
    "s3-master":      9333,  "s3-master-grpc": 19333,
    "s3-volume":      9340,  "s3-volume-grpc": 19340,
    "s3-filer":       8888,  "s3-filer-grpc":  18888,
    "s3-admin":      23646,  "s3-admin-grpc":  23647,
}
# fmt: on
_STEP: Final = 100  # 8080 -> 8180 -> 8280: no neighbour's default is on the way


def choose(remembered: Mapping[str, int]) -> dict[str, int]:
    """A free port for every row: the remembered one, else the default, else the next free."""
    chosen: dict[str, int] = {}
    for name, default in PORTS.items():
        candidates = chain([remembered.get(name, default), default], _others(default))
        chosen[name] = next(port for port in candidates if port not in chosen.values() and is_free(port))
    return chosen


def anywhere() -> dict[str, int]:
    """Ports for a stack that should stay out of everybody's way, as in tests."""
    chosen: dict[str, int] = {}
    for name in PORTS:
        chosen[name] = next(port for port in _quiet() if port not in chosen.values() and is_free(port))
    return chosen


def is_free(port: int) -> bool:
    """Whether we could listen on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return all(path.stat().st_uid == os.geteuid() for path in seaweed_sockets(port))


def seaweed_sockets(port: int) -> list[Path]:
    """The unix sockets SeaweedFS opens beside `port`. Their place cannot be configured: one that another
    account left behind makes the port useless to us, and one that we left behind is removed by us."""
    return list(Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))  # noqa: S108


def _others(default: int) -> Iterator[int]:
    yield from range(default + _STEP, min(default + 50 * _STEP, 65536), _STEP)
    yield from _quiet()


def _quiet() -> Iterator[int]:
    """Ports at random below 32768, from where on the system gives ports to outgoing connections."""
    while True:
        yield random.randrange(12000, 32000)  # noqa: S311  # nothing secret about it
