"""What the gpu-bridge owns: the ledger of calls, who follows them, what each epoch cost, and who is at work."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from gpu_bridge.call import LEASED, State
from runtime.erased import erased_table
from runtime.idempotency import answers_table
from runtime.outbox import outbox_table
from runtime.postgres import schema_metadata

SCHEMA: Final = "gpu_bridge"
METADATA: Final = schema_metadata(SCHEMA)


def _any_of(*states: State) -> str:
    return f"state IN ({', '.join(repr(str(state)) for state in states)})"


_ENDED: Final = _any_of(*(state for state in State if state.is_terminal))
_LEASED: Final = _any_of(*LEASED)

CALLS: Final = Table(
    "calls",
    METADATA,
    Column("key", Text, primary_key=True),  # the idempotency key
    Column("tenant", Text, nullable=False),
    Column("function", Text, nullable=False),
    Column("function_version", Integer, nullable=False),
    Column("command", JSONB, nullable=False),  # contracts.phases.RunPhase: the first that asked for it
    Column("alike", Text, nullable=False),  # what calls that travel together have in common
    Column("traceparent", Text),
    Column("state", Text, nullable=False),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("deadline", DateTime(timezone=True), nullable=False),  # of whoever waits longest
    Column("queued_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("refused_by", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # of this round: not asked again
    Column("provider", Text),
    Column("handle", Text),  # what the provider gave for this epoch
    Column("leased_by", Uuid),  # the bridge that sees to it
    Column("code", Text),  # why it failed, was deferred, or is being stopped
    Column("kept", JSONB(none_as_null=True)),  # call.Kept: of a success
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint(_any_of(*State), name="state_known"),
    CheckConstraint(f"({_ENDED}) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint(f"({_LEASED}) = (leased_by IS NOT NULL)", name="leased_when_out"),
    CheckConstraint(f"NOT ({_any_of(State.FAILED, State.DEFERRED)}) OR code IS NOT NULL", name="failed_has_a_code"),
    CheckConstraint(f"({_any_of(State.SUCCEEDED)}) = (kept IS NOT NULL)", name="success_is_kept"),
    CheckConstraint(f"NOT ({_LEASED}) OR (epoch > 0 AND provider IS NOT NULL)", name="leased_has_an_epoch"),
    CheckConstraint(f"NOT ({_any_of(State.RUNNING)}) OR handle IS NOT NULL", name="running_has_a_handle"),
    Index("ix_calls_queued", "function", "queued_at", postgresql_where=text(_any_of(State.QUEUED))),
    Index("ix_calls_leased", "leased_by", postgresql_where=text(_LEASED)),
)

COMMANDS: Final = Table(
    "commands",
    METADATA,
    Column("key", Text, primary_key=True),  # job.phase[.item].attempt
    Column("call", Text, ForeignKey(CALLS.c.key)),  # null: it was stopped before it came
    Column("command", JSONB(none_as_null=True)),  # contracts.phases.RunPhase
    Column("traceparent", Text),
    Column("state", Text, nullable=False),  # waiting, answered, stopped
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("state IN ('waiting', 'answered', 'stopped')", name="state_known"),
    CheckConstraint("state <> 'waiting' OR (call IS NOT NULL AND command IS NOT NULL)", name="waiting_for_a_call"),
    Index("ix_commands_call", "call"),
    Index("ix_commands_job", text("split_part(key, '.', 1)")),
    Index("ix_commands_waiting", "call", postgresql_where=text("state = 'waiting'")),
)

EPOCHS: Final = Table(
    "epochs",
    METADATA,
    Column("call", Text, ForeignKey(CALLS.c.key), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("handle", Text),
    Column("queued_at", DateTime(timezone=True), nullable=False),  # with spawned_at: the wait in our queue
    Column("spawned_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True)),  # claimed: since spawned_at, the provider's queue and cold start
    Column("ended_at", DateTime(timezone=True)),
    Column("code", Text),  # how it ended: null well, else badly
    Column("cold", Boolean),
    Column("device", Text),  # what was paid for: the GPU's type, or cpu
    Column("run_s", Float),
    Column("billed_s", Float),
    Column("cost", Float),  # in the currency of the terms; null: no price is known
    Column("currency", Text),
    Index("ix_epochs_spawned_at", "spawned_at"),
)

BRIDGES: Final = Table(
    "bridges",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("alive_until", DateTime(timezone=True), nullable=False),
)

PROVIDERS: Final = Table(
    "providers",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("mode", Text, nullable=False),  # working, paused (nothing new), draining (likewise, until nothing is out)
    Column("why", Text, nullable=False),
    Column("by", Text, nullable=False),  # an operator, or "safelight" when it refused our credentials
    Column("at", DateTime(timezone=True), nullable=False),
    CheckConstraint("mode IN ('working', 'paused', 'draining')", name="mode_known"),
)

LEFTOVERS: Final = Table(
    "leftovers",  # calls that were erased, and when no link is alive any more by which a provider could write of them
    METADATA,
    Column("key", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("after", DateTime(timezone=True), nullable=False),
    Index(None, "after"),
)

BATCHES: Final = Table(
    "batches",
    METADATA,
    Column("id", Uuid, primary_key=True),  # providers were asked for capacity for it
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

OUTBOX: Final = outbox_table(METADATA)
ANSWERS: Final = answers_table(METADATA)
ERASED: Final = erased_table(METADATA)
