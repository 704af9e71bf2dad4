"""The whole machine: room and lines, batches, dead letters, replays, the audit; a leaner hot path."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from runtime.outbox import migrate_to_parcels

revision = "0002"
down_revision = "0001"

# A phase of version 1 named the subject of its command; now it names the command.
COMMANDS = {
    "cmd.analysis.v1.run": "analyze",
    "cmd.gpu.v1.run.style": "style",
    "cmd.gpu.v1.run.retouch": "retouch",
    "cmd.gpu.v1.run.cleanup": "cleanup",
    "cmd.render.v1.run.crop": "crop",
    "cmd.render.v1.run.variants": "variants",
    "cmd.bench.v1.run": "noop",
}


def upgrade() -> None:
    _convert()
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        schema="orchestrator",
    )
    op.create_index(op.f("ix_audit_subject_id"), "audit", ["subject", "id"], unique=False, schema="orchestrator")
    op.create_table(
        "batches",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name=op.f("pk_batches")),
        schema="orchestrator",
    )
    op.create_table(
        "replays",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("request", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("rate_per_s", sa.Float(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'cancelled')) = (ended_at IS NOT NULL)",
            name=op.f("ck_replays_ended_when_terminal"),
        ),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'succeeded', 'cancelled')", name=op.f("ck_replays_state_known")
        ),
        sa.CheckConstraint("rate_per_s > 0", name=op.f("ck_replays_has_a_rate")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replays")),
        schema="orchestrator",
    )
    op.create_table(
        "running",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "phase", "tenant", name=op.f("pk_running")),
        schema="orchestrator",
    )
    op.execute(  # what is out under the first version is counted from here on
        "INSERT INTO orchestrator.running (pipeline, phase, tenant, count) "
        "SELECT j.pipeline, p.key, t.tenant, count(*) FROM orchestrator.jobs j, jsonb_each(j.state->'phases') p, "
        "LATERAL (VALUES (''), (j.tenant)) t (tenant) WHERE j.ended_at IS NULL AND p.value->>'deadline' IS NOT NULL "
        "GROUP BY 1, 2, 3"
    )
    op.create_table(
        "waiting_counts",
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("pipeline", "phase", "lane", "tenant", name=op.f("pk_waiting_counts")),
        schema="orchestrator",
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("pipeline", sa.Text(), nullable=True),
        sa.Column("pipeline_version", sa.Integer(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("item", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("headers", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("command", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column("attempts", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("artifacts", postgresql.JSON(astext_type=sa.Text()), nullable=False),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replay_id", sa.Uuid(), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_by", sa.Text(), nullable=True),
        sa.Column("resolved_why", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'open') = (resolved_at IS NULL)", name=op.f("ck_dead_letters_resolved_when_not_open")
        ),
        sa.CheckConstraint(
            "source IN ('permanent', 'exhausted', 'unsettled', 'undeliverable')",
            name=op.f("ck_dead_letters_source_known"),
        ),
        sa.CheckConstraint("state IN ('open', 'replayed', 'discarded')", name=op.f("ck_dead_letters_state_known")),
        sa.ForeignKeyConstraint(
            ["replay_id"], ["orchestrator.replays.id"], name=op.f("fk_dead_letters_replay_id_replays")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dead_letters")),
        schema="orchestrator",
    )
    op.create_index(
        "ix_dead_letters_open_job",
        "dead_letters",
        ["job_id"],
        unique=False,
        schema="orchestrator",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("ix_dead_letters_page", "dead_letters", ["created_at", "id"], unique=False, schema="orchestrator")
    op.create_index(
        "ix_dead_letters_replay",
        "dead_letters",
        ["replay_id"],
        unique=False,
        schema="orchestrator",
        postgresql_where=sa.text("replay_id IS NOT NULL"),
    )
    op.create_table(
        "waiting",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("item", sa.Text(), nullable=False),
        sa.Column("pipeline", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["orchestrator.jobs.id"], name=op.f("fk_waiting_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "phase", "item", name=op.f("pk_waiting")),
        schema="orchestrator",
    )
    op.create_index(
        "ix_waiting_turn",
        "waiting",
        ["pipeline", "phase", "lane", "tenant", "ready_at"],
        unique=False,
        schema="orchestrator",
    )
    op.alter_column(
        "history",
        "effects",
        postgresql_using="to_json(effects)",
        existing_type=postgresql.ARRAY(sa.TEXT()),
        type_=postgresql.JSON(astext_type=sa.Text()),
        existing_nullable=False,
        schema="orchestrator",
    )
    op.add_column("jobs", sa.Column("batch_id", sa.Uuid(), nullable=True), schema="orchestrator")
    op.add_column(
        "jobs",
        sa.Column("degraded", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema="orchestrator",
    )
    op.alter_column(
        "jobs",
        "state",
        postgresql_using="state::json",
        existing_type=postgresql.JSONB(astext_type=sa.Text()),
        type_=postgresql.JSON(astext_type=sa.Text()),
        existing_nullable=False,
        schema="orchestrator",
    )
    op.create_index(
        "ix_jobs_batch",
        "jobs",
        ["tenant", "batch_id", "status"],
        unique=False,
        schema="orchestrator",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_ended",
        "jobs",
        ["pipeline", "ended_at"],
        unique=False,
        schema="orchestrator",
        postgresql_where=sa.text("status = 'succeeded'"),
    )
    migrate_to_parcels(op, "orchestrator")
    op.execute(
        "CREATE FUNCTION orchestrator.refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$"
    )
    for when in ("UPDATE OR DELETE", "TRUNCATE"):
        each = "STATEMENT" if when == "TRUNCATE" else "ROW"
        op.execute(
            f"CREATE TRIGGER append_only_{each.lower()} BEFORE {when} ON orchestrator.audit "
            f"FOR EACH {each} EXECUTE FUNCTION orchestrator.refuse_change()"
        )


def _convert() -> None:
    """Jobs under way and the pipelines that they pin go on in the new shape."""
    conn = op.get_bind()
    rows = conn.execute(sa.text("SELECT name, version, definition FROM orchestrator.pipelines")).all()
    for name, version, definition in rows:
        for phase in definition["phases"]:
            phase["command"] = COMMANDS[phase.pop("channel")]
            phase["retry"] = {"*": phase.pop("backoff_s", [])}
        changed = {"name": name, "version": version, "definition": json.dumps(definition)}
        conn.execute(
            sa.text(
                "UPDATE orchestrator.pipelines SET definition = cast(:definition AS jsonb) "
                "WHERE name = :name AND version = :version"
            ),
            changed,
        )
    op.execute(
        "UPDATE orchestrator.jobs SET state = jsonb_set(state, '{expires_at}', to_jsonb(created_at + interval '1 day'))"
    )
