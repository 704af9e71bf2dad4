"""What ingest owns: its schema."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from runtime.erased import erased_table
from runtime.idempotency import answers_table
from runtime.outbox import outbox_table
from runtime.postgres import schema_metadata

SCHEMA: Final = "ingest"
METADATA: Final = schema_metadata(SCHEMA)

UPLOADS: Final = Table(
    "uploads",
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("job_id", Uuid, unique=True),  # null: a photo of a draft
    Column("tenant", Text, nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("grant_id", Uuid),  # with which it came, if it did not come with a key
    Column("style_name", Text),  # what the style will be called that its job makes
    Column("received_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("batch_id", Uuid),
    Column("sole", Boolean, nullable=False, server_default=false()),  # its batch takes a content once
    CheckConstraint("size > 0", name="not_empty"),
    CheckConstraint("NOT sole OR batch_id IS NOT NULL", name="sole_in_a_batch"),
    Index("uq_uploads_sole", "tenant", "batch_id", "sha256", unique=True, postgresql_where=text("sole")),
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_hex"),
    Index(None, "tenant", "sha256"),
)

VERSIONS: Final = Table(
    "versions",  # of uploads, from the second on: each is the job of an edit; the first is the upload's own job
    METADATA,
    Column("job_id", Uuid, primary_key=True),
    Column("upload_id", Uuid, ForeignKey(UPLOADS.c.id, ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("edit_of", Uuid, nullable=False),  # the job that it was made of
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("version > 1", name="version_from_2"),
    UniqueConstraint("upload_id", "version"),
)

DRAFTS: Final = Table(
    "drafts",  # styles that are to be learnt, of photos that come one by one
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("lane", Text),
    Column("state", Text, nullable=False),
    Column("claim", Uuid),  # whoever packs it just now
    Column("claimed_until", DateTime(timezone=True)),
    Column("job_id", Uuid),
    Column("upload_id", Uuid),  # the archive that it has become
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("state IN ('open', 'packing', 'trained')", name="state_known"),
    CheckConstraint("(state = 'packing') = (claim IS NOT NULL)", name="claimed_while_packing"),
    CheckConstraint("(claim IS NULL) = (claimed_until IS NULL)", name="claimed_for_a_while"),
    CheckConstraint("(state = 'trained') = (job_id IS NOT NULL)", name="trained_by_a_job"),
    Index(None, "expires_at"),
)

DRAFT_PHOTOS: Final = Table(
    "draft_photos",
    METADATA,
    Column("upload_id", Uuid, ForeignKey(UPLOADS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("draft_id", Uuid, ForeignKey(DRAFTS.c.id, ondelete="CASCADE"), nullable=False),
    Column("role", Text, nullable=False),
    Column("name", Text, nullable=False),  # personal text: it is gone once the draft is trained
    Column("taken_at", Text),
    Column("looked", Boolean, nullable=False, server_default=false()),  # whether its time was looked for
    CheckConstraint("role IN ('before', 'after')", name="role_known"),
    Index(None, "draft_id"),
)

EVERYBODY: Final = ""  # no tenant has this name: whose the built-in styles are

STYLES: Final = Table(
    "styles",  # append-only (a trigger refuses the rest): what a job has pinned stays what it is
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True),  # from 1, without gaps
    Column("kind", Text, nullable=False),
    Column("objects", JSONB, nullable=False),  # by part: contracts.artifacts.ObjectRef
    Column("facts", JSONB, nullable=False),  # what its job found out: how well it was learnt
    Column("engine", Text),
    Column("degraded", Boolean, nullable=False, server_default=false()),
    Column("job_id", Uuid),
    Column("job_revision", Integer),  # of the job's ending: one that works again makes another version
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("version > 0", name="version_from_1"),
    CheckConstraint("kind IN ('learnt', 'imported', 'built-in')", name="kind"),
    CheckConstraint("objects ? 'cube'", name="has_a_cube"),
    CheckConstraint("(kind = 'built-in') = (tenant = '')", name="built_in_is_everybodys"),
    CheckConstraint("(kind = 'built-in') = (job_id IS NULL)", name="made_by_a_job"),
    CheckConstraint("(job_id IS NULL) = (job_revision IS NULL)", name="of_an_ending"),
    UniqueConstraint("job_id", "job_revision"),
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

TENANTS: Final = Table(
    "tenants",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("title", Text, nullable=False, server_default=""),
    Column("options", JSONB, nullable=False, server_default="{}"),  # its uploads' defaults: ingest.options.Options
    Column("limits", JSONB, nullable=False, server_default="{}"),  # where they are not everybody's
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_by", Text, nullable=False),  # an operator
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("changed_by", Text, nullable=False),
    CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'", name="name"),
)

KEYS: Final = Table(
    "keys",  # API keys by what is no secret of them; never deleted
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, ForeignKey(TENANTS.c.name)),  # null: an operator's
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("sha256", Text, nullable=False, unique=True),  # all that we have of the key
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("created_by", Text, nullable=False),
    Column("last_used_at", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("revoked_by", Text),
    Column("replaces", Text),  # the key that this one was made in the stead of
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_hex"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_by IS NULL)", name="revoked_by_somebody"),
    CheckConstraint(
        "cardinality(scopes) > 0 AND scopes <@ CASE WHEN tenant IS NULL "
        "THEN ARRAY['read', 'operate'] ELSE ARRAY['upload', 'read'] END",
        name="scopes_of_its_kind",
    ),
    Index(None, "tenant", "created_at"),
)

TRANSFERS: Final = Table(
    "transfers",  # files that come in pieces, over several requests: see ingest.transfers
    METADATA,
    Column("id", Uuid, primary_key=True),  # the upload's, if it becomes one
    Column("tenant", Text, nullable=False),
    Column("way", Text, nullable=False),
    Column("fields", JSONB, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("offset", BigInteger, nullable=False, server_default=text("0")),  # bytes that are safe
    Column("parts_id", Text),  # what the store calls the object until it is whole
    Column("part_bytes", BigInteger),  # of a session, whose parts are all of this size but the last
    Column("tags", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # of its parts 1, 2, 3...
    Column("rest_key", Text),  # an object with the bytes that are too few for a part
    Column("grant_id", Uuid),  # of the upload grant that brings it
    Column("metadata", Text),  # tus: as it was sent, for it is to be repeated
    Column("concat", Text),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("code", Text),
    Column("upload_id", Uuid),
    Column("job_id", Uuid),
    Column("lease", Uuid),
    Column("leased_until", DateTime(timezone=True)),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    CheckConstraint("way IN ('tus', 'session')", name="way"),
    CheckConstraint("state IN ('open', 'complete', 'refused', 'expired')", name="state"),
    CheckConstraint('size > 0 AND "offset" BETWEEN 0 AND size', name="offset_within"),
    CheckConstraint("(state = 'refused') = (code IS NOT NULL)", name="refused_with_a_code"),
    CheckConstraint("upload_id IS NULL OR state = 'complete'", name="upload_of_what_is_complete"),
    CheckConstraint("job_id IS NULL OR upload_id IS NOT NULL", name="job_of_an_upload"),
    CheckConstraint("(lease IS NULL) = (leased_until IS NULL)", name="leased_until_when"),
    Index(None, "expires_at"),
    Index(None, "tenant", "concat", unique=True, postgresql_where=text("concat LIKE 'final%'")),
)

GRANTS: Final = Table(
    "grants",  # upload grants; their tokens are nowhere, they are signed
    METADATA,
    Column("id", Uuid, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("files", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("bytes_max", BigInteger, nullable=False),
    Column("media_types", ARRAY(Text)),  # null: all that a pipeline takes
    Column("fields", JSONB, nullable=False),
    Column("open_fields", ARRAY(Text), nullable=False),
    Column("made_by", Text, nullable=False),
    Column("key_id", Text),  # of the key that made it; null: one of the environment
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
    CheckConstraint("used BETWEEN 0 AND files", name="used_no_more_than_allowed"),
    Index(None, "expires_at"),
)

USAGE: Final = Table(
    "usage",  # what a tenant has brought in a day, in a month, and has stored; a trigger counts what is deleted
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("period", Text, primary_key=True),  # 2026-01-31, 2026-01, stored
    Column("files", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    CheckConstraint("files >= 0 AND bytes >= 0", name="not_negative"),
)

BUCKETS: Final = Table(
    "buckets",  # rates: when each will be full again. Unlogged: no upload waits for the disk, a crash fills them all
    METADATA,
    Column("name", Text, primary_key=True),
    Column("full_at", DateTime(timezone=True), nullable=False),
    prefixes=["UNLOGGED"],
)

OUTBOX: Final = outbox_table(METADATA)
ANSWERS: Final = answers_table(METADATA)
ERASED: Final = erased_table(METADATA)
