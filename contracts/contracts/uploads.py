"""What ingest says about files that came in."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, Field, JsonValue, StringConstraints, WithJsonSchema

from contracts.artifacts import ObjectRef
from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import EVENTS
from contracts.variants import ColorProfile, VariantTable

Lane = Literal["interactive", "bulk"]  # who goes first where work has to wait

Aspect = Literal["original", "none", "1:1", "4:5", "5:4", "3:2", "2:3", "16:9", "9:16"]


_LANGUAGE: Final = r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}"
_LANGUAGES: Final = rf"^{_LANGUAGE}(,{_LANGUAGE}){{0,7}}$"
Languages = Annotated[
    list[Annotated[str, Field(pattern=f"^{_LANGUAGE}$")]],
    Field(min_length=1, max_length=8),
    BeforeValidator(lambda told: told.split(",") if isinstance(told, str) else told),
    WithJsonSchema({"type": "string", "pattern": _LANGUAGES}),
]


class Choices(BaseModel):
    """What a caller may choose of what is made of an upload, whether with the upload, for a batch, or for all."""

    style: str | None = Field(
        default=None, description="`name` or `name@version` of a style; none leaves the colours alone"
    )
    style_strength: float = Field(default=1.0, ge=0, le=1, description="0 keeps the original's colours, 1 is the style")
    crop: Aspect = Field(default="original", description="aspect of the crop; none keeps the frame")
    straighten: bool = Field(default=True, description="whether the crop makes a crooked horizon level")
    variants: VariantTable | None = Field(
        default=None, description="the forms in which the photo is delivered, as JSON; none: the usual six"
    )
    color_profile: ColorProfile = Field(
        default="srgb", description="keep: the photo's own RGB profile stays, where nothing but the crop changes it"
    )
    languages: Languages | None = Field(
        default=None, description="of a document, as BCP 47 with commas between, such as en,es: hints for OCR"
    )
    template: str | None = Field(
        default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="which fields are read out of a document"
    )


# What a caller may choose; a pipeline reads them as `options.NAME`.
OPTIONS: Final = frozenset({*Choices.model_fields, "style_name", "subject"})

Subject = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/-]{1,128}$")]
"""Whom an upload is about, in the caller's words: an id, best one that says nothing to others."""


def subject_reference(tenant: str, subject: str) -> str:
    """What is kept of a subject: enough to find its uploads again, and no name of anybody."""
    return hashlib.sha256(f"{tenant}\n{subject}".encode()).hexdigest()


class UploadReceived(Message):
    """One file is stored, checked by content, and waits for its job.

    `attachments` are stored objects that the pipeline's phases read beside the original
    (a style's LUT, pinned at this moment). `options` are the caller's choices, checked by ingest.
    `batch_id` says which jobs were submitted together; `lane` overrides the pipeline's.
    `edit_of` is the job of which this is another version: the same file with other options, of which
    only what they change is done again. Versions of an upload count from 1.
    `grant_id` is the upload grant that it came with, which may follow its job.
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
    grant_id: UUID | None = None
    received_at: datetime


UPLOAD_RECEIVED: Final = Channel("evt.upload.v1.received", UploadReceived, EVENTS.name)
