"""Batches that were erased are remembered as jobs are."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("ALTER TABLE output.erased RENAME COLUMN job_id TO id")
