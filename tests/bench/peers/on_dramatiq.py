"""dramatiq on Redis: a pipeline of six messages.

A message is acknowledged after its phase and after the next one is in Redis, which has it in its append-only file,
synced to disk each second: as with Celery, that is the jobs' only state.

Settings, each for speed:
- 8 threads per worker process (default): with one, which waits for what it has fetched, it is an eighth of that
- the default middleware, which retries and keeps time; no results

The last phase pushes to a list in Redis: a single job's end is waited for there, many are counted every 10 ms.
"""

from __future__ import annotations

import os
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from tests.bench.peers import figures
from tests.bench.peers.servers import GIVE_UP_S, URL, Workers, redis_name, say_ready, worker_processes

_ENDED: Final = "ended"


def run(server: str, home: Path, *, jobs: int, singles: int, workers: int) -> figures.Figures:
    """Measure with so many worker processes. `server` is a Redis URL without a database, which is emptied."""
    with redis.Redis.from_url(server) as store:
        store.flushall()
        name = f"dramatiq {version('dramatiq')}, {redis_name(store.info('server'))}"
        with worker_processes(home, workers, __name__, {URL: server}) as running:
            return figures.measure(_System(_phase(server), store, running), name, workers, jobs=jobs, singles=singles)


class _System:
    def __init__(self, phase: Any, store: Any, workers: Workers) -> None:
        self._phase = phase
        self._store = store
        self._workers = workers

    def many(self, jobs: int) -> None:
        for _ in range(jobs):
            self._six_phases().run()
        self._workers.wait_until(lambda: self._store.llen(_ENDED) == jobs, figures.MANY_EVERY_S)
        self._store.delete(_ENDED)

    def one(self) -> None:
        self._six_phases().run()
        if self._store.blpop(_ENDED, GIVE_UP_S) is None:
            raise TimeoutError(f"a job did not end within {GIVE_UP_S:.0f} s")

    def _six_phases(self) -> Any:
        numbers = range(1, figures.PHASES + 1)
        phases = [self._phase.message_with_options(args=(number,), pipe_ignore=True) for number in numbers]
        return dramatiq.pipeline(phases, broker=self._phase.broker)


def _phase(server: str) -> Any:
    store = redis.Redis.from_url(server)

    def phase(number: int) -> None:
        if number == figures.PHASES:
            store.rpush(_ENDED, number)

    return dramatiq.actor(phase, broker=RedisBroker(url=server))


def work(_: int) -> None:
    """The worker process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # for the threads to come too: it is waited for below
    worker = dramatiq.Worker(_phase(os.environ[URL]).broker, worker_threads=8)
    worker.start()
    say_ready()
    signal.sigwait([signal.SIGTERM])
    worker.stop()
