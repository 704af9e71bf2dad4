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

_ENDED: Final = ", ".join(f"'{state}'" for state in State if state.is_terminal)

CALLS: Final = Table(
    "calls",
    METADATA,
    Column("key", Text, primary_key=True),  # job.phase.attempt
    Column("function", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("command", JSONB, nullable=False),  # contracts.phases.RunPhase
    Column("traceparent", Text),
    Column("state", Text, nullable=False),
    Column("provider", Text),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("leased_by", Uuid),
    Column("lease_until", DateTime(timezone=True)),
    Column("code", Text),  # of a failed call
    Column("engine", Text),  # of a succeeded call
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint(f"state IN ({', '.join(repr(str(s)) for s in State)})", name="state_known"),
    CheckConstraint(f"(state IN ({_ENDED})) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="running_has_a_lease"),
    CheckConstraint("(state = 'failed') = (code IS NOT NULL)", name="failed_has_a_code"),
    Index("ix_calls_free", "created_at", postgresql_where=text("state IN ('queued', 'running')")),
)

OUTBOX: Final = outbox_table(METADATA)
