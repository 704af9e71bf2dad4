"""Celery on Redis: a chain of six tasks.

Each message is acknowledged after its task and after the next one's message is in Redis (`acks_late`).
Redis has it in its append-only file, which is synced to disk each second: a power cut may lose the
last second, as with Safelight's broker, but here that is the jobs' only state.

Settings, each for speed:
- the solo pool: a worker is one process and runs a task at a time. For tasks that do nothing it takes
  the least processor time per job: 17 ms; threads (1, 4) 17 and 20, prefork (1, 2, 4) 22 to 26
- 64 messages ahead per worker, as Celery's guide advises for short tasks; JSON; hiredis
- results are kept of the last task of a chain only; no events, remote control, gossip, mingle,
  heartbeat or rate limits

The end of a single job is told by Redis (publish/subscribe). For many jobs we ask Redis every 10 ms
how many results there are, which is cheaper than to subscribe to each.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import redis
from celery import Celery, chain, signals

from tests.bench.peers import figures
from tests.bench.peers.servers import GIVE_UP_S, URL, Workers, redis_name, say_ready, worker_processes

_MESSAGES: Final = 0  # Redis's database of the queue
_RESULTS: Final = 1
_PREFETCH: Final = 64
_SETTINGS: Final = {
    "task_acks_late": True,
    "worker_prefetch_multiplier": _PREFETCH,
    "worker_concurrency": 1,
    "worker_disable_rate_limits": True,
    "worker_enable_remote_control": False,
    "worker_send_task_events": False,
    "broker_connection_retry_on_startup": True,
}


def run(server: str, home: Path, *, jobs: int, singles: int, workers: int) -> figures.Figures:
    """Measure with so many worker processes. `server` is a Redis URL without a database, which is emptied."""
    with redis.Redis.from_url(f"{server}/{_RESULTS}") as results:
        results.flushall()
        name = f"Celery {version('celery')}, {redis_name(results.info('server'))}"
        with worker_processes(home, workers, __name__, {URL: server}) as running:
            system = _System(_app(server), results, running)
            return figures.measure(system, name, workers, jobs=jobs, singles=singles)


class _System:
    def __init__(self, app: Any, results: Any, workers: Workers) -> None:
        self._phase = _phase(app)
        self._results = results
        self._workers = workers

    def many(self, jobs: int) -> None:
        expected = self._results.dbsize() + jobs
        for _ in range(jobs):
            self._six_phases().apply_async()
        self._workers.wait_until(lambda: self._results.dbsize() == expected, figures.MANY_EVERY_S)

    def one(self) -> None:
        self._six_phases().apply_async().get(timeout=GIVE_UP_S)

    def _six_phases(self) -> Any:
        """A new chain each time: a chain has the id of its result."""
        first = [self._phase.si().set(ignore_result=True) for _ in range(figures.PHASES - 1)]
        return chain(*first, self._phase.si())


def _app(server: str) -> Any:
    return Celery("peers", broker=f"{server}/{_MESSAGES}", backend=f"{server}/{_RESULTS}", changes=_SETTINGS)


def _phase(app: Any) -> Any:
    def phase() -> None: ...

    return app.task(phase, name="phase")


def work(number: int) -> None:
    """The worker process."""
    app = _app(os.environ[URL])
    _phase(app)
    signals.worker_ready.connect(_ready)
    app.worker_main(
        [
            *("worker", "--pool=solo", f"--hostname=worker-{number}@peers", "--loglevel=WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ]
    )


def _ready(**_: object) -> None:
    say_ready()
