"""DBOS Transact on PostgreSQL: a workflow of six steps.

Each step's result and the workflow's state are committed to PostgreSQL before the next step begins.

Settings, each for speed:
- many jobs come through a queue, as it takes to spread them over worker processes; all go in one
  transaction; the queue is looked at every 100 ms (default: each second), 32 workflows at once per
  worker process, in threads. 4 to 64 at once, a look every 1 to 20 ms, asyncio in place of threads:
  none was faster by more than the noise
- a single job is started by the worker's process itself, which is told to over a socket, as a
  program that embeds DBOS would do on a request: this needs no queue and takes about half the time
- 20 connections and LISTEN/NOTIFY, as by default; log level error

The worker's process waits for the end of a single job and answers: no polling. That many jobs have
ended is told to nobody: we ask DBOS's documented table every 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import threading
from importlib.metadata import version
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
import sqlalchemy
from dbos import DBOS, DBOSClient, EnqueueOptions

from stack.ports import HOST
from tests.bench.peers import figures
from tests.bench.peers.servers import URL, Workers, fresh_database, say_ready, worker_processes

_QUEUE: Final = "jobs"
_WORKFLOW: Final = "six-phases"
_AT_ONCE: Final = 32  # workflows per worker process
_LOOK_S: Final = 0.1
_OPTIONS: Final[EnqueueOptions] = {"workflow_name": _WORKFLOW, "queue_name": _QUEUE}

_UNFINISHED: Final = "SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))"
_SUCCEEDED: Final = "SELECT count(*) FROM dbos.workflow_status WHERE status = 'SUCCESS'"
_STEPS: Final = "SELECT count(*) FROM dbos.operation_outputs"


def run(server: str, home: Path, *, jobs: int, singles: int, workers: int) -> figures.Figures:
    """Measure with so many worker processes. `server` is a PostgreSQL URL without a database."""
    name = f"DBOS {version('dbos')}, PostgreSQL"
    with (
        fresh_database(server, "dbos") as url,
        worker_processes(home, workers, __name__, {URL: url}) as running,
        psycopg.connect(url, autocommit=True) as connection,
        contextlib.closing(_System(url, connection, running)) as system,
    ):
        return figures.measure(system, name, workers, jobs=jobs, singles=singles)


class _System:
    def __init__(self, url: str, connection: Any, workers: Workers) -> None:
        self._worker = Client((HOST, int(workers.said[0])), authkey=url.encode())
        self._client = DBOSClient(system_database_url=url)
        self._engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        self._connection = connection
        self._workers = workers
        self._submitted = 0

    def close(self) -> None:
        self._worker.close()
        self._engine.dispose()
        self._client.destroy()

    def many(self, jobs: int) -> None:
        with self._engine.begin() as transaction:
            for _ in range(jobs):
                self._client.enqueue_in_transaction(transaction, _OPTIONS)
        self._submitted += jobs
        self._workers.wait_until(lambda: not self._count(_UNFINISHED), figures.MANY_EVERY_S)
        counts = self._count(_SUCCEEDED), self._count(_STEPS)
        if counts != (self._submitted, self._submitted * figures.PHASES):
            raise RuntimeError(f"{self._submitted} workflows submitted; succeeded, and their steps: {counts}")

    def one(self) -> None:
        self._worker.send(None)
        self._worker.recv()

    def _count(self, query: LiteralString) -> int:
        return int(self._connection.execute(query).fetchall()[0][0])


def work(number: int) -> None:
    """The worker process. Its text when it is ready is the port where it takes single jobs."""
    url = os.environ[URL]
    DBOS(
        config={
            "name": "peers",
            "system_database_url": url,
            "executor_id": f"worker-{number}",
            "application_version": "1",
            "log_level": "ERROR",
        }
    )
    step = DBOS.step(name="phase")(_phase)

    def six_phases() -> None:
        for phase in range(figures.PHASES):
            step(phase)

    workflow = DBOS.workflow(name=_WORKFLOW)(six_phases)
    DBOS.launch()
    DBOS.register_queue(_QUEUE, worker_concurrency=_AT_ONCE, polling_interval_sec=_LOOK_S)
    with Listener((HOST, 0), authkey=url.encode()) as listener:
        say_ready(str(listener.address[1]))
        with listener.accept() as driver, contextlib.suppress(EOFError):
            while True:
                driver.recv()
                driver.send(DBOS.start_workflow(workflow).get_result())
    threading.Event().wait()  # until SIGTERM


def _phase(phase: int) -> int:
    return phase
