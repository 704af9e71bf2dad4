"""Whose turn it is: which queued calls go to which provider now, which fail, which wait. Pure.

A call goes to the first provider of its function's order that may do it and takes work. One that
is merely full is waited for, until the call's time in the queue is over; one that takes no work
(paused, ill, its circuit open) is passed over; when all are, the call is deferred. Sensitive work goes to nobody
whom its tenant's policy bars, and nobody waits for such a one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gpu_bridge.call import Move
from gpu_bridge.catalog import Function, allowed
from gpu_bridge.policy import Policy
from gpu_bridge.providers.port import Available, Unavailable
from gpu_bridge.terms import Limits


@dataclass(frozen=True, slots=True)
class Queued:
    """A call whose turn may have come, as far as its turn depends on it. `code`: how its last epoch ended."""

    key: str
    alike: str
    queued_at: datetime
    deadline: datetime
    engine: str | None
    providers: tuple[str, ...]
    refused_by: tuple[str, ...]
    code: str | None
    tenant: str = ""
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """A provider as this function finds it. `room`: how many calls more it may be given now."""

    name: str
    device: str
    state: Available | Unavailable
    room: int
    limits: Limits

    @property
    def takes_work(self) -> bool:
        """Whether work may go there, be there room or not."""
        return isinstance(self.state, Available)


@dataclass(frozen=True, slots=True)
class Ending:
    """A call that ends without being given to anybody. `provider` and `until`: whom to wait for, when deferred."""

    key: str
    move: Move
    code: str
    provider: str = ""
    until: datetime | None = None


@dataclass(slots=True)
class Turns:
    """What to do now; `next_at`: when there is something to do though nothing has come."""

    going: list[tuple[str, list[str]]] = field(default_factory=list)  # provider, keys that travel together
    ending: list[Ending] = field(default_factory=list)
    next_at: datetime | None = None

    def look_at(self, at: datetime) -> None:
        """There is something to do then."""
        self.next_at = min(self.next_at or at, at)


def turns(
    function: Function, queued: Sequence[Queued], openings: Mapping[str, Opening], now: datetime, policy: Policy
) -> Turns:
    """What becomes of these queued calls of one function."""
    devices = {name: opening.device for name, opening in openings.items()}
    found = Turns()
    waiting: dict[str, list[Queued]] = {}
    for one in queued:
        over_at = one.queued_at + timedelta(seconds=function.clocks.queue_s)
        if now >= one.deadline or now >= over_at:
            code = "CALL_DEADLINE" if now >= one.deadline else "CALL_QUEUE_DEADLINE"
            found.ending.append(Ending(one.key, Move.FAIL, code))
            continue
        names = allowed(function, one.engine, one.providers, devices)
        barred = policy.barred(one.tenant, names) if one.sensitive else {}
        left = [openings[name] for name in names if name not in one.refused_by and name not in barred]
        taker = next((opening for opening in left if opening.takes_work), None)
        if taker is not None:
            waiting.setdefault(taker.name, []).append(one)
            found.look_at(min(over_at, one.deadline))
        elif left:
            found.ending.append(_deferred(one, left))
        else:
            found.ending.append(Ending(one.key, Move.FAIL, _why_nobody(one, names, barred)))
    for name, calls in waiting.items():
        opening = openings[name]
        batches, next_at = grouped(calls, opening.limits, opening.room, now)
        found.going += [(name, keys) for keys in batches]
        if next_at is not None:
            found.look_at(next_at)
    return found


def _why_nobody(one: Queued, names: Sequence[str], barred: Mapping[str, str]) -> str:
    if names and len(barred) == len(names):
        return "POLICY_UNMET"
    return one.code if names and one.code else "NO_PROVIDER"


def _deferred(one: Queued, ill: Sequence[Opening]) -> Ending:
    states = [(opening.name, opening.state) for opening in ill]
    name, state = min(
        ((name, state) for name, state in states if isinstance(state, Unavailable)), key=lambda pair: pair[1].until
    )
    return Ending(one.key, Move.DEFER, state.code, name, state.until)


def grouped(
    waiting: Sequence[Queued], limits: Limits, room: int, now: datetime
) -> tuple[list[list[str]], datetime | None]:
    """The batches that go now, oldest first, at most `room` calls; and when the next one goes if none is added.

    Calls that are alike wait for each other, until they are a batch or the oldest has waited long enough.
    """
    gathering: dict[str, list[Queued]] = {}
    ready: list[list[Queued]] = []
    for one in sorted(waiting, key=lambda w: (w.queued_at, w.key)):
        batch = gathering.setdefault(one.alike, [])
        batch.append(one)
        if len(batch) >= limits.batch:
            ready.append(gathering.pop(one.alike))
    next_at: datetime | None = None
    for batch in gathering.values():
        goes_at = batch[0].queued_at + timedelta(seconds=limits.batch_wait_s)
        if goes_at <= now:
            ready.append(batch)
        else:
            next_at = min(next_at or goes_at, goes_at)
    going: list[list[str]] = []
    for batch in sorted(ready, key=lambda b: (b[0].queued_at, b[0].key)):
        keys = [one.key for one in batch[: max(0, room)]]
        room -= len(keys)
        if keys:
            going.append(keys)
    return going, next_at
