"""Peers of Safelight's orchestrator at the same work: jobs of six phases in a row that do nothing, each durable.

    uv run --group peers python -m tests.bench.peers [dbos|procrastinate|celery|dramatiq ...] [--jobs N] [--singles N]

The same for all: servers on loopback with the settings of Safelight's own stack; one and two worker
processes; jobs submitted from another process; the clock runs until the last job's end is on
record. How each is set for speed, and how we learn of the end, is said in its module.

What differs is told too: DBOS and procrastinate commit each phase to PostgreSQL with fsync, the Redis of
Celery and dramatiq syncs each second. DBOS runs the phases of a job in one process; procrastinate and Celery give
each phase to any worker, as Safelight does; only Safelight has each phase answered by another process
than the one that decides.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final, cast

from tests.bench.peers.figures import HEADER, PHASES, Figures, row

__all__ = ["HEADER", "INSTALL", "JOBS", "PEERS", "PHASES", "SINGLES", "Figures", "is_installed", "measure", "row"]

PEERS: Final = ("dbos", "procrastinate", "celery", "dramatiq")
WORKERS: Final = (1, 2)
JOBS: Final = 500
SINGLES: Final = 100
INSTALL: Final = "The peers are not installed: `uv sync --group peers` does it."


def is_installed() -> bool:
    """Whether the dependency group `peers` is there. Imports none of it."""
    return all(find_spec(package) for package in (*PEERS, "psycopg", "redis", "hiredis"))


def _nothing(_: Figures) -> None: ...


def measure(
    peers: Sequence[str] = PEERS,
    *,
    jobs: int = JOBS,
    singles: int = SINGLES,
    workers: Sequence[int] = WORKERS,
    tell: Callable[[Figures], None] = _nothing,
) -> list[Figures]:
    """Start servers, measure each peer with each number of worker processes, take everything down.

    `jobs` go through at once, `singles` one after the other on the idle system. `tell` is called with
    each row when it is known. Call from the main thread; takes a minute per peer with the defaults.

    Raises:
        ModuleNotFoundError: the group is not installed (see `is_installed`).
        RuntimeError: a server or worker does not start, or a job does not succeed.
        TimeoutError: jobs do not end.
    """
    from tests.bench.peers import servers

    rows = []
    for peer in peers:
        run = cast(Callable[..., Figures], importlib.import_module(f"{__name__}.on_{peer}").run)
        start = servers.redis_server if peer in ("celery", "dramatiq") else servers.postgres_server
        with servers.temporary_home() as home, start(home) as server:
            for count in workers:
                rows.append(run(server, home, jobs=jobs, singles=singles, workers=count))
                tell(rows[-1])
    return rows
