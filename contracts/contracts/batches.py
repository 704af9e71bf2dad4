"""What the orchestrator says about batches, and what uploads that name one are taken in by."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import EVENTS

# What becomes of a file whose content is in the batch already: it gets the job that is there, is refused, or is kept.
Duplicates = Literal["reuse", "refuse", "keep"]


def _address(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    host = rest.partition("/")[0]
    if scheme not in ("https", "http") or not separator or not host or "@" in host:
        raise ValueError("a webhook is an http or https address without a name and password in it")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("a webhook is an address of printable ASCII characters")
    return text


Webhook = Annotated[str, StringConstraints(min_length=8, max_length=2000), AfterValidator(_address)]
"""Where somebody is told. Whether the address may be reached is judged when it is."""


class BatchSettings(BaseModel):
    """What holds for each upload of a batch that does not say otherwise. Read by ingest, inside the deployment."""

    model_config = ConfigDict(frozen=True)

    state: Literal["open", "closed"]
    pipeline: str | None = None
    options: dict[str, JsonValue] = Field(default_factory=dict)
    duplicates: Duplicates = "keep"


class _BatchEvent(Message):
    batch_id: UUID
    tenant: str
    at: datetime
    webhook: str | None = None


class BatchCreated(_BatchEvent):
    """Somebody has made a batch: uploads may name it."""

    TYPE: ClassVar[str] = "batch.v1.created"


class BatchClosed(_BatchEvent):
    """No more uploads are taken into the batch. What it has goes on."""

    TYPE: ClassVar[str] = "batch.v1.closed"


class BatchEnded(_BatchEvent):
    """The batch is closed and each of its jobs has ended: told once, whatever is done with single jobs afterwards.

    `jobs` counts them by status; `degraded` are among the succeeded.
    """

    TYPE: ClassVar[str] = "batch.v1.ended"

    jobs: dict[str, int]
    degraded: int = 0


BATCH_CREATED: Final = Channel("evt.batch.v1.created", BatchCreated, EVENTS.name)
BATCH_CLOSED: Final = Channel("evt.batch.v1.closed", BatchClosed, EVENTS.name)
BATCH_ENDED: Final = Channel("evt.batch.v1.ended", BatchEnded, EVENTS.name)
