"""Calls may be stopped, even before their command comes, and deferred; a submission's handle is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_SCHEMA = "gpu_bridge"
_CHECKS = {
    "state_known": ("state IN ('queued', 'running', 'stopping', 'succeeded', 'failed', 'deferred', 'cancelled')"),
    "ended_when_terminal": ("(state IN ('succeeded', 'failed', 'deferred', 'cancelled')) = (ended_at IS NOT NULL)"),
    "running_has_a_lease": "(state IN ('running', 'stopping')) = (lease_until IS NOT NULL)",
    "failed_has_a_code": "(state IN ('failed', 'deferred')) = (code IS NOT NULL)",
}


def upgrade() -> None:
    op.add_column("calls", sa.Column("handle", sa.Text(), nullable=True), schema=_SCHEMA)
    for column in ("function", "tenant", "command"):
        op.alter_column("calls", column, nullable=True, schema=_SCHEMA)
    for name, condition in _CHECKS.items():
        op.drop_constraint(op.f(f"ck_calls_{name}"), "calls", schema=_SCHEMA, type_="check")
        op.create_check_constraint(op.f(f"ck_calls_{name}"), "calls", condition, schema=_SCHEMA)
    op.create_check_constraint(
        op.f("ck_calls_only_cancelled_without_command"),
        "calls",
        "state = 'cancelled' OR (function IS NOT NULL AND tenant IS NOT NULL AND command IS NOT NULL)",
        schema=_SCHEMA,
    )
    op.drop_index("ix_calls_free", table_name="calls", schema=_SCHEMA)
    op.create_index(
        "ix_calls_free",
        "calls",
        ["created_at"],
        unique=False,
        schema=_SCHEMA,
        postgresql_where=sa.text("state IN ('queued', 'running', 'stopping')"),
    )
