"""What goes wrong on the platform, as data. Everything is off at first; what is set lasts until it is taken back.

Calls that run already are broken by methods of the platform: `preempt`, `lose`, `oom`, `time_out`, `expire`, `freeze`.

Assumed, for no document says it: a repeated spawn with the same `x-idempotency-key` is a second call, as the worst
case (`dedupes` turns that); a preempted input goes to the front of the queue; what a container reports about an input
that is over already is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

# How an input ends in place of being run.
End = Literal["internal", "oom", "timeout"]


@dataclass
class Faults:
    """One attribute per fault. Numbers count down: `lose_before = 2` loses the next two spawns."""

    silent: bool = False  # takes every request of a client and answers none
    unauthorized: bool = False  # UNAUTHENTICATED, as with bad credentials
    forbidden: bool = False  # PERMISSION_DENIED
    unavailable: bool = False  # UNAVAILABLE
    no_app: bool = False  # NOT_FOUND for every app, as before a deployment
    stale: bool = False  # NOT_FOUND for a spawn of a function that was looked up before, as after a new app
    throttled: bool = False  # RESOURCE_EXHAUSTED for every spawn and poll
    throttle_s: float | None = None  # with the server's own advice to come back after this many seconds

    lose_before: int = 0  # spawns whose request never arrives
    lose_after: int = 0  # spawns that are carried out and whose answer is lost
    lost: Literal["reset", "silence"] = "reset"  # how the loss looks: the stream breaks, or nothing comes
    dedupes: bool = False  # a spawn with an idempotency key that was seen gets the call that it made

    held: bool = False  # no container starts: an eternal queue
    cold_s: float = 0.0  # seconds before a container's process starts
    crash_loop: bool = False  # every container fails at import and is started again
    hang: int = 0  # inputs at which the container stops dead (SIGSTOP)
    ends: list[End] = field(default_factory=list)  # how the next inputs end, first to last

    # "too late": the cancellation is answered when the call has succeeded all the same.
    cancel: Literal["honoured", "ignored", "too late"] = "honoured"

    changed: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if changed := self.__dict__.get("changed"):
            changed()

    def clear(self) -> None:
        """Take everything back."""
        calm = Faults()
        for one in fields(self):
            if one.name != "changed":
                setattr(self, one.name, getattr(calm, one.name))
