"""Where a service dies: every boundary, once before it and once after it. Reading the tables is knowing the matrix.

A boundary is a function (`BOUNDARIES`); a flow is an input that passes some of them in order (`FLOWS`); a point is a
flow, a boundary and a side. What a crash there may leave otherwise than a calm run is in `TOLERANCES`, and what is
not there is not tolerated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, Literal

Side = Literal["before", "after"]
SIDES: Final[tuple[Side, ...]] = ("before", "after")


@dataclass(frozen=True, slots=True)
class Boundary:
    """The function `module:name` is this boundary of this package's process; "": of each, "modal": of a bridge that
    has Modal."""

    package: str
    name: str
    path: str


# fmt: off
BOUNDARIES: Final = (
    #        package          boundary   function
    Boundary("",              "commit",  "asyncpg.transaction:Transaction._Transaction__commit"),
    Boundary("",              "publish", "runtime.outbox:publish"),
    Boundary("",              "ack",     "nats.aio.msg:Msg.ack"),
    Boundary("",              "ack",     "runtime.settle:acknowledge"),    # of a batch
    Boundary("",              "term",    "nats.aio.msg:Msg.term"),
    Boundary("orchestrator",  "inbox",   "orchestrator.store:take"),
    Boundary("orchestrator",  "lock",    "orchestrator.store:lock_due"),   # jobs whose time has come
    Boundary("orchestrator",  "lock",    "orchestrator.store:lock_next"),  # jobs whose turn has come
    Boundary("orchestrator",  "decide",  "orchestrator.shell:decide"),
    Boundary("orchestrator",  "bury",    "orchestrator.letters:bury"),
    Boundary("orchestrator",  "delete",  "nats.js.manager:JetStreamManager.delete_msg"),
    Boundary("ingest",        "store",   "runtime.objects:Objects.put_stream"),
    Boundary("ingest",        "record",  "ingest.store:insert_upload"),
    Boundary("ingest",        "submit",  "runtime.sandbox:Sandbox.run"),
    Boundary("gpu_bridge",    "inbox",   "gpu_bridge.store:follow"),
    Boundary("gpu_bridge",    "begin",   "gpu_bridge.store:begin"),            # an epoch
    Boundary("gpu_bridge",    "submit",  "gpu_bridge.providers.local:LocalProvider.submit"),
    Boundary("gpu_bridge",    "note",    "gpu_bridge.store:accept_if_mine"),   # of the provider's handle
    Boundary("gpu_bridge",    "started", "gpu_bridge.store:started_if_mine"),  # its claim is seen
    Boundary("gpu_bridge",    "record",  "gpu_bridge.store:succeed_if_mine"),
    Boundary("gpu_bridge",    "record",  "gpu_bridge.store:fail_if_mine"),
    Boundary("gpu_bridge",    "stop",    "gpu_bridge.store:stop"),
    Boundary("gpu_bridge",    "end",     "gpu_bridge.store:cancel_if_mine"),   # it was stopped, and is seen to be over
    Boundary("gpu_bridge",    "answer",  "gpu_bridge.visit:Visitor._news"),    # of a provider, whether a call is over
    Boundary("gpu_bridge",    "claim",   "gpu_bridge.marks:MarkStore.claim"),
    Boundary("gpu_bridge",    "void",    "gpu_bridge.marks:MarkStore.void"),
    Boundary("modal",         "spawn",   "gpu_bridge.providers.modal:ModalProvider.submit"),
    Boundary("output",        "submit",  "runtime.sandbox:Sandbox.run"),
    Boundary("output",        "store",   "runtime.objects:Objects.put"),
    Boundary("output",        "inbox",   "asyncpg.connection:Connection.fetch"),  # of its own statement, see `hooks`
    Boundary("output",        "decide",  "output.picture:Picture.apply"),
    Boundary("gpu_functions", "store",   "gpu_functions.transfer:upload"),
    Boundary("gpu_functions", "answer",  "gpu_functions.__main__:Wire.response"),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Flow:
    """An input on its way through a service. `work` matches what `hooks` says is being worked on: `KIND KEY`."""

    service: str
    input: str
    work: str
    scenario: str
    boundaries: str  # in their order


_REQUESTED: Final = "store record commit publish"
_DECIDED: Final = "inbox decide commit publish ack"
_PROJECTED: Final = "inbox decide commit ack"
# fmt: off
FLOWS: Final = (
    #    service          input             work                             scenario     boundaries
    Flow("ingest",        "a request",      "request *",                     "photo",     _REQUESTED),
    Flow("ingest",        "an analysis",    "cmd.analysis.v1.run *",         "plain",     "submit publish ack"),
    Flow("orchestrator",  "an upload",      "evt.upload.v1.received *",      "photo",     _DECIDED),
    Flow("orchestrator",  "an outcome",     "*.succeeded *.style.1",         "photo",     _DECIDED),
    Flow("orchestrator",  "a timer",        "timer *",                       "stumbles",  "lock decide commit publish"),
    Flow("orchestrator",  "an admission",   "admission *",                   "narrow",    "lock decide commit publish"),
    Flow("orchestrator",  "a dead command", "dead.cmd.bench.v1.run *",       "refused",   _DECIDED),
    Flow("orchestrator",  "a lost command", "$JS.EVENT.*.MAX_DELIVERIES.*",  "vanished",  "publish delete ack"),
    Flow("orchestrator",  "a broken event", "evt.phase.v1.failed *",         "broken",    "publish term"),
    Flow("orchestrator",  "a dead event",   "dead.evt.phase.v1.failed *",    "broken",    "bury commit ack"),
    Flow("gpu-bridge",    "a command",      "cmd.gpu.v1.run.style *",        "photo",     "inbox commit ack"),
    Flow("gpu-bridge",    "a lease",        "lease *",                       "photo",     "begin commit"),
    Flow("gpu-bridge",    "a submission",   "submission *",                  "photo",     "submit note commit"),
    Flow("gpu-bridge",    "a start",        "start *",                       "photo",     "started commit"),
    Flow("gpu-bridge",    "an outcome",     "outcome *",                     "photo",     "record commit publish"),
    Flow("gpu-bridge",    "a failure",      "failure *",                     "retried",   "record commit publish"),
    Flow("gpu-bridge",    "a stop",         "cmd.gpu.v1.stop *",             "cancelled", "stop commit ack"),
    Flow("gpu-bridge",    "an end",         "end *",                         "cancelled", "end commit"),
    Flow("gpu-functions", "a call",         "call *",                        "photo",     "store answer"),
    Flow("output",        "a rendering",    "cmd.render.v1.run.variants *",  "rendered",  "submit store publish ack"),
    Flow("output",        "a first event",  "evt.upload.v1.received *",      "plain",     _PROJECTED),
    Flow("output",        "a last event",   "evt.job.v1.succeeded *",        "plain",     _PROJECTED),
)
# fmt: on

# The same bridge, with Modal: only it runs. See `modal_house`.
# fmt: off
MODAL_FLOWS: Final = (
    #    service       input                     work                      scenario   boundaries
    Flow("gpu-bridge", "a command for Modal",    "cmd.gpu.v1.run.style *", "calm",    "inbox commit ack"),
    Flow("gpu-bridge", "a lease for Modal",      "lease *",                "calm",    "begin commit"),
    Flow("gpu-bridge", "a submission to Modal",  "submission *",           "calm",    "spawn note commit"),
    Flow("gpu-bridge", "a start on Modal",       "start *",                "calm",    "started"),
    Flow("gpu-bridge", "an answer of Modal",     "answer *",               "calm",    "answer"),
    Flow("gpu-bridge", "an outcome of Modal",    "outcome *",              "calm",    "record commit publish"),
    Flow("gpu-bridge", "a spawn without answer", "claim *",                "lost",    "claim note"),
    Flow("gpu-bridge", "a spawn without call",   "void *",                 "void",    "void commit"),
    Flow("gpu-bridge", "a stop on Modal",        "cmd.gpu.v1.stop *",      "stopped", "stop ack"),
    Flow("gpu-bridge", "an end on Modal",        "end *",                  "stopped", "end"),
)
# fmt: on

# Before it, nothing says which input it will be: a timer has none yet, and a lease finds out which call is free.
UNKNOWABLE: Final = (
    ("orchestrator", "a timer", "before", "lock"),
    ("gpu-bridge", "a lease", "before", "begin"),
    ("gpu-bridge", "a lease for Modal", "before", "begin"),
)

Range = tuple[int, int]  # at least, at most
NONE: Final[Range] = (0, 0)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What crashes of a flow may change, from one point of it to another.

    `epochs`: how many paid tries the style's call has beyond those of the calm run. `runs`: how often a function's
    body ran to its end, by function. `orphans`: stored uploads that no row knows. `like`: the scenario whose calm run
    is compared with, if it is another one.
    """

    service: str
    input: str
    first: str
    last: str
    why: str
    epochs: Range = NONE
    runs: Mapping[str, Range] = field(default_factory=dict)
    orphans: Range = NONE
    like: str | None = None


