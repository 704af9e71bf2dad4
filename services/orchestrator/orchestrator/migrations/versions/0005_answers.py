"""The answers that requests with an Idempotency-Key were given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

SCHEMA = "orchestrator"


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("asker", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text())),
        sa.Column("body", sa.LargeBinary()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("asker", "key", name=op.f("pk_answers")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_answers_created_at"), "answers", ["created_at"], schema=SCHEMA)
