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
from contracts.sealed import Secret

ENVELOPE_VERSION: Final = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReadUrl(_Part):
    """A presigned GET of one object; the reader checks `sha256` and `size` (bytes) of the content.

    With a `secret` what lies there is sealed.
    """

    url: str
    sha256: Sha256
    size: int
    secret: Secret | None = None


class WriteUrl(_Part):
    """A presigned PUT of one object, and where that object will lie. With a `secret` it is to be sealed."""

    url: str
    key: str
    secret: Secret | None = None


class Marks(_Part):
    """Presigned links to the three small objects that make an item's work happen once, and tell of it.

    `claim` (PUT, `If-None-Match: *`) is written before anything else: who comes second reads it by
    `claimed` (GET) and does no work, unless it is its own. `progress` (PUT) is overwritten by the
    loop that does the work. `result` (PUT, `If-None-Match: *`) is written last: it is the truth.
    """

    claim: str
    claimed: str
    progress: str
    result: str


class Checkpoint(_Part):
    """Presigned GET and PUT of one object that outlives an epoch: long work goes on from it after a preemption."""

    read: str
    write: str
    secret: Secret | None = None


class Item(_Part):
    """One unit of work: a photo, a page. `inputs` and `outputs` are by role (`image`, `style`).

    Without `marks` nobody keeps account of it (a smoke test); long work has a `checkpoint`.
    """

    id: str
    inputs: dict[str, ReadUrl]
    outputs: dict[str, WriteUrl]
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    marks: Marks | None = None
    checkpoint: Checkpoint | None = None


class CallRequest(_Part):
    """Run `function` on `items` before `deadline`. `traceparent` is W3C trace context."""

    version: Literal[1] = ENVELOPE_VERSION
    call_id: str
    function: str  # e.g. "style.apply"
    function_version: int = 1
    items: list[Item]
    deadline: datetime
    traceparent: str | None = None


class Claim(_Part):
    """Who works on an item: the provider's name for the call, or VOID: nobody may, for it came too late."""

    owner: str
    at: datetime


VOID: Final = "void"


class StoredOutput(_Part):
    """What was written to one WriteUrl. Width and height are pixels of images."""

    key: str
    sha256: Sha256
    size: int
    media_type: str
    width: int | None = None
    height: int | None = None


class Progress(_Part):
    """How far an item is (0..1), told by the loop that does the work: one that hangs falls silent.

    `facts` are numbers to follow it by (a loss, seconds to go), `outputs` what it has shown before its end.
    """

    fraction: float = Field(ge=0, le=1)
    at: datetime
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    outputs: dict[str, StoredOutput] = Field(default_factory=dict)


class ItemError(_Part):
    """An error code from `contracts.errors`, and a sentence without user data."""

    code: str
    detail: str = ""


class ItemResult(_Part):
    """How one item ended: `error` is None when it succeeded. `duplicate_of` names whose work it is instead."""

    id: str
    outputs: dict[str, StoredOutput] = Field(default_factory=dict)
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    error: ItemError | None = None
    duplicate_of: str | None = None


class SpanRecord(_Part):
    """One finished span that travels home in the response; times are Unix nanoseconds, ids are hex."""

    name: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Usage(_Part):
    """What a call, or one item of it, used. `cold`: it was the first that its process ran.

    `machine` is what was paid for: the GPU's type, even if an engine computed beside it; or cpu. `run_s` is an item's
    own share of the seconds between, of which others that were at work at the same time have theirs; None: all.
    """

    started_at: datetime
    ended_at: datetime
    machine: str = ""
    cold: bool = False
    run_s: float | None = None
    boot_s: float = 0.0  # from the start of the process to its first call; 0 unless cold


class Result(_Part):
    """The result object of one item: all that its call would have answered about it."""

    version: Literal[1] = ENVELOPE_VERSION
    owner: str
    function: str
    engine: str
    device: str
    item: ItemResult
    usage: Usage
    spans: list[SpanRecord] = Field(default_factory=list)


class CallResponse(_Part):
    """How the call ended. `error` is set when the call as a whole failed; else see each item."""

    version: Literal[1] = ENVELOPE_VERSION
    call_id: str
    function: str
    engine: str = ""  # e.g. "skin-smoothing@1"
    device: str = ""  # "cpu" or the GPU's type
    items: list[ItemResult] = Field(default_factory=list)
    usage: Usage | None = None
    spans: list[SpanRecord] = Field(default_factory=list)
    error: ItemError | None = None
