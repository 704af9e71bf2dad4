"""procrastinate on PostgreSQL: six tasks, each of which defers the next.

Each task is a row that is committed before the task before it counts as done.

Settings, each for speed:
- 10 tasks at once per worker process (asyncio), 10 connections; all jobs of one submission in
  transactions of 500
- LISTEN/NOTIFY is on (default), and the table is looked at every 10 ms besides (default: 5 s): a
  worker forgets a notification that comes in while it fetches, which happens often with such quick
  tasks, and then waits for the next look. With the default, single jobs took up to 15 s
- finished tasks are kept (default), as the other systems keep theirs

procrastinate tells nobody that a task ended: we ask its table every 1 ms (single jobs) or 10 ms.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, LiteralString

import procrastinate
import psycopg

from tests.bench.peers import figures
from tests.bench.peers.servers import URL, Workers, fresh_database, say_ready, worker_processes

_AT_ONCE: Final = 10  # tasks per worker process
_LOOK_S: Final = 0.01
_PER_TRANSACTION: Final = 500

_UNFINISHED: Final = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
_SUCCEEDED: Final = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"


def run(server: str, home: Path, *, jobs: int, singles: int, workers: int) -> figures.Figures:
    """Measure with so many worker processes. `server` is a PostgreSQL URL without a database."""
    name = f"procrastinate {version('procrastinate')}, PostgreSQL"
    with (
        fresh_database(server, "procrastinate") as url,
        procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=url)).open() as app,
        psycopg.connect(url, autocommit=True) as connection,
    ):
        app.schema_manager.apply_schema()
        with worker_processes(home, workers, __name__, {URL: url}) as running:
            system = _System(app, connection, running)
            return figures.measure(system, name, workers, jobs=jobs, singles=singles)


class _System:
    def __init__(self, app: Any, connection: Any, workers: Workers) -> None:
        self._first = _first_phase(app)
        self._connection = connection
        self._workers = workers
        self._submitted = 0

    def many(self, jobs: int) -> None:
        arguments = itertools.repeat({"phase": 1}, jobs)
        while chunk := list(itertools.islice(arguments, _PER_TRANSACTION)):
            self._first.batch_defer(*chunk)
        self._wait(jobs, figures.MANY_EVERY_S)

    def one(self) -> None:
        self._first.defer(phase=1)
        self._wait(1, figures.ONE_EVERY_S)

    def _wait(self, jobs: int, every_s: float) -> None:
        self._workers.wait_until(lambda: not self._count(_UNFINISHED), every_s)
        self._submitted += jobs
        if jobs > 1 and (succeeded := self._count(_SUCCEEDED)) != self._submitted * figures.PHASES:
            raise RuntimeError(f"{self._submitted} jobs submitted; {succeeded} tasks succeeded")

    def _count(self, query: LiteralString) -> int:
        return int(self._connection.execute(query).fetchall()[0][0])


def _first_phase(app: Any) -> Any:
    """The task of the pipeline's phases; it is told which one it is, from 1."""

    async def phase_(phase: int) -> None:
        if phase < figures.PHASES:
            await task.defer_async(phase=phase + 1)

    task = app.task(phase_, name="phase")
    return task


def work(_: int) -> None:
    """The worker process."""
    asyncio.run(_work(os.environ[URL]))


async def _work(url: str) -> None:
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=_AT_ONCE, max_size=_AT_ONCE)
    app = procrastinate.App(connector=connector)
    _first_phase(app)
    async with app.open_async():
        say_ready()
        await app.run_worker_async(concurrency=_AT_ONCE, fetch_job_polling_interval=_LOOK_S)
