"""The port that every provider stands behind. `local` and the remote vendors are its implementations."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from contracts.envelope import CallRequest, CallResponse


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider is and can do, as its documentation says.

    `device`: what its functions compute on. `retention_s`: how long it keeps a call's arguments and
    answer. `regions`: where it may run; empty: it does not say. `shared`: a handle is known to
    every process of ours, so that another may go on watching.
    """

    device: Literal["cpu", "gpu"]
    cancels: bool
    webhooks: bool
    prewarms: bool
    shared: bool
    retention_s: float
    regions: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Available:
    """Submitting makes sense now."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No work before `until`. `code` says why: PROVIDER_UNAVAILABLE, PROVIDER_RATE_LIMITED, PROVIDER_UNAUTHORIZED."""

    code: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """The call is not over. `fraction` (0..1) is how far it says it is, None when it says nothing."""

    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The call is over and this is its answer."""

    response: CallResponse


@dataclass(frozen=True, slots=True)
class Broken:
    """The call is over without an answer.

    `code`: CALL_LOST, CALL_KILLED, CALL_RUN_DEADLINE, CALL_EXPIRED or CALL_DEADLINE. Its result
    objects may be there all the same: they are the truth.
    """

    code: str


News = Pending | Ended | Broken


class Provider(Protocol):
    """Runs calls somewhere else. Whoever calls these methods bounds them in time, and may abandon them."""

    @property
    def name(self) -> str:
        """As the catalogue names it."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it is and can do."""
        ...

    async def health(self) -> Available | Unavailable:
        """Whether it takes work now, and if not, when to ask again."""
        ...

    async def submit(self, request: CallRequest) -> str:
        """Start a call; returns the provider's own handle for it, which the function claims its items with.

        Raises:
            SafelightError: PROVIDER_REJECTED, PROVIDER_UNAUTHORIZED, PROVIDER_RATE_LIMITED: nothing was started.
                Whatever else comes out leaves it open whether the call exists: its claim will tell.
        """
        ...

    async def poll(self, handle: str, wait_s: float) -> News:
        """How the call stands; waits up to `wait_s` for news. News that was not taken is there for the next poll.

        Raises:
            SafelightError: the provider cannot be asked now (PROVIDER_*). That says nothing about the call.
        """
        ...

    async def cancel(self, handle: str) -> None:
        """Ask the call to stop. A request, not proof of death; unknown handles are fine."""
        ...

    async def prewarm(self, function: str) -> None:
        """Ask for capacity, for calls of this function are about to come. Nothing where it cannot be asked for."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
