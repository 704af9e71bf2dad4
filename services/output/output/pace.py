"""How long a job will still take, from what jobs of its pipeline took lately. Pure.

    seconds left  =  of each phase that is not over: its median, times how often it ran at all
                     less what a running one has behind it (by its progress, where it tells any)
                  +  the usual waiting of a job, by the share of its phases that are ahead

Waiting is what is left of a job's time when its phases' own is taken off: lines, queues and retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Final

from contracts.jobs import Status

HISTORY: Final = 50  # jobs: enough for a median, few enough to follow a change of load
FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """What jobs of one pipeline took, in seconds: `phases` by name (median when it ran, share of jobs it ran in)."""

    phases: Mapping[str, tuple[float, float]]
    waiting_s: float


@dataclass(frozen=True, slots=True)
class Took:
    """One job that ended well: its whole seconds, and those of its phases (None: skipped)."""

    whole_s: float
    phases: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Ahead:
    """A phase of a job that is not over."""

    name: str
    status: Status
    started_at: datetime | None
    progress: float | None


def pace(history: Sequence[Took]) -> Pace | None:
    """None while too few jobs have ended to say anything."""
    if len(history) < FEWEST:
        return None
    ran: dict[str, list[float]] = {}
    for took in history:
        for name, seconds in took.phases.items():
            if seconds is not None:
                ran.setdefault(name, []).append(seconds)
    waits = [max(0.0, took.whole_s - sum(s for s in took.phases.values() if s is not None)) for took in history]
    return Pace({name: (median(seconds), len(seconds) / len(history)) for name, seconds in ran.items()}, median(waits))


def eta_s(known: Pace, phases: int, ahead: Sequence[Ahead], now: datetime) -> float:
    """Seconds until a job has ended that has so many phases, of which these are not over."""
    work = sum(_left_s(known, one, now) for one in ahead)
    return round(work + known.waiting_s * len(ahead) / max(phases, 1), 1)


def _left_s(known: Pace, one: Ahead, now: datetime) -> float:
    usual, share = known.phases.get(one.name, (0.0, 0.0))
    if one.status is not Status.RUNNING or one.started_at is None:
        return usual * share
    since = max(0.0, (now - one.started_at).total_seconds())
    if one.progress:
        return since * (1 - one.progress) / one.progress
    return max(0.0, usual - since)
