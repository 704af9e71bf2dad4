"""Drafts of styles, whose photos are uploads without a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

SCHEMA = "ingest"


def upgrade() -> None:
    op.alter_column("uploads", "job_id", nullable=True, schema=SCHEMA)
    op.create_table(
        "drafts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("claim", sa.Uuid()),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("upload_id", sa.Uuid()),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("state IN ('open', 'packing', 'trained')", name=op.f("ck_drafts_state_known")),
        sa.CheckConstraint("(state = 'packing') = (claim IS NOT NULL)", name=op.f("ck_drafts_claimed_while_packing")),
        sa.CheckConstraint("(claim IS NULL) = (claimed_until IS NULL)", name=op.f("ck_drafts_claimed_for_a_while")),
        sa.CheckConstraint("(state = 'trained') = (job_id IS NOT NULL)", name=op.f("ck_drafts_trained_by_a_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drafts")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_drafts_expires_at"), "drafts", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "draft_photos",
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.Text()),
        sa.Column("looked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("role IN ('before', 'after')", name=op.f("ck_draft_photos_role_known")),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["ingest.uploads.id"], name=op.f("fk_draft_photos_upload_id_uploads"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["draft_id"], ["ingest.drafts.id"], name=op.f("fk_draft_photos_draft_id_drafts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("upload_id", name=op.f("pk_draft_photos")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_draft_photos_draft_id"), "draft_photos", ["draft_id"], schema=SCHEMA)
