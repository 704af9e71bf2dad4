"""Erasures with their receipts, legal holds, retention; jobs are found by the upload and the subject they are about."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE orchestrator.jobs ADD COLUMN upload_id uuid, ADD COLUMN subject text")
    op.execute(
        "UPDATE orchestrator.jobs SET upload_id = (state->>'upload_id')::uuid, subject = state->'options'->>'subject'"
    )
    op.execute("ALTER TABLE orchestrator.jobs ALTER COLUMN upload_id SET NOT NULL")
    op.execute("CREATE INDEX ix_jobs_upload ON orchestrator.jobs (upload_id)")
    op.execute("CREATE INDEX ix_jobs_subject ON orchestrator.jobs (tenant, subject) WHERE subject IS NOT NULL")
    op.execute("CREATE INDEX ix_jobs_kept ON orchestrator.jobs (tenant, ended_at) WHERE ended_at IS NOT NULL")
    op.execute(
        "CREATE TABLE orchestrator.erasures (id uuid NOT NULL, tenant text NOT NULL, target text NOT NULL, "
        "target_id text NOT NULL, by text NOT NULL, reason text NOT NULL, state text NOT NULL, jobs uuid[] NOT NULL, "
        "uploads uuid[] NOT NULL, since timestamptz NOT NULL, erased jsonb NOT NULL DEFAULT '{}', "
        "requested_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz, receipt jsonb, signature text, "
        "CONSTRAINT pk_erasures PRIMARY KEY (id), "
        "CONSTRAINT ck_erasures_target_known CHECK (target IN ('upload', 'batch', 'subject', 'retention')), "
        "CONSTRAINT ck_erasures_state_known CHECK (state IN ('stopping', 'erasing', 'scrubbing', 'succeeded')), "
        "CONSTRAINT ck_erasures_ended_when_succeeded CHECK ((state = 'succeeded') = (ended_at IS NOT NULL)), "
        "CONSTRAINT ck_erasures_ended_with_a_receipt CHECK ((ended_at IS NULL) = (receipt IS NULL) "
        "AND (receipt IS NULL) = (signature IS NULL)))"
    )
    op.execute("CREATE INDEX ix_erasures_page ON orchestrator.erasures (requested_at, id)")
    op.execute("CREATE INDEX ix_erasures_open ON orchestrator.erasures (requested_at) WHERE ended_at IS NULL")
    op.execute(
        "CREATE TABLE orchestrator.erasure_parts (erasure_id uuid NOT NULL, part integer NOT NULL, room text NOT NULL, "
        "erased jsonb NOT NULL DEFAULT '{}', kept jsonb NOT NULL DEFAULT '{}', done_at timestamptz, "
        "CONSTRAINT pk_erasure_parts PRIMARY KEY (erasure_id, part, room), "
        "CONSTRAINT fk_erasure_parts_erasure_id_erasures FOREIGN KEY (erasure_id) "
        "REFERENCES orchestrator.erasures (id))"
    )
    op.execute(
        "CREATE TABLE orchestrator.holds (id uuid NOT NULL, tenant text NOT NULL, batch_id uuid, upload_id uuid, "
        "reason text NOT NULL, by text NOT NULL, at timestamptz NOT NULL DEFAULT now(), released_by text, "
        "released_at timestamptz, CONSTRAINT pk_holds PRIMARY KEY (id), "
        "CONSTRAINT ck_holds_released_by_somebody CHECK ((released_at IS NULL) = (released_by IS NULL)))"
    )
    op.execute("CREATE INDEX ix_holds_active ON orchestrator.holds (tenant) WHERE released_at IS NULL")
    op.execute(
        "CREATE TABLE orchestrator.retention (tenant text NOT NULL, days integer NOT NULL, by text NOT NULL, "
        "at timestamptz NOT NULL DEFAULT now(), CONSTRAINT pk_retention PRIMARY KEY (tenant), "
        "CONSTRAINT ck_retention_some_days CHECK (days > 0))"
    )
