"""The law of a call: every state that the ledger can hold, and how one follows another.

Pure. A call is one piece of GPU work, named by what it is: the same function on the same inputs
with the same parameters is the same call, whoever asks for it and how often. Commands follow
calls; a call that succeeded answers whoever comes later. Each paid try is an epoch, and the next
one begins only when the last is seen to be over, or was kept from ever starting by a void claim:

    written before it is bought       LEASE commits SUBMITTING and the epoch, then the provider is asked
    bought once                       the function claims the epoch first; whoever comes second does no work
    ended once                        every end is one guarded update by whoever holds the lease
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from contracts.artifacts import Artifact
from contracts.envelope import ItemResult, Progress
from contracts.errors import error
from contracts.phases import Facts, PhaseDeferred, PhaseFailed, PhaseSucceeded, RunPhase
from gpu_bridge.catalog import Clocks, Function


class State(StrEnum):
    """Where a call stands. The endings are a job's, and `deferred`."""

    QUEUED = "queued"  # in the ledger; nothing of its next epoch is bought
    SUBMITTING = "submitting"  # an epoch is begun; the provider was asked, or is about to be, and has not answered
    RUNNING = "running"  # the provider has it, under a handle
    STOPPING = "stopping"  # the provider was asked to stop it; it is not yet seen to be over
    SUCCEEDED = "succeeded"  # its result is kept and answers whoever asks again
    FAILED = "failed"  # its last epoch ended badly
    DEFERRED = "deferred"  # no provider took it, nothing was bought
    CANCELLED = "cancelled"  # nobody waits for it any more

    @property
    def is_terminal(self) -> bool:
        return self not in (State.QUEUED, State.SUBMITTING, State.RUNNING, State.STOPPING)


class Move(StrEnum):
    """What happens to a call."""

    LEASE = "lease"  # an epoch begins: somebody is about to submit it
    ACCEPT = "accept"  # the provider has given a handle, or the claim tells of one
    RETURN = "return"  # nothing was bought, or can be any more: another provider, or later
    SUCCEED = "succeed"
    FAIL = "fail"
    DEFER = "defer"
    STOP = "stop"  # nobody waits for it any more, or a clock of it has run out
    CANCEL = "cancel"  # it is over, or nothing of it was begun, and nobody waits
    AGAIN = "again"  # a command asks for it after its end


# fmt: off
TRANSITIONS: Final[dict[tuple[State, Move], State]] = {
    (State.QUEUED,     Move.LEASE):   State.SUBMITTING,
    (State.QUEUED,     Move.FAIL):    State.FAILED,      # its time ran out, or nobody may do it
    (State.QUEUED,     Move.DEFER):   State.DEFERRED,
    (State.QUEUED,     Move.CANCEL):  State.CANCELLED,
    (State.SUBMITTING, Move.ACCEPT):  State.RUNNING,
    (State.SUBMITTING, Move.RETURN):  State.QUEUED,
    (State.SUBMITTING, Move.SUCCEED): State.SUCCEEDED,   # the result was there before the answer
    (State.SUBMITTING, Move.FAIL):    State.FAILED,
    (State.SUBMITTING, Move.STOP):    State.STOPPING,
    (State.RUNNING,    Move.RETURN):  State.QUEUED,      # never started, or gone with its bridge
    (State.RUNNING,    Move.SUCCEED): State.SUCCEEDED,
    (State.RUNNING,    Move.FAIL):    State.FAILED,
    (State.RUNNING,    Move.STOP):    State.STOPPING,
    (State.STOPPING,   Move.RETURN):  State.QUEUED,      # over, and a command has asked for it meanwhile
    (State.STOPPING,   Move.SUCCEED): State.SUCCEEDED,   # it was faster than the request to stop
    (State.STOPPING,   Move.FAIL):    State.FAILED,      # over; a clock was why
    (State.STOPPING,   Move.CANCEL):  State.CANCELLED,   # over; nobody waits
    **{(ended, Move.AGAIN): State.QUEUED for ended in State if ended.is_terminal},
}
# fmt: on

