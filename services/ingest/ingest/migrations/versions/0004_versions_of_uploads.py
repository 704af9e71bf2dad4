"""Versions of an upload: which job is an edit of which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SCHEMA = "ingest"


def upgrade() -> None:
    op.create_table(
        "versions",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("upload_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("edit_of", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("version > 1", name=op.f("ck_versions_version_from_2")),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["ingest.uploads.id"], name=op.f("fk_versions_upload_id_uploads"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_versions")),
        sa.UniqueConstraint("upload_id", "version", name=op.f("uq_versions_upload_id_version")),
        schema=SCHEMA,
    )
