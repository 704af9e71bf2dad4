"""A job's row changes on its page; a line of history asks nobody whether its job is there."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("ALTER TABLE orchestrator.jobs SET (fillfactor = 50)")  # for pages to come
    op.execute("ALTER TABLE orchestrator.history DROP CONSTRAINT fk_history_job_id_jobs")
