"""What the orchestrator owns: its schema. The database refuses nonsense by itself."""

from __future__ import annotations

from typing import Final

from sqlalchemy import CheckConstraint, Column, DateTime, ForeignKey, Index, Integer, Table, Text, Uuid, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from contracts.jobs import Status
from runtime.inbox import inbox_table
from runtime.outbox import outbox_table
from runtime.postgres import schema_metadata

SCHEMA: Final = "orchestrator"
METADATA: Final = schema_metadata(SCHEMA)

_ENDED: Final = ", ".join(f"'{status}'" for status in Status if status.is_terminal)

PIPELINES: Final = Table(
    "pipelines",  # every version that a job ever pinned; never changed
    METADATA,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("definition", JSONB, nullable=False),
    Column("declared_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("pipeline_version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("state", JSONB, nullable=False),  # machine.job.Job
    Column("wake_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint(f"status IN ({', '.join(repr(str(s)) for s in Status)})", name="status_known"),
    CheckConstraint(f"(status IN ({_ENDED})) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint("(wake_at IS NULL) = (ended_at IS NOT NULL)", name="wakes_until_it_ends"),
    Index("ix_jobs_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
)

HISTORY: Final = Table(
    "history",
    METADATA,
    Column("job_id", Uuid, ForeignKey(JOBS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("input", Text, nullable=False),  # e.g. "Succeeded analyze.1"
    Column("effects", ARRAY(Text), nullable=False),  # the message ids that it caused
)

INBOX: Final = inbox_table(METADATA)
OUTBOX: Final = outbox_table(METADATA)
