"""Upload grants, what tenants have brought, and how fast they bring it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"

SCHEMA = "ingest"


def upgrade() -> None:
    for table in ("uploads", "transfers"):
        op.add_column(table, sa.Column("grant_id", sa.Uuid()), schema=SCHEMA)
    op.create_table(
        "grants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("bytes_max", sa.BigInteger(), nullable=False),
        sa.Column("media_types", sa.ARRAY(sa.Text())),
        sa.Column("fields", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("open_fields", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("made_by", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("used BETWEEN 0 AND files", name=op.f("ck_grants_used_no_more_than_allowed")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_grants_expires_at"), "grants", ["expires_at"], schema=SCHEMA)
    op.create_table(
        "usage",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("files >= 0 AND bytes >= 0", name=op.f("ck_usage_not_negative")),
        sa.PrimaryKeyConstraint("tenant", "period", name=op.f("pk_usage")),
        schema=SCHEMA,
    )
    op.create_table(
        "buckets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("full_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_buckets")),
        schema=SCHEMA,
        prefixes=["UNLOGGED"],
    )
    op.execute(
        "INSERT INTO ingest.usage (tenant, period, files, bytes) "
        "SELECT tenant, 'stored', count(*), sum(size) FROM ingest.uploads GROUP BY tenant"
    )
    # Whoever deletes an upload, and however: what is stored is counted down.
    op.execute(
        "CREATE FUNCTION ingest.count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE ingest.usage SET files = greatest(0, files - 1), bytes = greatest(0, bytes - OLD.size) "
        "WHERE tenant = OLD.tenant AND period = 'stored'; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER count_deleted AFTER DELETE ON ingest.uploads "
        "FOR EACH ROW EXECUTE FUNCTION ingest.count_deleted()"
    )
