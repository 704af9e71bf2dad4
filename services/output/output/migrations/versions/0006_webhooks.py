"""Webhooks: endpoints, what they are told, what came of it; events of batches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


SCHEMA = "output"
MOMENT = sa.DateTime(timezone=True)


def _secret() -> tuple[sa.Column[object], ...]:
    return (
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("secret_version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("previous_key_id", sa.Text()),
        sa.Column("previous_version", sa.Integer()),
        sa.Column("previous_until", MOMENT),
    )


def _of_webhook(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["webhook_id"], ["output.webhooks.id"], name=f"fk_{name}_webhook_id_webhooks", ondelete="CASCADE"
    )


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("disabled_code", sa.Text()),
        sa.Column("disabled_at", MOMENT),
        sa.Column("failing_since", MOMENT),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rest_until", MOMENT),
        sa.Column("lease_owner", sa.Uuid()),
        sa.Column("leased_until", MOMENT),
        sa.Column("created_at", MOMENT, server_default=sa.func.now(), nullable=False),
        *_secret(),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
        sa.CheckConstraint("kind IN ('own', 'batch')", name="ck_webhooks_kind"),
        sa.CheckConstraint("(disabled_at IS NULL) = enabled", name="ck_webhooks_disabled_at"),
        schema=SCHEMA,
    )
    op.create_index("ix_webhooks_page", "webhooks", ["tenant", "created_at", "id"], schema=SCHEMA)
    op.create_index(
        "uq_webhooks_batch_url",
        "webhooks",
        ["tenant", "url"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("kind = 'batch'"),
    )
    op.create_table(
        "batch_secrets",
        sa.Column("tenant", sa.Text(), nullable=False),
        *_secret(),
        sa.PrimaryKeyConstraint("tenant", name="pk_batch_secrets"),
        schema=SCHEMA,
    )
    op.create_table(
        "deliveries",
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("due_at", MOMENT),
        sa.Column("created_at", MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.PrimaryKeyConstraint("webhook_id", "message_id", name="pk_deliveries"),
        sa.UniqueConstraint("webhook_id", "n", name="uq_deliveries_webhook_id_n"),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="ck_deliveries_status"),
        sa.CheckConstraint("(due_at IS NOT NULL) = (status = 'pending')", name="ck_deliveries_due_at"),
        sa.CheckConstraint("(ended_at IS NULL) = (status = 'pending')", name="ck_deliveries_ended_at"),
        _of_webhook("deliveries"),
        schema=SCHEMA,
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["webhook_id", "due_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_deliveries_ended", "deliveries", ["ended_at"], schema=SCHEMA)
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("status_code", sa.Integer()),
        sa.Column("code", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        _of_webhook("attempts"),
        schema=SCHEMA,
    )
    op.create_index("ix_attempts_webhook_id_message_id", "attempts", ["webhook_id", "message_id"], schema=SCHEMA)
    op.create_index("ix_attempts_at", "attempts", ["at"], schema=SCHEMA)
    op.alter_column("events", "job_id", nullable=True, schema=SCHEMA)
    op.add_column("events", sa.Column("batch_id", sa.Uuid()), schema=SCHEMA)
    op.create_check_constraint("ck_events_whose", "events", "job_id IS NOT NULL OR batch_id IS NOT NULL", schema=SCHEMA)
    op.create_index(
        "ix_events_batch",
        "events",
        ["batch_id", "id"],
        schema=SCHEMA,
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
