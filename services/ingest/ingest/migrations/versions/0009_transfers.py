"""Files that come in pieces, over several requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"

SCHEMA = "ingest"


def upgrade() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("way", sa.Text(), nullable=False),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("offset", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("parts_id", sa.Text()),
        sa.Column("part_bytes", sa.BigInteger()),
        sa.Column("tags", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("rest_key", sa.Text()),
        sa.Column("metadata", sa.Text()),
        sa.Column("concat", sa.Text()),
        sa.Column("state", sa.Text(), server_default=sa.text("'open'"), nullable=False),
        sa.Column("code", sa.Text()),
        sa.Column("upload_id", sa.Uuid()),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("lease", sa.Uuid()),
        sa.Column("leased_until", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("way IN ('tus', 'session')", name=op.f("ck_transfers_way")),
        sa.CheckConstraint("state IN ('open', 'complete', 'refused', 'expired')", name=op.f("ck_transfers_state")),
        sa.CheckConstraint('size > 0 AND "offset" BETWEEN 0 AND size', name=op.f("ck_transfers_offset_within")),
        sa.CheckConstraint("(state = 'refused') = (code IS NOT NULL)", name=op.f("ck_transfers_refused_with_a_code")),
        sa.CheckConstraint(
            "upload_id IS NULL OR state = 'complete'", name=op.f("ck_transfers_upload_of_what_is_complete")
        ),
        sa.CheckConstraint("job_id IS NULL OR upload_id IS NOT NULL", name=op.f("ck_transfers_job_of_an_upload")),
        sa.CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name=op.f("ck_transfers_leased_until_when")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_transfers_expires_at"), "transfers", ["expires_at"], schema=SCHEMA)
    op.create_index(
        op.f("ix_transfers_tenant_concat"),
        "transfers",
        ["tenant", "concat"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("concat LIKE 'final%'"),
    )
