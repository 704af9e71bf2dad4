"""What is measured of every system, and how it is shown: one row per system and number of workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

PHASES: Final = 6  # of the no-op pipeline
WARM_UP: Final = 60  # jobs through a system before its clock starts: connections, code, the server's caches
MANY_EVERY_S: Final = 0.01  # how often we ask whether all jobs have ended: an error of 0.1 % in 10 s
ONE_EVERY_S: Final = 0.001  # how often we ask whether the one job has ended, where nobody tells us


@dataclass(frozen=True, slots=True)
class Figures:
    """One row. `seconds` is from the submission of the first of `jobs` jobs until the last has ended;
    `latencies_ms` are of single jobs on an idle system, from before the submission until the end is known."""

    name: str
    workers: int
    jobs: int
    seconds: float
    latencies_ms: Sequence[float]

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.seconds

    @property
    def phases_per_s(self) -> float:
        return self.jobs_per_s * PHASES

    def percentile_ms(self, percent: float) -> float:
        """The latency that so many percent of the single jobs did not exceed (nearest rank)."""
        rank = math.ceil(len(self.latencies_ms) * percent / 100)
        return sorted(self.latencies_ms)[max(rank, 1) - 1]


HEADER: Final = f"{'':<34} {'workers':>7} {'jobs/s':>8} {'phases/s':>9} {'idle p50 ms':>12} {'p99 ms':>8}"


def row(figures: Figures) -> str:
    """A line below HEADER."""
    p50, p99 = figures.percentile_ms(50), figures.percentile_ms(99)
    return (
        f"{figures.name:<34} {figures.workers:>7} {figures.jobs_per_s:>8.1f} {figures.phases_per_s:>9.0f} "
        f"{p50:>12.1f} {p99:>8.1f}"
    )


class System(Protocol):
    """A system with its workers running. Both methods raise when a job does not succeed."""

    def many(self, jobs: int) -> None:
        """Submit so many jobs at once, as fast as the system takes them; return when the last has ended."""
        ...

    def one(self) -> None:
        """Submit one job; return when its end is known."""
        ...


def measure(system: System, name: str, workers: int, *, jobs: int, singles: int) -> Figures:
    """Warm up, many jobs at once, then single jobs one after the other."""
    system.many(WARM_UP)
    seconds = _seconds(lambda: system.many(jobs))
    system.one()  # the way from busy to idle is not the idle system's
    latencies = [_seconds(system.one) * 1000 for _ in range(singles)]
    return Figures(name, workers, jobs, seconds, latencies)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
