"""When to leave a provider alone: one circuit per provider and function, in the memory of this process. Pure.

    closed     work goes there; FAILURES in a row open it
    open       nobody is sent there before `until`; the wait doubles with each opening, up to PAUSE_MAX_S
    half-open  after that one call goes there as a probe: success closes, failure opens again

What counts is the provider's doing (it did not answer, did not start, lost the call), never the
work's: a picture that cannot be decoded says nothing about who was asked to. And so that one
picture which kills whoever works on it closes nothing to the others, a call counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

FAILURES: Final = 3
PAUSE_S: Final = 15.0
PAUSE_MAX_S: Final = 300.0
DOUBLINGS_MAX: Final = 10  # far beyond PAUSE_MAX_S, and far below what a float can hold: outages last for days
PROBE_S: Final = 180.0  # a probe that is not heard of for so long was lost; the next may go


@dataclass(frozen=True, slots=True)
class Circuit:
    """`until` is set while it is open, `probing_since` while a probe is out."""

    failures: int = 0
    openings: int = 0
    until: datetime | None = None
    probing_since: datetime | None = None

    def blocked_until(self, now: datetime) -> datetime | None:
        """When work may go there again; None: now."""
        if self.until is None:
            return None
        if now < self.until:
            return self.until
        if self.probing_since is not None and now < self.probing_since + timedelta(seconds=PROBE_S):
            return self.probing_since + timedelta(seconds=PROBE_S)
        return None

    @property
    def is_half_open(self) -> bool:
        """Whether the next call that goes there is a probe (once `blocked_until` says that it may)."""
        return self.until is not None

    def sent(self, now: datetime) -> Circuit:
        """After a call went there."""
        return replace(self, probing_since=now) if self.until is not None else self

    def succeeded(self) -> Circuit:
        """After a call that the provider did as it should."""
        return Circuit()

    def failed(self, now: datetime) -> Circuit:
        """After a call that the provider failed."""
        failures = self.failures + 1
        if self.until is None and failures < FAILURES:
            return replace(self, failures=failures)
        pause_s = min(PAUSE_MAX_S, PAUSE_S * 2 ** min(self.openings, DOUBLINGS_MAX))
        return Circuit(failures, self.openings + 1, now + timedelta(seconds=pause_s))


class Breaker:
    """The circuits of all providers and functions."""

    def __init__(self) -> None:
        self._circuits: dict[tuple[str, str], Circuit] = {}
        self._calls: dict[tuple[str, str], set[str]] = {}  # that failed in a row, while the circuit was closed

    def of(self, provider: str, function: str) -> Circuit:
        """The circuit, closed unless something was heard."""
        return self._circuits.get((provider, function), Circuit())

    def sent(self, provider: str, function: str, now: datetime) -> None:
        """A call goes there."""
        self._circuits[provider, function] = self.of(provider, function).sent(now)

    def succeeded(self, provider: str, function: str) -> None:
        """A call was done there, well or badly: the provider did its part."""
        self._circuits.pop((provider, function), None)
        self._calls.pop((provider, function), None)

    def failed(self, provider: str, function: str, call: str, now: datetime) -> None:
        """This call failed by the provider's doing."""
        place = (provider, function)
        circuit, calls = self.of(*place), self._calls.setdefault(place, set())
        if circuit.until is None and call in calls:
            return
        self._circuits[place] = failed = circuit.failed(now)
        calls.add(call)
        if failed.until is not None:
            calls.clear()
