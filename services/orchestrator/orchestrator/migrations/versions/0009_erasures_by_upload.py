"""Whether an upload was erased is found without reading all erasures: nobody makes another version of it."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("CREATE INDEX ix_erasures_uploads ON orchestrator.erasures USING gin (uploads)")
