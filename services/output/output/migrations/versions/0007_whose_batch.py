"""Whose batch an event is of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

SCHEMA = "output"


def upgrade() -> None:
    op.add_column("events", sa.Column("tenant", sa.Text()), schema=SCHEMA)
