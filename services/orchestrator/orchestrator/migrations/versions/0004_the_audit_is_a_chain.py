"""The audit is a chain, and other rooms tell it what they saw and moved. Lines that are there are chained as they lie.

The same text is hashed as in `contracts.audit.AuditLine.follows`; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

CHAIN = """
CREATE FUNCTION orchestrator.chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    before record;
    told text := '';
    field text;
BEGIN
    -- One at a time, to the end of the transaction: else two lines would follow the same one.
    PERFORM pg_advisory_xact_lock(hashtextextended('orchestrator.audit', 0));
    SELECT id, hash INTO before FROM orchestrator.audit ORDER BY id DESC LIMIT 1;
    NEW.id := coalesce(before.id, 0) + 1;
    FOREACH field IN ARRAY ARRAY[
        NEW.id::text, (extract(epoch FROM NEW.at) * 1000000)::bigint::text, NEW.room, coalesce(NEW.tenant, ''), NEW.who,
        NEW.action, NEW.subject, NEW.why, NEW.details::text]
    LOOP
        told := told || octet_length(field) || ':' || field;
    END LOOP;
    NEW.hash := encode(sha256(convert_to(coalesce(before.hash, repeat('0', 64)) || told, 'UTF8')), 'hex');
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.execute("ALTER TABLE orchestrator.audit RENAME TO audit_before")
    op.execute("ALTER INDEX orchestrator.pk_audit RENAME TO pk_audit_before")
    op.execute("ALTER INDEX orchestrator.ix_audit_subject_id RENAME TO ix_audit_before_subject_id")
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("room", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("told_as", sa.Uuid(), nullable=True),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("told_as", name=op.f("uq_audit_told_as")),
        schema="orchestrator",
    )
    op.create_index(op.f("ix_audit_subject_id"), "audit", ["subject", "id"], schema="orchestrator")
    op.create_index(op.f("ix_audit_tenant_id"), "audit", ["tenant", "id"], schema="orchestrator")
    op.execute(CHAIN)
    op.execute(
        "CREATE TRIGGER chain BEFORE INSERT ON orchestrator.audit FOR EACH ROW EXECUTE FUNCTION orchestrator.chain()"
    )
    op.execute(
        "INSERT INTO orchestrator.audit (at, who, action, subject, why, details, room) "
        "SELECT at, who, action, subject, why, details, 'orchestrator' FROM orchestrator.audit_before ORDER BY id"
    )
    op.execute("DROP TABLE orchestrator.audit_before")
    for when in ("UPDATE OR DELETE", "TRUNCATE"):
        each = "STATEMENT" if when == "TRUNCATE" else "ROW"
        op.execute(
            f"CREATE TRIGGER append_only_{each.lower()} BEFORE {when} ON orchestrator.audit "
            f"FOR EACH {each} EXECUTE FUNCTION orchestrator.refuse_change()"
        )
