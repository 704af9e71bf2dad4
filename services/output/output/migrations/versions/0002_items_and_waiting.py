"""Items of phases; what a job waits for, its deadline, its batch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


SCHEMA = "output"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("pinned_revision", sa.Integer(), server_default="0", nullable=False), schema=SCHEMA)
    op.add_column("jobs", sa.Column("waiting_on", sa.Text()), schema=SCHEMA)
    op.add_column("jobs", sa.Column("deadline", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.add_column("jobs", sa.Column("batch_id", sa.Uuid()), schema=SCHEMA)
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["batch_id", "created_at", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.add_column("phases", sa.Column("item", sa.Text(), server_default="", nullable=False), schema=SCHEMA)
    op.add_column(
        "phases", sa.Column("reset_revision", sa.Integer(), server_default="0", nullable=False), schema=SCHEMA
    )
    op.drop_constraint("pk_phases", "phases", schema=SCHEMA)
    op.create_primary_key("pk_phases", "phases", ["job_id", "name", "item"], schema=SCHEMA)
