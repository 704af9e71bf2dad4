"""Which job is another version of which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


SCHEMA = "output"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("edit_of", sa.Uuid()), schema=SCHEMA)
    op.add_column("jobs", sa.Column("version", sa.Integer(), server_default="1", nullable=False), schema=SCHEMA)
    op.create_index("ix_jobs_versions", "jobs", ["upload_id", "version"], schema=SCHEMA)
