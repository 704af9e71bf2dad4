"""Links that work without a key; how long jobs took lately."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

SCHEMA = "output"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "links",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("batch_id", sa.Uuid()),
        sa.Column("artifacts", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("single_use", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT),
        sa.Column("revoked_at", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_links"),
        sa.CheckConstraint("(job_id IS NULL) <> (batch_id IS NULL)", name="ck_links_of_one"),
        schema=SCHEMA,
    )
    for name in ("job_id", "batch_id"):
        op.create_index(
            f"ix_links_{name}", "links", [name], schema=SCHEMA, postgresql_where=sa.text(f"{name} IS NOT NULL")
        )
    op.create_index("ix_links_expires_at", "links", ["expires_at"], schema=SCHEMA)
    op.create_index(
        "ix_jobs_history",
        "jobs",
        ["pipeline", "ended_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("status = 'succeeded'"),
    )
