"""Styles as versions of a tenant, and which upload makes one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

SCHEMA = "ingest"


def upgrade() -> None:
    op.add_column("uploads", sa.Column("style_name", sa.Text()), schema=SCHEMA)
    op.create_table(
        "styles",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("objects", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("engine", sa.Text()),
        sa.Column("degraded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        sa.Column("job_revision", sa.Integer()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("version > 0", name=op.f("ck_styles_version_from_1")),
        sa.CheckConstraint("kind IN ('learnt', 'imported', 'built-in')", name=op.f("ck_styles_kind")),
        sa.CheckConstraint("objects ? 'cube'", name=op.f("ck_styles_has_a_cube")),
        sa.CheckConstraint("(kind = 'built-in') = (tenant = '')", name=op.f("ck_styles_built_in_is_everybodys")),
        sa.CheckConstraint("(kind = 'built-in') = (job_id IS NULL)", name=op.f("ck_styles_made_by_a_job")),
        sa.CheckConstraint("(job_id IS NULL) = (job_revision IS NULL)", name=op.f("ck_styles_of_an_ending")),
        sa.PrimaryKeyConstraint("tenant", "name", "version", name=op.f("pk_styles")),
        sa.UniqueConstraint("job_id", "job_revision", name=op.f("uq_styles_job_id_job_revision")),
        schema=SCHEMA,
    )
    op.execute(
        "CREATE FUNCTION ingest.refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'styles are append-only'; END $$"
    )
    for when in ("UPDATE OR DELETE", "TRUNCATE"):
        each = "STATEMENT" if when == "TRUNCATE" else "ROW"
        op.execute(
            f"CREATE TRIGGER append_only_{each.lower()} BEFORE {when} ON ingest.styles "
            f"FOR EACH {each} EXECUTE FUNCTION ingest.refuse_change()"
        )
