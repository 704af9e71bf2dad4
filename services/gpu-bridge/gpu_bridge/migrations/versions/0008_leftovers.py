"""Calls that were erased are looked after once more, when no provider can write of them any longer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "leftovers",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("after", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_leftovers")),
        schema="gpu_bridge",
    )
    op.create_index(op.f("ix_leftovers_after"), "leftovers", ["after"], schema="gpu_bridge")
