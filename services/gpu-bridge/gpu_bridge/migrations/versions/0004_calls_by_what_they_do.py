"""A call is named by the work that it is; commands follow it; each paid try is an epoch.

What was under way is queued again under its old name, which no new work can have. What was over
leaves its command behind, so that a redelivery finds it answered.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

_SCHEMA = "gpu_bridge"
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.execute("ALTER TABLE gpu_bridge.calls RENAME TO calls_by_attempt")
    op.execute("ALTER INDEX gpu_bridge.pk_calls RENAME TO pk_calls_by_attempt")
    op.execute("DROP INDEX gpu_bridge.ix_calls_free")
    op.create_table(
        "calls",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("function", sa.Text(), nullable=False),
        sa.Column("function_version", sa.Integer(), nullable=False),
        sa.Column("command", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("alike", sa.Text(), nullable=False),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deadline", _TIME, nullable=False),
        sa.Column("queued_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("refused_by", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("leased_by", sa.Uuid(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("kept", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'submitting', 'running', 'stopping', 'succeeded', 'failed', 'deferred', 'cancelled')",
            name=op.f("ck_calls_state_known"),
        ),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'deferred', 'cancelled')) = (ended_at IS NOT NULL)",
            name=op.f("ck_calls_ended_when_terminal"),
        ),
        sa.CheckConstraint(
            "(state IN ('submitting', 'running', 'stopping')) = (leased_by IS NOT NULL)",
            name=op.f("ck_calls_leased_when_out"),
        ),
        sa.CheckConstraint(
            "NOT (state IN ('failed', 'deferred')) OR code IS NOT NULL", name=op.f("ck_calls_failed_has_a_code")
        ),
        sa.CheckConstraint("(state IN ('succeeded')) = (kept IS NOT NULL)", name=op.f("ck_calls_success_is_kept")),
        sa.CheckConstraint(
            "NOT (state IN ('submitting', 'running', 'stopping')) OR (epoch > 0 AND provider IS NOT NULL)",
            name=op.f("ck_calls_leased_has_an_epoch"),
        ),
        sa.CheckConstraint(
            "NOT (state IN ('running')) OR handle IS NOT NULL", name=op.f("ck_calls_running_has_a_handle")
        ),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_calls")),
        schema=_SCHEMA,
    )
    op.create_index(
        "ix_calls_queued",
        "calls",
        ["function", "queued_at"],
        unique=False,
        schema=_SCHEMA,
        postgresql_where=sa.text("state IN ('queued')"),
    )
    op.create_index(
        "ix_calls_leased",
        "calls",
        ["leased_by"],
        unique=False,
        schema=_SCHEMA,
        postgresql_where=sa.text("state IN ('submitting', 'running', 'stopping')"),
    )
    op.create_table(
        "commands",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("call", sa.Text(), nullable=True),
        sa.Column("command", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'answered', 'stopped')", name=op.f("ck_commands_state_known")),
        sa.CheckConstraint(
            "state <> 'waiting' OR (call IS NOT NULL AND command IS NOT NULL)",
            name=op.f("ck_commands_waiting_for_a_call"),
        ),
        sa.ForeignKeyConstraint(["call"], ["gpu_bridge.calls.key"], name=op.f("fk_commands_call_calls")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_commands")),
        schema=_SCHEMA,
    )
    op.create_index(
        "ix_commands_waiting",
        "commands",
        ["call"],
        unique=False,
        schema=_SCHEMA,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "epochs",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("queued_at", _TIME, nullable=False),
        sa.Column("spawned_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("cold", sa.Boolean(), nullable=True),
        sa.Column("device", sa.Text(), nullable=True),
        sa.Column("run_s", sa.Float(), nullable=True),
        sa.Column("billed_s", sa.Float(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=True),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["call"], ["gpu_bridge.calls.key"], name=op.f("fk_epochs_call_calls")),
        sa.PrimaryKeyConstraint("call", "epoch", name=op.f("pk_epochs")),
        schema=_SCHEMA,
    )
    op.create_index("ix_epochs_spawned_at", "epochs", ["spawned_at"], unique=False, schema=_SCHEMA)
    op.create_table(
        "bridges",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("alive_until", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bridges")),
        schema=_SCHEMA,
    )
    op.create_table(
        "providers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.CheckConstraint("mode IN ('working', 'paused', 'draining')", name=op.f("ck_providers_mode_known")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_providers")),
        schema=_SCHEMA,
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        schema=_SCHEMA,
    )
    op.execute(
        "INSERT INTO gpu_bridge.calls (key, tenant, function, function_version, command, alike, traceparent, state, "
        "epoch, deadline, queued_at) SELECT key, tenant, function, 1, command, '', traceparent, 'queued', 0, "
        "(command->>'deadline')::timestamptz, created_at FROM gpu_bridge.calls_by_attempt "
        "WHERE state IN ('queued', 'running')"
    )
    op.execute(
        "INSERT INTO gpu_bridge.commands (key, call, command, traceparent, state, created_at) "
        "SELECT key, CASE WHEN state IN ('queued', 'running') THEN key END, command, traceparent, "
        "CASE WHEN state IN ('queued', 'running') THEN 'waiting' WHEN state IN ('stopping', 'cancelled') "
        "THEN 'stopped' ELSE 'answered' END, created_at FROM gpu_bridge.calls_by_attempt"
    )
    op.drop_table("calls_by_attempt", schema=_SCHEMA)
