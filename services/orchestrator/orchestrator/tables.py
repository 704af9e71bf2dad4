"""What the orchestrator owns: its schema. The database refuses nonsense by itself."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from contracts.jobs import Status
from runtime.idempotency import answers_table
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
    Column("batch_id", Uuid),
    Column("status", Text, nullable=False),
    Column("degraded", Boolean, nullable=False, server_default=false()),
    Column("revision", Integer, nullable=False),
    Column("state", JSON, nullable=False),  # machine.job.Job
    Column("wake_at", DateTime(timezone=True)),  # not after the job's own, which is later with most of its decisions
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("ended_at", DateTime(timezone=True)),
    Column("upload_id", Uuid, nullable=False),  # of its state, as the next one: to find it by
    Column("subject", Text),
    CheckConstraint(f"status IN ({', '.join(repr(str(s)) for s in Status)})", name="status_known"),
    CheckConstraint(f"(status IN ({_ENDED})) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint("(wake_at IS NULL) = (ended_at IS NOT NULL)", name="wakes_until_it_ends"),
    Index("ix_jobs_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index("ix_jobs_batch", "tenant", "batch_id", "status", postgresql_where=text("batch_id IS NOT NULL")),
    Index("ix_jobs_ended", "pipeline", "ended_at", postgresql_where=text("status = 'succeeded'")),
    Index("ix_jobs_upload", "upload_id"),
    Index("ix_jobs_subject", "tenant", "subject", postgresql_where=text("subject IS NOT NULL")),
    Index("ix_jobs_kept", "tenant", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index("ix_jobs_degraded", "ended_at", "id", postgresql_where=text("degraded AND status = 'succeeded'")),
    postgresql_with={"fillfactor": 50},  # room on the page for a row's next version: then its indexes stay as they are
)

HISTORY: Final = Table(
    "history",
    METADATA,
    Column("job_id", Uuid, primary_key=True),  # no foreign key: it is written in one statement with the job itself
    Column("revision", Integer, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("input", Text, nullable=False),  # e.g. "Succeeded analyze.1"
    Column("effects", JSON, nullable=False),  # the ids of the messages that it caused
)

RUNNING: Final = Table(
    "running",  # how many commands of a phase are out, by tenant; "" is the sum of all
    METADATA,
    Column("pipeline", Text, primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("count", Integer, nullable=False),
)

WAITING: Final = Table(
    "waiting",  # units for which there was no room, in the order in which they wait
    METADATA,
    Column("job_id", Uuid, ForeignKey(JOBS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("item", Text, primary_key=True),  # "" for a phase itself
    Column("pipeline", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("ready_at", DateTime(timezone=True), nullable=False),
    Index("ix_waiting_turn", "pipeline", "phase", "lane", "tenant", "ready_at"),
)

WAITING_COUNTS: Final = Table(
    "waiting_counts",  # how many rows `waiting` has; counting them would take the longer the more wait
    METADATA,
    Column("pipeline", Text, primary_key=True),
    Column("phase", Text, primary_key=True),
    Column("lane", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("count", Integer, nullable=False),
)

BATCHES: Final = Table(
    "batches",  # made by a request, or by the first job that names it
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, server_default=""),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("pipeline", Text),  # of its uploads, those that name none
    Column("options", JSONB, nullable=False, server_default="{}"),  # likewise
    Column("webhook", Text),
    Column("duplicates", Text, nullable=False, server_default="keep"),
    Column("closed_at", DateTime(timezone=True)),
    Column("closed_seq", BigInteger),  # the last event that there was when it was closed
    Column("ended_at", DateTime(timezone=True)),  # when its end was told
    CheckConstraint("duplicates IN ('reuse', 'refuse', 'keep')", name="duplicates_known"),
    CheckConstraint("(closed_at IS NULL) = (closed_seq IS NULL)", name="closed_with_its_place"),
    CheckConstraint("ended_at IS NULL OR closed_at IS NOT NULL", name="ends_when_closed"),
    Index("ix_batches_closing", "closed_at", postgresql_where=text("closed_at IS NOT NULL AND ended_at IS NULL")),
)

REPLAYS: Final = Table(
    "replays",  # dead letters that are replayed together, at a pace
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("state", Text, nullable=False),
    Column("request", JSONB, nullable=False),
    Column("rate_per_s", Float, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("refused", Integer, nullable=False, server_default=text("0")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("state IN ('running', 'paused', 'succeeded', 'cancelled')", name="state_known"),
    CheckConstraint("(state IN ('succeeded', 'cancelled')) = (ended_at IS NOT NULL)", name="ended_when_terminal"),
    CheckConstraint("rate_per_s > 0", name="has_a_rate"),
)

DEAD_LETTERS: Final = Table(
    "dead_letters",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False, server_default="open"),
    Column("job_id", Uuid),
    Column("tenant", Text),
    Column("pipeline", Text),
    Column("pipeline_version", Integer),
    Column("phase", Text),
    Column("item", Text),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("subject", Text),  # where its command or message was published
    Column("headers", JSON),  # of an undeliverable message, to send it again as it came
    Column("command", JSON),
    Column("attempts", JSON, nullable=False),
    Column("artifacts", JSON, nullable=False),
    Column("trace_id", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("replay_id", Uuid, ForeignKey(REPLAYS.c.id)),  # the last one that it was part of
    Column("refusal", Text),  # why that one could not do anything; another one may try again
    Column("resolved_at", DateTime(timezone=True)),
    Column("resolved_by", Text),
    Column("resolved_why", Text),
    CheckConstraint("source IN ('permanent', 'exhausted', 'unsettled', 'undeliverable')", name="source_known"),
    CheckConstraint("state IN ('open', 'replayed', 'discarded')", name="state_known"),
    CheckConstraint("(state = 'open') = (resolved_at IS NULL)", name="resolved_when_not_open"),
    Index("ix_dead_letters_page", "created_at", "id"),
    Index("ix_dead_letters_open_job", "job_id", postgresql_where=text("state = 'open'")),
    Index("ix_dead_letters_replay", "replay_id", postgresql_where=text("replay_id IS NOT NULL")),
)

AUDIT: Final = Table(
    "audit",  # who did, saw or moved what; triggers chain the lines and refuse to change or delete one
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),  # from 1, without gaps
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("room", Text, nullable=False),  # which one told it
    Column("tenant", Text),  # whose the subject is
    Column("told_as", Uuid, unique=True),  # the id of the event that told it; null: the orchestrator's own
    Column("hash", Text, nullable=False),  # of the line before and this one's fields: contracts.audit
    Index(None, "subject", "id"),
    Index(None, "tenant", "id"),
)

ERASURES: Final = Table(
    "erasures",  # what is to be gone from every room, and the receipt that it is
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("jobs", ARRAY(Uuid), nullable=False),
    Column("uploads", ARRAY(Uuid), nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),  # the broker holds nothing about them from before
    Column("erased", JSONB, nullable=False, server_default=text("'{}'")),  # how many of our own rows
    Column("requested_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    Column("receipt", JSONB),
    Column("signature", Text),
    CheckConstraint("target IN ('upload', 'batch', 'subject', 'retention')", name="target_known"),
    CheckConstraint("state IN ('stopping', 'erasing', 'scrubbing', 'succeeded')", name="state_known"),
    CheckConstraint("(state = 'succeeded') = (ended_at IS NOT NULL)", name="ended_when_succeeded"),
    CheckConstraint(
        "(ended_at IS NULL) = (receipt IS NULL) AND (receipt IS NULL) = (signature IS NULL)",
        name="ended_with_a_receipt",
    ),
    Index("ix_erasures_page", "requested_at", "id"),
    Index("ix_erasures_uploads", "uploads", postgresql_using="gin"),
    Index("ix_erasures_open", "requested_at", postgresql_where=text("ended_at IS NULL")),
)

ERASURE_PARTS: Final = Table(
    "erasure_parts",  # what each room was asked for, and its answer
    METADATA,
    Column("erasure_id", Uuid, ForeignKey(ERASURES.c.id), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("room", Text, primary_key=True),
    Column("erased", JSONB, nullable=False, server_default=text("'{}'")),
    Column("kept", JSONB, nullable=False, server_default=text("'{}'")),
    Column("done_at", DateTime(timezone=True)),
)

HOLDS: Final = Table(
    "holds",  # what nobody erases: a tenant's everything, a batch of it, or an upload
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("batch_id", Uuid),
    Column("upload_id", Uuid),
    Column("reason", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("released_by", Text),
    Column("released_at", DateTime(timezone=True)),
    CheckConstraint("(released_at IS NULL) = (released_by IS NULL)", name="released_by_somebody"),
    Index("ix_holds_active", "tenant", postgresql_where=text("released_at IS NULL")),
)

RETENTION: Final = Table(
    "retention",  # how long a tenant's uploads are kept; no row: until somebody erases them
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("days", Integer, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("days > 0", name="some_days"),
)

INBOX: Final = inbox_table(METADATA)
OUTBOX: Final = outbox_table(METADATA)
ANSWERS: Final = answers_table(METADATA)
