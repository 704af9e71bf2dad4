"""The one request and response of a GPU call, shared by every provider and the local CPU.

User bytes never travel in it: an item names presigned URLs of single objects to read and to
write. Domain errors are returned as data, never raised: providers garble exceptions.
Source of the rules: the design notes on providers, "What every provider teaches".
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from contracts.artifacts import Sha256

ENVELOPE_VERSION: Final = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReadUrl(_Part):
    """A presigned GET of one object; the reader checks `sha256` and `size` (bytes)."""

    url: str
    sha256: Sha256
    size: int


class WriteUrl(_Part):
    """A presigned PUT of one object, and where that object will lie."""

    url: str
    key: str


class Item(_Part):
    """One unit of work: a photo, a page. `inputs` and `outputs` are by role (`image`, `lut`)."""

    id: str
    inputs: dict[str, ReadUrl]
    outputs: dict[str, WriteUrl]
    parameters: dict[str, JsonValue] = Field(default_factory=dict)


class CallRequest(_Part):
    """Run `function` on `items` before `deadline`. `traceparent` is W3C trace context."""

    version: Literal[1] = ENVELOPE_VERSION
    call_id: str
    function: str  # e.g. "style.apply"
    items: list[Item]
    deadline: datetime
    traceparent: str | None = None


class StoredOutput(_Part):
    """What was written to one WriteUrl. Width and height are pixels of images."""

    key: str
    sha256: Sha256
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None


class ItemError(_Part):
    """An error code from `contracts.errors`, and a sentence without user data."""

    code: str
    detail: str = ""


class ItemResult(_Part):
    """How one item ended: `error` is None when it succeeded."""

    id: str
    outputs: dict[str, StoredOutput] = Field(default_factory=dict)
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    error: ItemError | None = None


class SpanRecord(_Part):
    """One finished span that travels home in the response; times are Unix nanoseconds, ids are hex."""

    name: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool] = Field(default_factory=dict)


class CallResponse(_Part):
    """How the call ended. `error` is set when the call as a whole failed; else see each item."""

    version: Literal[1] = ENVELOPE_VERSION
    call_id: str
    function: str
    engine: str = ""  # e.g. "skin-smoothing@1"
    device: str = ""  # "cpu" or the GPU's type
    items: list[ItemResult] = Field(default_factory=list)
    spans: list[SpanRecord] = Field(default_factory=list)
    error: ItemError | None = None
