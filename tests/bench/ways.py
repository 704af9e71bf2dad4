"""`just bench ways [--mib N] [--parallel N]`: MB/s and memory of ingest, by each way in.

A real ingest process on real servers, all on this machine, and clients that do nothing but write to sockets: the
figures hold the store's work too, and a client's.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from stack import ports, services
from stack.home import new_secrets
from stack.setup import SetupSettings, setup
from tests.servers.wheels import WheelServer

MIB = 2**20
PIECE = os.urandom(MIB)
HEAD = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + bytes(1024)
BOUNDARY = "the-line-between"
Client = Callable[[str, dict[str, str], int], None]


def pieces(size: int) -> Iterator[bytes]:
    """A JPEG by its head."""
    yield HEAD
    left = size - len(HEAD)
    while left > 0:
        yield PIECE[: min(left, MIB)]
        left -= MIB


def send(url: str, method: str, headers: Mapping[str, str], size: int, body: Iterator[bytes]) -> tuple[int, bytes]:
    """One request over a socket of its own."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 80)) as wire:
        target = where.path + (f"?{where.query}" if where.query else "")
        lines = [f"{method} {target} HTTP/1.1", f"Host: {where.netloc}", f"Content-Length: {size}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() != "content-length"]
        wire.sendall("\r\n".join([*lines, "", ""]).encode())
        for piece in body:
            wire.sendall(piece)
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
    status = int(answer.split()[1])
    assert status < 300, answer[:600]
    return status, answer


def by_multipart(url: str, headers: dict[str, str], size: int) -> None:
    """One body."""
    opening = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\nContent-Type: image/jpeg\r\n\r\n'
    ).encode()
    closing = f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    whole = size + len(opening) + len(closing)
    send(f"{url}/v1/uploads", "POST", headers | kind, whole, (x for x in (opening, *pieces(size), closing)))


def by_tus(url: str, headers: dict[str, str], size: int) -> None:
    """One PATCH."""
    tus = headers | {"Tus-Resumable": "1.0.0"}
    made = httpx.post(f"{url}/v1/uploads/tus", headers=tus | {"Upload-Length": str(size)}).raise_for_status()
    patch = tus | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    send(f"{url}{made.headers['Location']}", "PATCH", patch, size, pieces(size))


def by_session(url: str, headers: dict[str, str], size: int) -> None:
    """Parts straight into storage, one after the other."""
    where = f"{url}/v1/uploads/sessions"
    made = httpx.post(where, headers=headers, json={"size": size}).raise_for_status().json()
    content = pieces(size)
    rest = b""
    for part in made["parts"]:
        while len(rest) < part["size"]:
            rest += next(content)
        data, rest = rest[: part["size"]], rest[part["size"] :]
        send(part["url"], "PUT", part["headers"], len(data), iter([data]))
    httpx.post(f"{where}/{made['id']}/complete", headers=headers, timeout=120).raise_for_status()


def by_import(url: str, headers: dict[str, str], size: int) -> None:
    """An address on this machine."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        wire, _ = listening.accept()
        with wire:
            wire.recv(65536)
            wire.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode())
            for piece in pieces(size):
                wire.sendall(piece)

    Thread(target=serve, daemon=True).start()
    source = {"url": f"http://127.0.0.1:{listening.getsockname()[1]}/"}
    httpx.post(f"{url}/v1/uploads/import", headers=headers, json=source, timeout=120).raise_for_status()
    listening.close()


WAYS: dict[str, Client] = {
    "multipart": by_multipart,
    "tus 1.0": by_tus,
    "parts into storage": by_session,
    "import of an address": by_import,
}


@contextmanager
def ingest() -> Iterator[tuple[str, dict[str, str], psutil.Process]]:
    """Its URL, a key, its process."""
    numbers, secrets = ports.anywhere(), new_secrets()
    home = Path(tempfile.mkdtemp(prefix="ways"))
    servers = [WheelServer(name, home, numbers, secrets) for name in ("nats", "postgres", "s3")]
    prefix = "SAFELIGHT_"
    given = {k.removeprefix(prefix).lower(): v for k, v in services.setup_environment(numbers, secrets).items()}
    asyncio.run(setup(SetupSettings(**{k: v for k, v in given.items() if k in SetupSettings.model_fields})))  # type: ignore[arg-type]
    row = next(row for row in services.SERVICES if row.name == "ingest")
    env = services.environment(row, numbers, secrets) | {
        "PATH": os.environ["PATH"],
        "MALLOC_ARENA_MAX": "2",
        "SAFELIGHT_OUTSIDE_NETWORKS": "127.0.0.1/32",
        "SAFELIGHT_SEALED_TENANTS": "",
        "SAFELIGHT_MASTER_KEYS": "",
    }
    child = Popen([sys.executable, "-m", "ingest"], env=env)
    url = f"http://127.0.0.1:{numbers['ingest']}"
    try:
        while True:
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        key = secrets["SAFELIGHT_API_KEY"]
        yield url, {"Authorization": f"Bearer {key}"}, psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(30)
        for server in servers:
            server.stop()


def measured(run: Callable[[], Any], process: psutil.Process) -> tuple[float, int]:
    """(seconds, the most memory of the process meanwhile, in bytes)."""
    peak, over = process.memory_info().rss, False

    def watch() -> None:
        nonlocal peak
        while not over:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.02)

    watching = Thread(target=watch)
    watching.start()
    begun = time.monotonic()
    try:
        run()
    finally:
        over = True
        watching.join()
    return time.monotonic() - begun, peak


def main(arguments: list[str]) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="just bench ways")
    parser.add_argument("--mib", type=int, default=200)
    parser.add_argument("--parallel", type=int, default=8)
    asked = parser.parse_args(arguments)
    size = asked.mib * MIB
    sha = hashlib.sha256()
    begun = time.monotonic()
    for piece in pieces(size):
        sha.update(piece)
    print(f"SHA-256 alone, one core: {size / MIB / (time.monotonic() - begun):.0f} MiB/s")
    with ingest() as (url, headers, process), ThreadPoolExecutor(asked.parallel) as threads:
        print(
            f"\n| way | {asked.mib} MiB alone, MB/s | {asked.parallel} at once, MB/s | MiB at rest | MiB more at most |"
        )
        print("|---|---|---|---|---|")
        for name, way in WAYS.items():
            way(url, headers, 9 * MIB)
            alone, _ = measured(lambda way=way: way(url, headers, size), process)  # type: ignore[misc]
            resting = process.memory_info().rss
            together, peak = measured(
                lambda way=way: [  # type: ignore[misc]
                    done.result() for done in [threads.submit(way, url, headers, size) for _ in range(asked.parallel)]
                ],
                process,
            )
            speed, all_ = size / 1e6 / alone, asked.parallel * size / 1e6 / together
            more = round((peak - resting) / MIB)
            print(f"| {name} | {speed:.0f} | {all_:.0f} | {round(resting / MIB)} | {more} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
