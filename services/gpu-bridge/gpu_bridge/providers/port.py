"""The port that every provider stands behind. `local` and the remote vendors are its implementations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from contracts.envelope import CallRequest, CallResponse


@dataclass(frozen=True, slots=True)
class Pending:
    """The call is not over. `fraction` (0..1) is how far it says it is, None when it says nothing."""

    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Available:
    """Submitting makes sense now."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No work before `until`. `code` says why: PROVIDER_UNAVAILABLE or PROVIDER_RATE_LIMITED."""

    code: str
    until: datetime


class Provider(Protocol):
    """Runs calls somewhere else. Every method is bounded in time and raises SafelightError only."""

    @property
    def name(self) -> str:
        """As the catalogue names it."""
        ...

    async def availability(self) -> Available | Unavailable:
        """Whether it takes work now, and if not, when to ask again. One that cannot be asked is unavailable."""
        ...

    async def submit(self, request: CallRequest) -> str:
        """Start a call; returns the provider's own handle for it."""
        ...

    async def poll(self, handle: str, wait_s: float) -> Pending | CallResponse:
        """How the call stands; waits up to `wait_s` for news. Raises CALL_LOST when nobody knows it any more.

        May be abandoned at any moment: news that was not handed over is there for the next poll.
        """
        ...

    async def cancel(self, handle: str) -> None:
        """Ask the call to stop. A request, not proof of death; unknown handles are fine, another process's too."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
