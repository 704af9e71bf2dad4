"""The commands of a job are found without reading all others: for its erasure."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("CREATE INDEX ix_commands_job ON gpu_bridge.commands (split_part(key, '.', 1))")
    op.execute("CREATE INDEX ix_commands_call ON gpu_bridge.commands (call)")
