"""Jobs that succeeded with a lesser engine are found without reading all others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index(
        "ix_jobs_degraded",
        "jobs",
        ["ended_at", "id"],
        unique=False,
        schema="orchestrator",
        postgresql_where=sa.text("degraded AND status = 'succeeded'"),
    )
