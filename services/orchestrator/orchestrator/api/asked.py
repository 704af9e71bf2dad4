"""What routes share: the use cases behind them, who asks, what a request may hold, and places in a list."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, JsonValue, StringConstraints
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import error
from orchestrator.audit import Actor, Audit
from orchestrator.closing import Closing
from orchestrator.erasures import Erasures
from orchestrator.operations import Operations
from orchestrator.replays import Replays
from orchestrator.shell import Shell
from orchestrator.upgrades import Upgrades
from runtime.http import Asker, Reason, storable


@dataclass(frozen=True, slots=True)
class UseCases:
    """Everything that a route may call."""

    engine: AsyncEngine
    shell: Shell
    operations: Operations
    replays: Replays
    upgrades: Upgrades
    audit: Audit
    closing: Closing
    erasures: Erasures


def _hands(request: Request) -> UseCases:
    found: UseCases = request.app.state.use_cases
    return found


Hands = Annotated[UseCases, Depends(_hands)]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200, description="from `next_cursor` of the page before")]


def _ordinary(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """What every part that these values pass through can tell: no NaN, no number of 100 digits, no half character."""
    try:
        text = json.dumps(values, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError) as problem:
        raise ValueError("the values are not ones that JSON has") from problem
    if "\\u0000" in text:
        raise ValueError("a text may hold every character but NUL")
    _check_numbers(values)
    return values


def _check_numbers(value: JsonValue) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a number is too large")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_numbers(inner)


def _in_utc(at: datetime) -> datetime:
    try:
        return at.astimezone(UTC)
    except OverflowError as problem:
        raise ValueError("the time is none that a calendar has") from problem


Name = Annotated[str, StringConstraints(max_length=200), AfterValidator(storable)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Parameters = Annotated[dict[str, JsonValue], Field(max_length=50), AfterValidator(_ordinary)]


class Because(BaseModel):
    """Why somebody does something; it is kept in the audit, so it must hold no personal data."""

    reason: Reason = ""


def actor(asker: Asker, reason: str) -> Actor:
    """Who acts, as the audit will name them."""
    return Actor(asker.who, asker.tenant, reason)


def place(cursor: str | None) -> tuple[datetime, UUID] | None:
    """The place that a cursor names. Raises REQUEST_INVALID for one that we did not give out."""
    if cursor is None:
        return None
    try:
        at, id_ = json.loads(base64.urlsafe_b64decode(cursor))
        return datetime.fromisoformat(at).astimezone(UTC), UUID(id_)
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error) as problem:
        raise error("REQUEST_INVALID", "the cursor is none that this service gave out") from problem


def cursor(at: datetime, id_: UUID) -> str:
    """A cursor for the place after this row."""
    return base64.urlsafe_b64encode(json.dumps([at.isoformat(), str(id_)]).encode()).decode()
