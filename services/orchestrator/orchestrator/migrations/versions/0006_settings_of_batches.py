"""Batches with settings, which can be closed, and which end once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"

SCHEMA = "orchestrator"


def upgrade() -> None:
    for column in (
        sa.Column("pipeline", sa.Text()),
        sa.Column("options", JSONB(), server_default="{}", nullable=False),
        sa.Column("webhook", sa.Text()),
        sa.Column("duplicates", sa.Text(), server_default="keep", nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("closed_seq", sa.BigInteger()),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("batches", column, schema=SCHEMA)
    for name, condition in {
        "duplicates_known": "duplicates IN ('reuse', 'refuse', 'keep')",
        "closed_with_its_place": "(closed_at IS NULL) = (closed_seq IS NULL)",
        "ends_when_closed": "ended_at IS NULL OR closed_at IS NOT NULL",
    }.items():
        op.create_check_constraint(op.f(f"ck_batches_{name}"), "batches", condition, schema=SCHEMA)
    op.create_index(
        "ix_batches_closing",
        "batches",
        ["closed_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("closed_at IS NOT NULL AND ended_at IS NULL"),
    )
