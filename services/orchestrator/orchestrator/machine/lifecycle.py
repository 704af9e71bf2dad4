"""`docs/lifecycle.md` as a text, drawn from the tables that the machine itself goes by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from contracts.jobs import Status
from orchestrator.machine import inputs
from orchestrator.machine.inputs import Input
from orchestrator.machine.job import JOB_TRANSITIONS, TRANSITIONS, Stand
from orchestrator.machine.waiting import OWNERS

# fmt: off
STANDS: Final[dict[Stand, tuple[Status, str]]] = {
    # stands          told as             means
    Stand.BLOCKED:   (Status.QUEUED,    "phases that it needs are not over, or its job is paused"),
    Stand.READY:     (Status.QUEUED,    "it could run, and waits for room"),
    Stand.OUT:       (Status.RUNNING,   "its command is out: a worker has it, or will have it"),
    Stand.BACKOFF:   (Status.RUNNING,   "it waits for the time of its next attempt"),
    Stand.SPREAD:    (Status.RUNNING,   "it fans out, and its items are at work; each item has a stand of its own"),
    Stand.SUCCEEDED: (Status.SUCCEEDED, "over: its artifacts and facts are final"),
    Stand.SKIPPED:   (Status.SKIPPED,   "over: there was nothing to do, or (with a code) it could be done without"),
    Stand.FAILED:    (Status.FAILED,    "over, and its job with it: the caller can fix it"),
    Stand.CANCELLED: (Status.CANCELLED, "over: its job ended before it"),
    Stand.DEAD:      (Status.DEAD,      "over, and its job with it: an operator can replay it"),
}

# fmt: on

_Q, _R, _S, _F, _D, _C = (
    Status.QUEUED,
    Status.RUNNING,
    Status.SUCCEEDED,
    Status.FAILED,
    Status.DEAD,
    Status.CANCELLED,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One input: who gives it, what it does, and what the job may be afterwards (a walk in the tests proves it)."""

    comes_from: str
    does: str
    leaves: tuple[Status, ...]


_WHO: Final = "a tenant or an operator"
INPUTS: Final[dict[type[Input], Row]] = {
    inputs.Begin: Row(
        "an upload that arrived",
        "pins the newest version of the pipeline and begins the phases that need nothing; as another version of an "
        "upload it takes over what the other options change nothing of; an upload that no pipeline takes fails",
        (_Q, _R, _S, _F),
    ),
    inputs.Succeeded: Row(
        "the worker of an attempt",
        "ends the phase or item; whatever waited for it begins or is skipped; the last one ends the job, "
        "and so does a list of items that cannot be used",
        (_R, _S, _F, _D),
    ),
    inputs.Failed: Row(
        "the worker of an attempt, or a command that became a dead letter",
        "another attempt after the wait that `retry` has for the code; after the last one the fallback engine; "
        "after that one `on_failure`: the job ends, or goes on without",
        (_R, _S, _F, _D),
    ),
    inputs.Deferred: Row(
        "gpu-bridge: no provider that may do it takes work",
        "another attempt when the provider takes work again, or the fallback engine at once (`unavailable`); "
        "counts as no failure",
        (_R,),
    ),
    inputs.Progressed: Row("the worker of an attempt", "renews the lease of a phase that has one (`stall_s`)", (_R,)),
    inputs.Admitted: Row(
        "admission, when room became free",
        "commands go out for units that waited for room, as many as there is room for",
        (_R,),
    ),
    inputs.TimeReached: Row(
        "the timer, at the job's `wake_at`",
        "does whatever is due: next attempts, deadlines and leases that ended (the attempt is asked to stop and counts "
        "as failed), the end of a pause, the job's own deadline and expiry",
        (_Q, _R, _S, _D),
    ),
    inputs.Cancel: Row(_WHO, "ends the job; what runs is asked to stop, and its late outcome is ignored", (_C,)),
    inputs.Pause: Row(
        _WHO,
        "no more commands; what waits for room leaves the line; the job's clock stands still; what is out goes on",
        (_Q, _R),
    ),
    inputs.Resume: Row(_WHO, "the job goes on where it stood, with the time that it had left", (_Q, _R)),
    inputs.Retry: Row(
        f"{_WHO}; a replay of dead letters",
        "reopens an ended job from a phase on, from the start, or from what went wrong; on the pinned or the newest "
        "version; with edited parameters; what is not done again keeps its artifacts",
        (_Q, _R, _S, _F, _D),
    ),
}

