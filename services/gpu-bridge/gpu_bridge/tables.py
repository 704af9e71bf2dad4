"""What the gpu-bridge owns: the ledger of calls."""

from __future__ import annotations

from typing import Final

from sqlalchemy import CheckConstraint, Column, DateTime, Index, Integer, Table, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import JSONB

from gpu_bridge.call import State
from runtime.outbox import outbox_table
from runtime.postgres import schema_metadata

SCHEMA: Final = "gpu_bridge"
METADATA: Final = schema_metadata(SCHEMA)


def _any_of(*states: State) -> str:
    return f"state IN ({', '.join(repr(str(state)) for state in states)})"


_OPEN: Final = _any_of(*(state for state in State if not state.is_terminal))
_ENDED: Final = _any_of(*(state for state in State if state.is_terminal))
_LEASED: Final = _any_of(State.RUNNING, State.STOPPING)
_WITH_CODE: Final = _any_of(State.FAILED, State.DEFERRED)

CALLS: Final = Table(
    "calls",
    METADATA,
    Column("key", Text, primary_key=True),  # job.phase[.item].attempt
    Column("function", Text),  # null with tenant and command: stopped before the command came
    Column("tenant", Text),
    Column("command", JSONB),  # contracts.phases.RunPhase
    Column("traceparent", Text),
    Column("state", Text, nullable=False),
    Column("provider", Text),
    Column("handle", Text),  # what the provider gave for the newest submission
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("leased_by", Uuid),
    Column("lease_until", DateTime(timezone=True)),
    Column("code", Text),  # of a failed or deferred call
    Column("engine", Text),  # of a succeeded call
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint(_any_of(*State), name="state_known"),
    CheckConstraint(f"({_ENDED}) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint(f"({_LEASED}) = (lease_until IS NOT NULL)", name="running_has_a_lease"),
    CheckConstraint(f"({_WITH_CODE}) = (code IS NOT NULL)", name="failed_has_a_code"),
    CheckConstraint(
        "state = 'cancelled' OR (function IS NOT NULL AND tenant IS NOT NULL AND command IS NOT NULL)",
        name="only_cancelled_without_command",
    ),
    Index("ix_calls_free", "created_at", postgresql_where=text(_OPEN)),
)

OUTBOX: Final = outbox_table(METADATA)
