"""What output owns: the readable picture of every job, projected from events.

Rows can be rebuilt from the events as long as the stream keeps them; the orchestrator decides,
this schema only shows.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from runtime.idempotency import answers_table
from runtime.inbox import inbox_table
from runtime.postgres import schema_metadata

SCHEMA: Final = "output"
METADATA: Final = schema_metadata(SCHEMA)

JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("upload_id", Uuid, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("pipeline_version", Integer),
    Column("status", Text, nullable=False),
    Column("degraded", Boolean, nullable=False, server_default=false()),
    Column("revision", Integer, nullable=False),  # of the newest job event that was projected; 0 before the first
    Column("trace_id", Text),
    Column("original", JSONB),  # contracts.artifacts.ObjectRef of the upload
    Column("phase_names", JSONB, nullable=False),  # in the pipeline's order
    Column("error", JSONB),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True)),
    Column("ended_at", DateTime(timezone=True)),
    Column("pinned_revision", Integer, nullable=False, server_default="0"),  # that told version and phase_names
    Column("waiting_on", Text),  # why nothing of it runs now, in words
    Column("deadline", DateTime(timezone=True)),  # null when it has ended
    Column("batch_id", Uuid),
    Column("options", JSONB),  # what its caller asked for
    Column("edit_of", Uuid),  # the job of which this is another version
    Column("version", Integer, nullable=False, server_default="1"),  # of its upload
    Index("ix_jobs_page", "tenant", "created_at", "id"),
    Index("ix_jobs_batch", "batch_id", "created_at", "id", postgresql_where=text("batch_id IS NOT NULL")),
    Index("ix_jobs_versions", "upload_id", "version"),
)

PHASES: Final = Table(
    "phases",
    METADATA,
    Column("job_id", Uuid, ForeignKey(JOBS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("item", Text, primary_key=True, server_default=""),  # "" is the phase itself
    Column("revision", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("progress", Float),
    Column("state", JSONB, nullable=False),  # the newest contracts.jobs.PhaseChange
    # Of the newest decision by which the phase began anew: what older ones told of its items does not count any more.
    Column("reset_revision", Integer, nullable=False, server_default="0"),
    # Facts and artifacts of the attempt that runs, as it told them last; null when it has told none, or is over.
    Column("hint", JSONB, nullable=False, server_default="null"),
)

EVENTS: Final = Table(
    "events",  # what a reader of one job's stream is told, in the order in which it was projected
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    Index(None, "job_id", "id"),
)

INBOX: Final = inbox_table(METADATA)
ANSWERS: Final = answers_table(METADATA)
