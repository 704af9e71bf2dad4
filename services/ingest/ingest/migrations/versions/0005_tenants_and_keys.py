"""Tenants, and API keys by what is no secret of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

SCHEMA = "ingest"


def upgrade() -> None:
    json = postgresql.JSONB(astext_type=sa.Text())
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column("options", json, server_default="{}", nullable=False),
        sa.Column("limits", json, server_default="{}", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'", name=op.f("ck_tenants_name")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_tenants")),
        schema=SCHEMA,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text()),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_by", sa.Text()),
        sa.Column("replaces", sa.Text()),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_keys_sha256_hex")),
        sa.CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name=op.f("ck_keys_revoked_by_somebody")),
        sa.CheckConstraint(
            "cardinality(scopes) > 0 AND scopes <@ CASE WHEN tenant IS NULL "
            "THEN ARRAY['read', 'operate'] ELSE ARRAY['upload', 'read'] END",
            name=op.f("ck_keys_scopes_of_its_kind"),
        ),
        sa.ForeignKeyConstraint(["tenant"], [f"{SCHEMA}.tenants.name"], name=op.f("fk_keys_tenant_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_keys_sha256")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_keys_tenant_created_at"), "keys", ["tenant", "created_at"], schema=SCHEMA)
