"""What ingest owns: its schema."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Index, Table, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB

from runtime.outbox import outbox_table
from runtime.postgres import schema_metadata

SCHEMA: Final = "ingest"
METADATA: Final = schema_metadata(SCHEMA)

UPLOADS: Final = Table(
    "uploads",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("job_id", Uuid, nullable=False, unique=True),
    Column("tenant", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("size > 0", name="not_empty"),
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_hex"),
    Index(None, "tenant", "sha256"),
)

IDEMPOTENCY: Final = Table(
    "idempotency",  # the answer that each Idempotency-Key was given
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),  # of file and options: another request may not reuse the key
    Column("answer", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

OUTBOX: Final = outbox_table(METADATA)