ENDINGS: Final[dict[Status, tuple[str, str]]] = {
    # status: when, dead letter
    _S: (
        "every phase succeeded or was skipped (degraded: at least one by a lesser engine, or not at all)",
        "one for each optional phase or item that gave up",
    ),
    _F: ("a permanent error that the caller can fix", "yes"),
    _D: ("a permanent error that an operator can fix, attempts used up, a deadline, an expiry", "yes"),
    _C: ("somebody asked for it", "no"),
}

_HEAD: Final = """\
# The life of a job

<!-- Drawn from the machine's own tables by `python -m orchestrator.lifecycle`. A test compares; do not edit. -->

`decide(job, input) -> Decision` is the only way in which a job changes (`services/orchestrator/orchestrator/machine/`).
A job pins name, version and definition of its pipeline when it begins. What a phase does, an item of a phase that fans
out does too.
"""

_RULES: Final = """\
## What always holds

- **Fencing.** An outcome counts only for the attempt that is out. Attempts are counted for ever, over retries, replays
  and versions, so that a key `job.phase[.item].attempt` is never used twice.
- **No job waits for ever.** `wake_at` is the earliest moment at which anything of a job is due; the sweep looks for it,
  so that a message that never comes costs time and nothing else.
- **Deadlines.** An attempt has its phase's `deadline_s`, and never more than its job has left. A job has `deadline_s`
  for its work: what it waits for room or for a provider is not taken from it, but ends `expires_s` after its beginning.
- **Optional.** A phase that gives up with `on_failure: skip` or `degrade` is skipped with a code; what needs it goes on
  without. An item takes the items along that follow it in other phases over the same list, and nobody else.
- **Sizes.** A job has at most 1,000 items, over all its phases, and an attempt finds out and makes at most 64 KiB of
  facts and names of artifacts: so no event and no command is larger than a message may be.
- **One event per decision** tells all that it moved. A job that ends as it begins or reopens is told by two; a lease
  that is renewed by none.
"""


def text() -> str:
    """The whole document."""
    parts = [
        _HEAD,
        "## Phases and items\n",
        _diagram(TRANSITIONS, first=Stand.BLOCKED, last=[s for s in Stand if STANDS[s][0].is_terminal]),
        _table(("stand", "told as", "means"), ((s, status, means) for s, (status, means) in STANDS.items())),
        "Every way from one stand to another:\n",
        _table(("from", "to", "because"), _grouped(TRANSITIONS)),
        "## Jobs\n",
        _diagram(JOB_TRANSITIONS, first=Status.QUEUED, last=list(ENDINGS)),
        _table(("from", "to", "because"), _grouped(JOB_TRANSITIONS)),
        "## Why a job waits\n",
        "A job that is not over has at least one of these. `waiting_on` says it in words.\n",
        _table(("stand", "owner", "moves on at the latest"), ((s, *row) for s, row in OWNERS.items())),
        "A blocked phase waits for others of its job, a spread one for its items: those have a row.\n",
        "## What can happen\n",
        _table(
            ("input", "comes from", "what it does", "the job then"),
            ((kind.__name__, row.comes_from, row.does, ", ".join(row.leaves)) for kind, row in INPUTS.items()),
        ),
        "What does not fit the state that it finds (late, twice, of another attempt) is ignored with its reason.\n",
        "## How a job ends\n",
        _table(("status", "when", "dead letter"), ((status, *row) for status, row in ENDINGS.items())),
        "An ended job changes no more, until it is retried or replayed.\n",
        _RULES,
    ]
    return "\n".join(parts)


Rows = Mapping[tuple[Stand, Stand], str] | Mapping[tuple[Status, Status], str]


def _diagram(rows: Rows, first: str, last: Iterable[str]) -> str:
    """A Mermaid state diagram; ways back from the endings meet in one box, so that they are drawn once."""
    over = list(last)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    ways = dict.fromkeys(("again" if a in over else str(a), str(b), cause) for (a, b), cause in rows.items())
    # Mermaid ends a statement at a semicolon.
    lines += [f"    {a} --> {b} : {cause.replace(';', ',')}" for a, b, cause in ways]
    lines += [f"    {ending} --> again" for ending in over]
    return "\n".join([*lines, "```\n"])


def _grouped(rows: Rows) -> Iterable[tuple[str, str, str]]:
    """The rows; those that differ in their beginning or in their end only are one."""
    sources: dict[tuple[str, str], list[str]] = {}
    for (a, b), cause in rows.items():
        sources.setdefault((str(b), cause), []).append(str(a))
    targets: dict[tuple[str, str], list[str]] = {}
    for (target, cause), from_ in sources.items():
        targets.setdefault((", ".join(from_), cause), []).append(target)
    return ((from_, ", ".join(to), cause) for (from_, cause), to in targets.items())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in lines), ""])
