"""What a job's caller asked for; what a phase tells and shows while it runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"


SCHEMA = "output"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("options", JSONB()), schema=SCHEMA)
    op.add_column("phases", sa.Column("hint", JSONB(), server_default="null", nullable=False), schema=SCHEMA)
