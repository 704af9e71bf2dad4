"""What a tenant sees of its endpoints and of what they were told."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, JsonValue, StringConstraints

from output.views import Moment
from output.webhooks.events import DEFAULT, EventType
from output.webhooks.signature import PREFIX
from runtime.http import storable

Url = Annotated[str, Field(max_length=2048, examples=["https://example.com/hooks/safelight"])]
Events = Annotated[set[EventType], Field(min_length=1, description="what it is told; default: all but `job.started`")]
Description = Annotated[str, StringConstraints(max_length=200), AfterValidator(storable)]
DeliveryStatus = Literal["pending", "delivered", "failed"]
OVERLAP_S_MOST = 7 * 24 * 3600


class NewWebhook(BaseModel):
    """An endpoint to be: an http or https URL of the public internet that takes POST requests."""

    url: Url
    events: Events = Field(default=set(DEFAULT), validate_default=False)
    description: Description = ""


class WebhookChange(BaseModel):
    """What is to be otherwise; what is not named stays. `enabled` lets an endpoint work again that we disabled."""

    url: Url | None = None
    events: Events | None = None
    description: Description | None = None
    enabled: bool | None = None


class WebhookView(BaseModel):
    """An endpoint. `kind` is `own`, or `batch` for a URL that a batch named.

    `disabled_code` says why we disabled it: WEBHOOK_GONE or WEBHOOK_FAILING; null when its owner did.
    `failing_since` is its first failure since its last success. Until `previous_secret_until` two secrets sign.
    """

    id: UUID
    kind: Literal["own", "batch"]
    url: str
    events: list[str]
    description: str
    enabled: bool
    disabled_code: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    previous_secret_until: datetime | None
    created_at: datetime


class Secret(BaseModel):
    """What verifies signatures. It is shown this once, and null to a repeated request; the old one signs beside it."""

    secret: str | None = Field(examples=[PREFIX + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    previous_secret_until: datetime | None = None


class MadeWebhook(WebhookView):
    """A new endpoint with its secret, which is shown this once, and null to a repeated request."""

    secret: str | None


class WebhookPage(BaseModel):
    """Endpoints, newest first. `next_cursor` asks for the page after this one; null on the last."""

    items: list[WebhookView]
    next_cursor: str | None


class SecretRotation(BaseModel):
    """For how many seconds the old secret goes on signing beside the new one."""

    overlap_s: int = Field(default=24 * 3600, ge=0, le=OVERLAP_S_MOST)


class DeliveryView(BaseModel):
    """What an endpoint is told once. `id` is the webhook-id of every try; `tries` counts them since it was replayed."""

    id: str
    type: str
    status: DeliveryStatus
    tries: int
    due_at: datetime | None
    created_at: datetime
    ended_at: datetime | None


class DeliveryPage(BaseModel):
    """Deliveries, newest first. `next_cursor` asks for the page after this one; null on the last."""

    items: list[DeliveryView]
    next_cursor: str | None


class TryView(BaseModel):
    """One try. `status_code` is the endpoint's, null when it gave none; `code` is null when it was a success."""

    at: datetime
    seconds: float
    status_code: int | None
    code: str | None


class DeliveryDetail(DeliveryView):
    """A delivery with what is told and every try of the last 30 days, oldest first."""

    body: JsonValue
    attempts: list[TryView]


class Since(BaseModel):
    """What was told from then on and has failed."""

    since: Moment


class Replayed(BaseModel):
    """How many deliveries are tried again."""

    deliveries: int
