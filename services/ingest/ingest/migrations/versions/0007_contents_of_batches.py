"""Which batch an upload is in, and that some batches take a content once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = "ingest"


def upgrade() -> None:
    op.add_column("uploads", sa.Column("batch_id", sa.Uuid()), schema=SCHEMA)
    op.add_column("uploads", sa.Column("sole", sa.Boolean(), server_default="false", nullable=False), schema=SCHEMA)
    op.create_check_constraint(
        op.f("ck_uploads_sole_in_a_batch"), "uploads", "NOT sole OR batch_id IS NOT NULL", schema=SCHEMA
    )
    op.create_index(
        "uq_uploads_sole",
        "uploads",
        ["tenant", "batch_id", "sha256"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("sole"),
    )
