"""What jobs have cost: the billed epochs of their calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

SCHEMA = "output"


def upgrade() -> None:
    op.create_table(
        "costs",
        sa.Column("call", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("billed_s", sa.Float(), nullable=False),
        sa.Column("cost", sa.Float()),
        sa.Column("currency", sa.Text()),
        sa.Column("priced_on", sa.Date()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("call", "epoch", name="pk_costs"),
        sa.CheckConstraint("(cost IS NULL) = (currency IS NULL)", name="ck_costs_priced"),
        schema=SCHEMA,
    )
    op.create_index("ix_costs_job_id", "costs", ["job_id"], schema=SCHEMA)
