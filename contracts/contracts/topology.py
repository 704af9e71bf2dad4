"""Streams and consumers as data. One owner creates them (`safelight topology apply`);
services declare nothing and refuse to start when the broker differs from these tables.

Read with it: the messaging design notes. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MINUTE: Final = 60.0
DAY: Final = 24 * 60 * MINUTE
MIB: Final = 1024 * 1024

BODY_BYTES_MAX: Final = 512 * 1024  # half of the broker's 1 MiB max_payload: headers and a dead letter's additions fit
DUPLICATE_WINDOW_S: Final = 2 * MINUTE  # an aid for the relay, never the guarantee: the inbox is


@dataclass(frozen=True, slots=True)
class Stream:
    """One JetStream stream, always on file storage.

    `workqueue`: a message is gone once acked. `limits`: kept until `max_age_s`.
    """

    name: str
    subjects: tuple[str, ...]
    retention: Literal["workqueue", "limits"]
    max_age_s: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Consumer:
    """One durable pull consumer. `owner` is the service that reads it.

    `retry_s` are the delays that settle asks for after the first, second, ... failed delivery;
    the last delivery becomes a dead letter. So max_deliver = len(retry_s) + 1.
    `ack_wait_s` is how long a silent process keeps a message: settle sends in-progress
    every third of it while a handler works.
    `max_ack_pending` is the backpressure.
    """

    name: str
    stream: str
    owner: str
    subjects: tuple[str, ...]
    ack_wait_s: float
    retry_s: tuple[float, ...]
    max_ack_pending: int

    @property
    def max_deliver(self) -> int:
        return len(self.retry_s) + 1


_MAX_DELIVERIES: Final = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>"

# fmt: off
#                        name          subjects        retention    kept      size
COMMANDS: Final = Stream("COMMANDS",   ("cmd.>",),     "workqueue", 7 * DAY,  512 * MIB)
EVENTS: Final = Stream("EVENTS",       ("evt.>",),     "limits",    7 * DAY,  1024 * MIB)
DEAD: Final = Stream("DEAD",           ("dead.>",),    "limits",    90 * DAY, 512 * MIB)
ADVISORIES: Final = Stream("ADVISORIES", (_MAX_DELIVERIES,), "limits", 30 * DAY, 64 * MIB)
# fmt: on

STREAMS: Final[tuple[Stream, ...]] = (COMMANDS, EVENTS, DEAD, ADVISORIES)

# A command is retried by the orchestrator as a new attempt, so its deliveries only bridge a crash or an outage.
_OUTAGE: Final = (1.0, 5.0, 15.0, 60.0)
# An event has no attempt above it: its reader tries for about an hour before it becomes a dead letter.
_PATIENT: Final = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0, *(5 * MINUTE,) * 11)

_STATUS: Final = ("evt.upload.v1.received", "evt.job.v1.*", "evt.phase.v1.progressed", "evt.batch.v1.*")
_PAPER: Final = "cmd.document.v1.run"
_INPUTS: Final = ("evt.upload.v1.received", "evt.phase.v1.*")

# fmt: off
CONSUMERS: Final[tuple[Consumer, ...]] = (
    #        name                   stream         owner           subjects                 ack_wait  retry  pending
    Consumer("ingest-analysis",     COMMANDS.name, "ingest",       ("cmd.analysis.v1.run",), 10.0, _OUTAGE,  64),
    Consumer("ingest-inspect",      COMMANDS.name, "ingest",       (f"{_PAPER}.inspect",),   10.0, _OUTAGE,  64),
    Consumer("ingest-rasterize",    COMMANDS.name, "ingest",       (f"{_PAPER}.rasterize",), 10.0, _OUTAGE,  64),
    Consumer("ingest-styles",       EVENTS.name,   "ingest",       ("evt.job.v1.succeeded",), 10.0, _PATIENT, 1000),
    Consumer("gpu-bridge-calls",    COMMANDS.name, "gpu-bridge",   ("cmd.gpu.v1.run.*",),    10.0, _OUTAGE,  256),
    Consumer("gpu-bridge-stops",    COMMANDS.name, "gpu-bridge",   ("cmd.gpu.v1.stop",),    10.0, _OUTAGE,  256),
    Consumer("gpu-bridge-uploads",  EVENTS.name,   "gpu-bridge",   ("evt.upload.v1.received",), 10.0, _OUTAGE, 1000),
    Consumer("output-render",       COMMANDS.name, "output",       ("cmd.render.v1.run.*",), 10.0, _OUTAGE,  64),
    Consumer("output-assemble",     COMMANDS.name, "output",       (f"{_PAPER}.assemble",),  10.0, _OUTAGE,  16),
    Consumer("output-deliver",      COMMANDS.name, "output",       (f"{_PAPER}.deliver",),   10.0, _OUTAGE,  16),
    Consumer("orchestrator-inputs", EVENTS.name,   "orchestrator", _INPUTS,                  10.0, _PATIENT, 2000),
    Consumer("orchestrator-dead",   DEAD.name,     "orchestrator", ("dead.cmd.>", "dead.evt.>"), 10.0, _PATIENT, 256),
    Consumer("orchestrator-audit",  EVENTS.name,   "orchestrator", ("evt.audit.v1.noted",), 10.0, _PATIENT, 1000),
    Consumer("orchestrator-erasures", EVENTS.name, "orchestrator", ("evt.erasure.v1.done",), 10.0, _PATIENT, 256),
    Consumer("ingest-erasures",     EVENTS.name,   "ingest",       ("evt.erasure.v1.requested",), 30.0, _PATIENT, 16),
    Consumer("gpu-bridge-erasures", EVENTS.name,   "gpu-bridge",   ("evt.erasure.v1.requested",), 30.0, _PATIENT, 16),
    Consumer("output-erasures",     EVENTS.name,   "output",       ("evt.erasure.v1.requested",), 30.0, _PATIENT, 16),
    Consumer("orchestrator-lost",   ADVISORIES.name, "orchestrator", (_MAX_DELIVERIES,),     10.0, _PATIENT, 64),
    Consumer("bench-noop",          COMMANDS.name, "bench",        ("cmd.bench.v1.run",),    10.0, _OUTAGE,  5000),
    Consumer("output-projection",   EVENTS.name,   "output",       _STATUS,                  10.0, _PATIENT, 2000),
    Consumer("output-costs",        EVENTS.name,   "output",       ("evt.cost.v1.noted",),   10.0, _PATIENT, 256),
)
# fmt: on


# Who may say what: the broker's accounts are made of it (deploy/nats/nats.conf). A pattern ends at its family, so that
# a new verb of it needs no row. The orchestrator says everything: replays send again what others have said.
_WORKERS: Final = ("ingest", "gpu-bridge", "output")
PUBLISHERS: Final[Mapping[str, tuple[str, ...]]] = {
    "cmd.>":         ("orchestrator",),
    "evt.>":         ("orchestrator",),
    "dead.>":        ("orchestrator",),
    "evt.upload.>":  ("ingest",),
    "evt.phase.>":   _WORKERS,
    "evt.audit.>":   _WORKERS,
    "evt.erasure.>": _WORKERS,
    "evt.cost.>":    ("gpu-bridge",),
}  # fmt: skip


def inbox_of(service: str) -> str:
    """Where the broker's answers to a service arrive. Its account may listen there, and nowhere else."""
    return f"_INBOX.{service}"


def consumer(name: str) -> Consumer:
    """The row of that name. Raises KeyError."""
    return _BY_NAME[name]


_BY_NAME: Final = {row.name: row for row in CONSUMERS}
