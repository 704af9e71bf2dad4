"""The first tables of orchestrator."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_inbox")),
        schema="orchestrator",
    )
    op.create_index(op.f("ix_inbox_received_at"), "inbox", ["received_at"], unique=False, schema="orchestrator")
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("pipeline_version", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("state", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status IN ('succeeded', 'skipped', 'failed', 'cancelled', 'dead')) = (ended_at IS NOT NULL)",
            name=op.f("ck_jobs_ended_when_terminal"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'skipped', 'failed', 'cancelled', 'dead')",
            name=op.f("ck_jobs_status_known"),
        ),
        sa.CheckConstraint("(wake_at IS NULL) = (ended_at IS NOT NULL)", name=op.f("ck_jobs_wakes_until_it_ends")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        schema="orchestrator",
    )
    op.create_index(
        "ix_jobs_wake_at",
        "jobs",
        ["wake_at"],
        unique=False,
        schema="orchestrator",
        postgresql_where=sa.text("wake_at IS NOT NULL"),
    )
    op.create_table(
        "outbox",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_outbox")),
        schema="orchestrator",
    )
    op.create_index(op.f("ix_outbox_created_at"), "outbox", ["created_at"], unique=False, schema="orchestrator")
    op.create_table(
        "pipelines",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("declared_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_pipelines")),
        schema="orchestrator",
    )
    op.create_table(
        "history",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("effects", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["orchestrator.jobs.id"], name=op.f("fk_history_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "revision", name=op.f("pk_history")),
        schema="orchestrator",
    )
