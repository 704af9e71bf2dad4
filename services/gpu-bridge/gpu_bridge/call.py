"""The law of a call: every state that the ledger can hold, and how one follows another.

Pure. A call is one submitted unit of GPU work for one attempt of one phase. It is written
before anything is submitted, belongs to whoever holds its lease, and ends exactly once:
`record_if_mine` in the store refuses an end by anybody whose lease is gone. Once it was asked
to stop it can only be cancelled: a stop and a success are two updates of one row, and the one
that commits first wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from contracts.artifacts import Artifact
from contracts.envelope import CallResponse, Item, ItemResult
from contracts.errors import error
from contracts.phases import PhaseDeferred, PhaseFailed, PhaseSucceeded, RunPhase
from gpu_bridge.catalog import Function


class State(StrEnum):
    """Where a call stands. The endings are a job's, and `deferred`."""

    QUEUED = "queued"  # in the ledger, nobody runs it
    RUNNING = "running"  # a process holds its lease and a provider has it or gets it
    STOPPING = "stopping"  # asked to stop while it ran; whoever holds its lease tells the provider
    SUCCEEDED = "succeeded"  # its outcome is in the outbox
    FAILED = "failed"  # its outcome is in the outbox
    DEFERRED = "deferred"  # no provider took it, nothing was bought; its outcome is in the outbox
    CANCELLED = "cancelled"  # stopped because nobody waits for it: no outcome

    @property
    def is_terminal(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING, State.STOPPING)


class Move(StrEnum):
    """What happens to a call."""

    LEASE = "lease"  # a free call is taken, or one whose holder fell silent
    SUCCEED = "succeed"
    FAIL = "fail"
    DEFER = "defer"
    STOP = "stop"  # nobody waits for it any more
    CANCEL = "cancel"  # the provider was told, or had nothing of it


# fmt: off
TRANSITIONS: Final[dict[tuple[State, Move], State]] = {
    (State.QUEUED,   Move.LEASE):   State.RUNNING,
    (State.RUNNING,  Move.LEASE):   State.RUNNING,   # only once the lease has run out
    (State.STOPPING, Move.LEASE):   State.STOPPING,  # likewise: to tell the provider, never to run it again
    (State.RUNNING,  Move.SUCCEED): State.SUCCEEDED,
    (State.RUNNING,  Move.FAIL):    State.FAILED,
    (State.RUNNING,  Move.DEFER):   State.DEFERRED,
    (State.QUEUED,   Move.STOP):    State.CANCELLED,
    (State.RUNNING,  Move.STOP):    State.STOPPING,
    (State.STOPPING, Move.CANCEL):  State.CANCELLED,
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Submission:
    """Who has a call, and the provider's own name for it."""

    provider: str
    handle: str


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the ledger, as the process sees it that leased it.

    `key` is `job.phase[.item].attempt`. `leased_by` and `tries`, which counts the leases that were
    given out, name this lease. `submission` is the newest one of whichever lease.
    """

    key: str
    function: str
    command: RunPhase
    traceparent: str | None
    state: State
    leased_by: UUID
    tries: int
    submission: Submission | None


def after(state: State, move: Move) -> State:
    """The state after a move. Raises KeyError for a move that the table does not allow."""
    return TRANSITIONS[state, move]


Outcome = PhaseSucceeded | PhaseFailed | PhaseDeferred


def move_of(result: Outcome) -> Move:
    """The move by which a call gets this outcome."""
    match result:
        case PhaseSucceeded():
            return Move.SUCCEED
        case PhaseFailed():
            return Move.FAIL
        case PhaseDeferred():
            return Move.DEFER


def about(command: RunPhase) -> dict[str, Any]:
    """The fields that name the attempt in each of its outcomes."""
    return command.model_dump(include={"job_id", "phase", "item", "attempt"})


def output_keys(command: RunPhase, function: Function) -> dict[str, str]:
    """Where each output of the attempt lies, by role."""
    return {role: f"{command.prefix}/{name}" for role, name in function.outputs.items()}


def failed(command: RunPhase, code: str, detail: str, started_at: datetime | None, ended_at: datetime) -> PhaseFailed:
    """The outcome of a call that ended badly."""
    return PhaseFailed(**about(command), code=code, detail=detail, started_at=started_at, ended_at=ended_at)


def deferred(command: RunPhase, provider: str, code: str, until: datetime, at: datetime) -> PhaseDeferred:
    """The outcome of a call that nobody takes now."""
    return PhaseDeferred(**about(command), provider=provider, code=code, until=until, at=at)


def outcome(
    command: RunPhase, function: Function, asked: Item, response: CallResponse, started_at: datetime, ended_at: datetime
) -> Outcome:
    """What a provider's answer means for the phase. An answer without the item that was asked for is a lost call.

    Raises:
        SafelightError: MESSAGE_INVALID when the answer names other objects than it was asked to write.
    """
    item = next((result for result in response.items if result.id == asked.id), None)
    problem = response.error or (item.error if item else None)
    if problem is not None:
        return failed(command, problem.code, problem.detail, started_at, ended_at)
    if item is None:
        return failed(command, "CALL_LOST", "the answer lacks the item that was asked for", started_at, ended_at)
    _check_keys(asked, item)
    return PhaseSucceeded(
        **about(command),
        artifacts=[Artifact(name=function.outputs[role], **out.model_dump()) for role, out in item.outputs.items()],
        facts=item.facts,
        engine=response.engine,
        degraded=response.device == "cpu",  # these functions are meant for a GPU: the CPU stands in
        started_at=started_at,
        ended_at=ended_at,
    )


def _check_keys(asked: Item, item: ItemResult) -> None:
    """A provider is no authority on keys: one that names another object would have us hand out that object."""
    wanted = {role: target.key for role, target in asked.outputs.items()}
    if {role: stored.key for role, stored in item.outputs.items()} != wanted:
        raise error("MESSAGE_INVALID", "the provider's answer names other objects than it was asked to write")
