"""The same system with short waits: what takes ten seconds after a crash takes one.

Rows of the tables of time are replaced before anything reads them, in the set-up and in every service alike: a
service refuses to start when the broker has another topology than it knows.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Final

from contracts import topology
from contracts.topology import COMMANDS, Consumer

# A silent process keeps a message so long. A command's worker may have both cores to itself for a second.
COMMAND_ACK_WAIT_S: Final = 1.6
EVENT_ACK_WAIT_S: Final = 1.0
RETRY_S: Final = 0.2  # at most: the pace of naks; their number stays, and so does max_deliver
NOOP: Final = replace(topology.consumer("bench-noop"), ack_wait_s=0.5, retry_s=(0.1,))

# fmt: off
CONSTANTS: Final = (
    # module                constant          seconds
    ("runtime.outbox",      "SWEEP_EVERY_S",  0.5),
    ("runtime.outbox",      "SWEEP_AGE_S",    1.0),
    ("runtime.outbox",      "FORGET_EVERY_S", 0.1),
    ("orchestrator.app",    "TICK_S",         0.1),
    ("gpu_bridge.ledger",   "LEASE_S",        1.6),
    ("gpu_bridge.submitter", "LOOK_EVERY_S",  0.2),
)
# fmt: on
# Of the watches of a bridge: a lease is still kept five times before it runs out.
PACE: Final = {"first_s": 0.1, "most_s": 0.3, "marks_s": 0.2, "spawn_lease_s": 2.0, "stop_grace_s": 2.0, "keep_s": 0.3}


def quick(row: Consumer) -> Consumer:
    """A consumer with short waits."""
    if row.name == NOOP.name:
        return NOOP
    ack_wait_s = COMMAND_ACK_WAIT_S if row.stream == COMMANDS.name else EVENT_ACK_WAIT_S
    return replace(row, ack_wait_s=ack_wait_s, retry_s=tuple(min(wait, RETRY_S) for wait in row.retry_s))


CONSUMERS: Final = tuple(map(quick, topology.CONSUMERS))


def shorten_topology() -> None:
    """Replace the table of consumers. Before anything else is imported: others take it over by name."""
    topology.CONSUMERS = CONSUMERS  # type: ignore[misc]
    topology._BY_NAME = {row.name: row for row in CONSUMERS}  # type: ignore[misc]


def shorten_constants(package: str) -> None:
    """Replace the constants of the kit and of one service. Raises AttributeError when one has another name now."""
    for name, constant, seconds in CONSTANTS:
        if name.partition(".")[0] in ("runtime", package):
            module = import_module(name)
            assert isinstance(getattr(module, constant), float), f"{name}.{constant}"
            setattr(module, constant, seconds)
    if package == "gpu_bridge":
        _shorten_pace()


def _shorten_pace() -> None:
    from gpu_bridge.watcher import Watcher

    *others, usual = Watcher.__init__.__defaults__ or ()
    Watcher.__init__.__defaults__ = (*others, replace(usual, **PACE))