LEASED: Final = (State.SUBMITTING, State.RUNNING, State.STOPPING)


def after(state: State, move: Move) -> State:
    """The state after a move. Raises KeyError for a move that the table does not allow."""
    return TRANSITIONS[state, move]


@dataclass(slots=True)
class Call:
    """One call as the process sees it that holds its lease. Some hundred bytes: thousands are watched at once.

    `key` with `epoch` and `leased_by` names this lease. `spawned_at` is when the epoch was begun,
    `started_at` when the function claimed it. `code` says why it is being stopped, if a clock did. `sensitive`:
    only whom its tenant's policy allows may do it. `sealed`: the key under which its outputs are.
    """

    key: str
    epoch: int
    leased_by: UUID
    function: str
    tenant: str
    state: State
    provider: str
    handle: str | None
    deadline: datetime
    spawned_at: datetime
    started_at: datetime | None = None
    code: str | None = None
    sensitive: bool = False
    sealed: str | None = None

    @property
    def prefix(self) -> str:
        """Where everything of this epoch lies."""
        return f"calls/{self.tenant}/{self.key}/{self.epoch}"

    @property
    def checkpoint(self) -> str:
        """Where long work keeps what it goes on from: the next epoch finds it too."""
        return f"calls/{self.tenant}/{self.key}/checkpoint"


# -- names ----------------------------------------------------------------------------------------

CLAIM, PROGRESS, RESULT = "claim.json", "progress.json", "result.json"


