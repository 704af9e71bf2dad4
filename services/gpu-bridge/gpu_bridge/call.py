"""The law of a call: every state that the ledger can hold, and how one follows another.

Pure. A call is one submitted unit of GPU work for one attempt of one phase. It is written
before anything is submitted, belongs to whoever holds its lease, and ends exactly once:
`record_if_mine` in the store refuses an end by anybody whose lease is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from contracts.artifacts import Artifact
from contracts.envelope import CallResponse
from contracts.phases import PhaseFailed, PhaseSucceeded, RunPhase
from gpu_bridge.catalog import Function


class State(StrEnum):
    """Where a call stands. The endings are a job's."""

    QUEUED = "queued"  # in the ledger, nobody runs it
    RUNNING = "running"  # a process holds its lease and a provider has it
    SUCCEEDED = "succeeded"  # its outcome is in the outbox
    FAILED = "failed"  # its outcome is in the outbox

    @property
    def is_terminal(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED)


class Move(StrEnum):
    """What happens to a call."""

    LEASE = "lease"  # a free call is taken, or one whose holder fell silent
    SUCCEED = "succeed"
    FAIL = "fail"


# fmt: off
TRANSITIONS: Final[dict[tuple[State, Move], State]] = {
    (State.QUEUED,  Move.LEASE):   State.RUNNING,
    (State.RUNNING, Move.LEASE):   State.RUNNING,  # only once the lease has run out
    (State.RUNNING, Move.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Move.FAIL):    State.FAILED,
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Call:
    """One row of the ledger. `key` is `job.phase.attempt`; `tries` counts the leases that were given out."""

    key: str
    function: str
    command: RunPhase
    traceparent: str | None
    state: State
    tries: int


def after(state: State, move: Move) -> State:
    """The state after a move. Raises KeyError for a move that the table does not allow."""
    return TRANSITIONS[state, move]


Outcome = PhaseSucceeded | PhaseFailed


def failed(command: RunPhase, code: str, detail: str, started_at: datetime | None, ended_at: datetime) -> PhaseFailed:
    """The outcome of a call that ended badly."""
    return PhaseFailed(
        job_id=command.job_id,
        phase=command.phase,
        attempt=command.attempt,
        code=code,
        detail=detail,
        started_at=started_at,
        ended_at=ended_at,
    )


def outcome(
    command: RunPhase, function: Function, response: CallResponse, started_at: datetime, ended_at: datetime
) -> Outcome:
    """What a provider's answer means for the phase. An answer without its one item is a lost call."""
    item = response.items[0] if response.items else None
    problem = response.error or (item.error if item else None)
    if problem is not None:
        return failed(command, problem.code, problem.detail, started_at, ended_at)
    if item is None:
        return failed(command, "CALL_LOST", "the answer holds no item", started_at, ended_at)
    artifacts = [
        Artifact(name=function.outputs[role], **stored.model_dump())
        for role, stored in item.outputs.items()
        if role in function.outputs
    ]
    return PhaseSucceeded(
        job_id=command.job_id,
        phase=command.phase,
        attempt=command.attempt,
        artifacts=artifacts,
        facts=item.facts,
        engine=response.engine,
        degraded=response.device == "cpu",  # these functions are meant for a GPU: the CPU stands in
        started_at=started_at,
        ended_at=ended_at,
    )
