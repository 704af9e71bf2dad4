"""The base of every message, and the headers that ride beside a body.

Metadata rides in headers with CloudEvents names, so a body stays a plain model and a
reader can route, dedupe and trace without parsing it.
"""

from __future__ import annotations

from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict

SPEC_VERSION: Final = "1.0"  # CloudEvents

HEADER_MESSAGE_ID: Final = "Nats-Msg-Id"  # what the broker dedupes by; always equal to the CloudEvents id
HEADER_ID: Final = "ce-id"
HEADER_SPEC_VERSION: Final = "ce-specversion"
HEADER_TYPE: Final = "ce-type"
HEADER_SOURCE: Final = "ce-source"
HEADER_SUBJECT: Final = "ce-subject"  # the key of the work: job, or job.phase.attempt
HEADER_TRACE: Final = "traceparent"

# Added by settle when a message becomes a dead letter; the body stays as it came.
HEADER_ERROR_CODE: Final = "safelight-error-code"
HEADER_ERROR_MESSAGE: Final = "safelight-error-message"
HEADER_DELIVERIES: Final = "safelight-deliveries"
HEADER_CONSUMER: Final = "safelight-consumer"
HEADER_ORIGINAL_ID: Final = "safelight-original-id"  # its CloudEvents id as it came


class Message(BaseModel):
    """A body that crosses rooms: immutable, and unknown fields are tolerated (additive change stays v1)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str]  # e.g. "upload.v1.received": family.version.verb, golden samples are named by it