def idempotency_key(command: RunPhase, function: Function) -> str:
    """What a call is called: sha256 over all that its result depends on, and over who may do it.

    Tenant, function and version, parameters as canonical JSON, hashes of the inputs that the
    function reads. Who may do it is in it, and that it is sensitive if it is, so that work which must
    stay at home never follows work that went out; and the key of sealed work, so that its result belongs
    to that key's work alone.

    Raises:
        SafelightError: OBJECT_MISSING when the command lacks an input.
    """
    inputs = {}
    for role in function.inputs:
        if role not in command.inputs:
            raise error("OBJECT_MISSING", f"the command names no object for the role {role}")
        inputs[role] = command.inputs[role].sha256
    work: dict[str, Any] = {
        "tenant": command.tenant,
        "function": function.label,
        "parameters": command.parameters,
        "inputs": inputs,
        "engine": command.engine,
        "providers": sorted(command.providers),
    }
    if command.sensitive:
        work["sensitive"] = True
    if (key := sealed_under(command)) is not None:
        work["sealed"] = key
    text = json.dumps(work, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# -- clocks ---------------------------------------------------------------------------------------


def overdue(
    clocks: Clocks,
    calls: int,
    spawned_at: datetime,
    started_at: datetime | None,
    heard_at: datetime | None,
    deadline: datetime,
    now: datetime,
) -> str | None:
    """The code of the clock that has run out for a submission of so many calls, or None.

    start   from the submission to the first claim
    stall   from the last sign of progress, once started
    run     from the first claim, for each call
    whole   the deadline of whoever waits longest
    """
    if started_at is None:
        if now >= spawned_at + timedelta(seconds=clocks.start_s):
            return "CALL_START_DEADLINE"
    elif now >= started_at + timedelta(seconds=clocks.run_s * calls):
        return "CALL_RUN_DEADLINE"
    elif now >= (heard_at or started_at) + timedelta(seconds=clocks.stall_s):
        return "CALL_STALLED"
    return "CALL_DEADLINE" if now >= deadline else None


def must_end_by(clocks: Clocks, calls: int, deadline: datetime, now: datetime) -> datetime:
    """When a submission of now ends by itself, and its links die: no later than whoever waits does."""
    return min(deadline, now + timedelta(seconds=clocks.start_s + clocks.run_s * calls))


# -- outcomes -------------------------------------------------------------------------------------

Outcome = PhaseSucceeded | PhaseFailed | PhaseDeferred
_NOBODY: Final[Mapping[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Kept:
    """What the ledger keeps of a success: all that an outcome says, but for whose it is."""

    artifacts: tuple[Artifact, ...]
    facts: dict[str, Any]
    engine: str
    degraded: bool


def about(command: RunPhase) -> dict[str, Any]:
    """The fields that name the attempt in each of its outcomes."""
    return command.model_dump(include={"job_id", "phase", "item", "attempt"})


def succeeded(command: RunPhase, kept: Kept, started_at: datetime, ended_at: datetime) -> PhaseSucceeded:
    """The outcome of a call that ended well, for one command that follows it."""
    return PhaseSucceeded(
        **about(command),
        artifacts=list(kept.artifacts),
        facts=kept.facts,
        engine=kept.engine,
        degraded=kept.degraded,
        started_at=started_at,
        ended_at=ended_at,
    )


def failed(command: RunPhase, code: str, detail: str, started_at: datetime | None, ended_at: datetime) -> PhaseFailed:
    """The outcome of a call that ended badly."""
    return PhaseFailed(**about(command), code=code, detail=detail, started_at=started_at, ended_at=ended_at)


def deferred(command: RunPhase, provider: str, code: str, until: datetime, at: datetime) -> PhaseDeferred:
    """The outcome of a call that nobody takes now."""
    return PhaseDeferred(**about(command), provider=provider, code=code, until=until, at=at)


def alike(command: RunPhase, function: Function) -> str:
    """What calls that travel together have in common. Sensitive: one tenant; sealed: one key."""
    apart = ["sensitive", command.tenant] if command.sensitive else []
    if (key := sealed_under(command)) is not None:
        apart += ["sealed", key]
    return "|".join([*apart, *(command.inputs[role].sha256 for role in function.alike)])


def sealed_under(command: RunPhase) -> str | None:
    """The key of the original that the work is about: all that is made of it is sealed under it. None: of open work."""
    original = command.inputs.get("original")
    return original.sealed if original else None


BARRED: Final = "providers_barred"  # the fact that says who was passed over for a policy, and why


def kept(
    call: Call, function: Function, item: ItemResult, engine: str, device: str, barred: Mapping[str, str] = _NOBODY
) -> Kept:
    """What is kept of a provider's answer. `barred`: who was not asked for the tenant's policy, and why.

    Raises:
        SafelightError: ANSWER_INVALID when it names other objects than it was asked to write: a
            provider is no authority on keys, and one that names another object would have us hand it out.
    """
    wanted = output_keys(call.prefix, function)
    if {role: stored.key for role, stored in item.outputs.items()} != wanted:
        raise error("ANSWER_INVALID", "the provider's answer names other objects than it was asked to write")
    artifacts = tuple(
        Artifact(name=function.outputs[role], sealed=call.sealed, **stored.model_dump())
        for role, stored in item.outputs.items()
    )
    degraded = device == "cpu" and function.wants_gpu
    facts = item.facts | {BARRED: dict(barred)} if barred and degraded else item.facts
    return Kept(artifacts, facts, engine, degraded)


NUMBERS_MAX: Final = 16  # facts of a progress mark that travel in a message


def numbers(told: Progress) -> Facts:
    """Of what a call tells of itself the numbers: a provider's text has no business in our messages."""
    found = {name: value for name, value in told.facts.items() if isinstance(value, int | float) and len(name) <= 64}
    return dict(list(found.items())[:NUMBERS_MAX])


def shown(call: Call, function: Function, told: Progress) -> tuple[Artifact, ...]:
    """What a call has shown before its end, where it was asked to write it; anything else is not handed out."""
    wanted = output_keys(call.prefix, function)
    return tuple(
        Artifact(name=function.outputs[role], sealed=call.sealed, **stored.model_dump())
        for role, stored in told.outputs.items()
        if wanted.get(role) == stored.key
    )


def output_keys(prefix: str, function: Function) -> dict[str, str]:
    """Where each output of an epoch lies, by role."""
    return {role: f"{prefix}/{name}" for role, name in function.outputs.items()}
