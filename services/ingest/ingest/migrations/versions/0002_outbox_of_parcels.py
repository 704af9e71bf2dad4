"""One outbox row per transaction."""

from __future__ import annotations

from alembic import op

from runtime.outbox import migrate_to_parcels

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    migrate_to_parcels(op, "ingest")