CALM: Final = Tolerance("", "", "", "", "nothing is tolerated")
_AGAIN: Final = "what was done is not written down anywhere: the command comes again"
_CHILD: Final = "a worker is the bridge's child: it ends what it has begun or dies with it, and is not waited for"
_BEGUN: Final = "the call may have been begun by now, by a child"
_STOPPED: Final = "the same, but the stop may be faster than the next epoch"
_LOST: Final = "a worker that dies before its result is written fails its attempt, and the policy gives another"
# fmt: off
TOLERANCES: Final = (
    #         service          input           from             to               what and why
    Tolerance("ingest",        "a request",    "after store",   "before commit", "no row knows of the object yet",
              orphans=(1, 1)),
    Tolerance("ingest",        "an analysis",  "after submit",  "before ack",    _AGAIN, runs={"analyzed": (2, 2)}),
    Tolerance("output",        "a rendering",  "after submit",  "before ack",    _AGAIN, runs={"variants": (2, 2)}),
    Tolerance("gpu-bridge",    "a command",    "after ack",     "after ack",     _BEGUN,
              epochs=(0, 1), runs={"style": (1, 2)}),
    Tolerance("gpu-bridge",    "a submission", "after submit",  "after commit",  _CHILD,
              epochs=(0, 1), runs={"style": (1, 2)}),
    Tolerance("gpu-bridge",    "a start",      "before started", "after commit", _CHILD,
              epochs=(0, 1), runs={"style": (1, 2)}),
    Tolerance("gpu-bridge",    "a stop",       "before stop",   "before commit", _STOPPED,
              epochs=(0, 1), runs={"style": (0, 1)}),
    Tolerance("gpu-bridge",    "a stop",       "after commit",  "after ack",     _CHILD, runs={"style": (0, 1)}),
    Tolerance("gpu-functions", "a call",       "before store",  "after store",   _LOST,
              like="retried", runs={"style": (1, 2)}),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Point:
    """One place to die at."""

    flow: Flow
    side: Side
    boundary: str

    def __str__(self) -> str:
        return f"{self.flow.service}: {self.place} of {self.flow.input}"

    @property
    def place(self) -> str:
        return f"{self.side} {self.boundary}"

    def is_at(self, side: Side, boundary: str, work: Sequence[str]) -> bool:
        """Whether this is where a process stands that works on this."""
        if (side, boundary) != (self.side, self.boundary):
            return False
        return any(fnmatchcase(one, self.flow.work) for one in work)

    @property
    def tolerance(self) -> Tolerance | None:
        """The row about it, if there is one."""
        places = [point.place for point in _points_of(self.flow)]
        for row in TOLERANCES:
            if (row.service, row.input) == (self.flow.service, self.flow.input):
                first, last = places.index(row.first), places.index(row.last)
                if first <= places.index(self.place) <= last:
                    return row
        return None


def _points_of(flow: Flow) -> list[Point]:
    every = [Point(flow, side, boundary) for boundary in flow.boundaries.split() for side in SIDES]
    return [p for p in every if (flow.service, flow.input, p.side, p.boundary) not in UNKNOWABLE]


POINTS: Final[tuple[Point, ...]] = tuple(point for flow in FLOWS for point in _points_of(flow))


def one_side_of_each(points: Sequence[Point]) -> tuple[Point, ...]:
    """Half of them: each boundary is crashed at on one side, in turn before it and after it."""
    sides: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        sides.setdefault((point.flow.service, point.flow.input, point.boundary), []).append(point)
    return tuple(both[number % len(both)] for number, both in enumerate(sides.values()))


# Where a bridge that is only slow, and was taken for dead, would buy or tell what another has bought or told.
FREEZES: Final = ("after begin", "before spawn", "after spawn", "after note", "after answer", "before record")
MODAL_POINTS: Final[tuple[Point, ...]] = tuple(point for flow in MODAL_FLOWS for point in _points_of(flow))
STOPPING_POINTS: Final = tuple(p for p in MODAL_POINTS if p.flow.scenario == "stopped")
FREEZING_POINTS: Final = tuple(p for p in MODAL_POINTS if p.flow.scenario == "calm" and p.place in FREEZES)
BY_NAME: Final[Mapping[str, Point]] = {str(point): point for point in (*POINTS, *MODAL_POINTS)}
