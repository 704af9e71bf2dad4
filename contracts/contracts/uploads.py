"""What ingest says about files that came in."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, Literal
from uuid import UUID

from pydantic import Field, JsonValue

from contracts.artifacts import ObjectRef
from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import EVENTS

Lane = Literal["interactive", "bulk"]  # who goes first where work has to wait

# What a caller may choose; a pipeline reads them as `options.NAME`.
OPTIONS: Final = frozenset({"style", "style_strength", "crop", "straighten", "style_name", "variants", "color_profile"})


class UploadReceived(Message):
    """One file is stored, checked by content, and waits for its job.

    `attachments` are stored objects that the pipeline's phases read beside the original
    (a style's LUT, pinned at this moment). `options` are the caller's choices, checked by ingest.
    `batch_id` says which jobs were submitted together; `lane` overrides the pipeline's.
    `edit_of` is the job of which this is another version: the same file with other options, of which
    only what they change is done again. Versions of an upload count from 1.
    """

    TYPE: ClassVar[str] = "upload.v1.received"

    upload_id: UUID
    job_id: UUID
    tenant: str
    pipeline: str
    original: ObjectRef
    attachments: dict[str, ObjectRef] = Field(default_factory=dict)
    options: dict[str, JsonValue] = Field(default_factory=dict)
    batch_id: UUID | None = None
    lane: Lane | None = None
    edit_of: UUID | None = None
    version: int = 1
    received_at: datetime


UPLOAD_RECEIVED: Final = Channel("evt.upload.v1.received", UploadReceived, EVENTS.name)
