"""What output owns: the readable picture of every job, projected from events.

Rows can be rebuilt from the events as long as the stream keeps them; the orchestrator decides,
this schema only shows.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from runtime.erased import erased_table
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
    Column("grant_id", Uuid),  # of the upload grant that may follow it
    Column("options", JSONB),  # what its caller asked for
    Column("edit_of", Uuid),  # the job of which this is another version
    Column("version", Integer, nullable=False, server_default="1"),  # of its upload
    Index("ix_jobs_page", "tenant", "created_at", "id"),
    Index("ix_jobs_batch", "batch_id", "created_at", "id", postgresql_where=text("batch_id IS NOT NULL")),
    Index("ix_jobs_versions", "upload_id", "version"),
    Index("ix_jobs_history", "pipeline", "ended_at", postgresql_where=text("status = 'succeeded'")),
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
    "events",  # what readers of a job's stream, and of its batch's, are told, in the order in which it is committed
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("job_id", Uuid),  # null for what happens to a batch itself
    Column("batch_id", Uuid),
    Column("tenant", Text),  # whose batch: two tenants may name the same
    Column("type", Text, nullable=False),
    Column("data", JSONB, nullable=False),
    CheckConstraint("job_id IS NOT NULL OR batch_id IS NOT NULL", name="whose"),
    Index(None, "job_id", "id"),
    Index("ix_events_batch", "batch_id", "id", postgresql_where=text("batch_id IS NOT NULL")),
)

# -- webhooks --------------------------------------------------------------------------------
# Times are the database's own, so that replicas need not agree on the hour.


# Which secret signs: none is stored, they are derived (webhooks/signature.py). The previous one signs too, for a while.
def _secret() -> tuple[Column[Any], ...]:
    return (
        Column("key_id", Text, nullable=False),
        Column("secret_version", Integer, nullable=False, server_default="1"),
        Column("previous_key_id", Text),
        Column("previous_version", Integer),
        Column("previous_until", DateTime(timezone=True)),
    )


WEBHOOKS: Final = Table(
    "webhooks",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("kind", Text, nullable=False),  # own: its tenant made it; batch: a batch named its URL
    Column("url", Text, nullable=False),
    Column("events", ARRAY(Text), nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("enabled", Boolean, nullable=False, server_default=true()),
    Column("disabled_code", Text),  # why we disabled it; null when its owner did
    Column("disabled_at", DateTime(timezone=True)),
    Column("failing_since", DateTime(timezone=True)),  # the first failure since the last success
    Column("failures", Integer, nullable=False, server_default="0"),  # since then
    Column("rest_until", DateTime(timezone=True)),
    Column("lease_owner", Uuid),
    Column("leased_until", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    *_secret(),
    CheckConstraint("kind IN ('own', 'batch')", name="kind"),
    CheckConstraint("(disabled_at IS NULL) = enabled", name="disabled_at"),
    Index("ix_webhooks_page", "tenant", "created_at", "id"),
    Index("uq_webhooks_batch_url", "tenant", "url", unique=True, postgresql_where=text("kind = 'batch'")),
)

BATCH_SECRETS: Final = Table("batch_secrets", METADATA, Column("tenant", Text, primary_key=True), *_secret())

DELIVERIES: Final = Table(
    "deliveries",
    METADATA,
    Column("webhook_id", Uuid, ForeignKey(WEBHOOKS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("message_id", Text, primary_key=True),  # the webhook-id
    Column("n", BigInteger, Identity(always=True), nullable=False),  # in the order in which they were told
    Column("type", Text, nullable=False),
    Column("body", Text, nullable=False),  # what is signed and sent
    Column("status", Text, nullable=False, server_default="pending"),
    Column("tries", Integer, nullable=False, server_default="0"),  # since it was told, or replayed
    Column("due_at", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
    CheckConstraint("(due_at IS NOT NULL) = (status = 'pending')", name="due_at"),
    CheckConstraint("(ended_at IS NULL) = (status = 'pending')", name="ended_at"),
    UniqueConstraint("webhook_id", "n"),
    Index("ix_deliveries_due", "webhook_id", "due_at", postgresql_where=text("status = 'pending'")),
    Index("ix_deliveries_ended", "ended_at"),
)

ATTEMPTS: Final = Table(
    "attempts",  # of deliveries: what became of each, without what was answered
    METADATA,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("webhook_id", Uuid, ForeignKey(WEBHOOKS.c.id, ondelete="CASCADE"), nullable=False),
    Column("message_id", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("status_code", Integer),
    Column("code", Text),
    Index(None, "webhook_id", "message_id"),
    Index(None, "at"),
)

LINKS: Final = Table(
    "links",  # to an artifact, or to a ZIP of a batch: whoever has one needs no key
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("job_id", Uuid),
    Column("batch_id", Uuid),
    Column("artifacts", ARRAY(Text), nullable=False),  # of a job the one, of a batch which of each job
    Column("key_id", Text, nullable=False),  # whose signature the token has
    Column("single_use", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("used_at", DateTime(timezone=True)),  # by a single use
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("(job_id IS NULL) <> (batch_id IS NULL)", name="of_one"),
    Index(None, "job_id", postgresql_where=text("job_id IS NOT NULL")),
    Index(None, "batch_id", postgresql_where=text("batch_id IS NOT NULL")),
    Index(None, "expires_at"),
)

COSTS: Final = Table(
    "costs",  # contracts.costs.CostNoted: may be there before its job's first event, so no key binds it to that
    METADATA,
    Column("call", Text, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("job_id", Uuid, nullable=False),  # which it was bought for; others may have followed the call for nothing
    Column("phase", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("billed_s", Float, nullable=False),
    Column("cost", Float),  # null: no price is known
    Column("currency", Text),
    Column("priced_on", Date),  # when somebody read that price
    Column("at", DateTime(timezone=True), nullable=False),
    CheckConstraint("(cost IS NULL) = (currency IS NULL)", name="priced"),
    Index(None, "job_id"),
)

INBOX: Final = inbox_table(METADATA)
ERASED: Final = erased_table(METADATA)
ANSWERS: Final = answers_table(METADATA)
