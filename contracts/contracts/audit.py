"""What every room tells the audit, and how its lines are chained.

The audit is one table of the orchestrator. Line n holds the hash of line n - 1 and of its own fields, so that a line
that was changed, taken out or put in between shows, and so does every line after it. A tail that was cut off shows
beside a head that somebody kept: receipts of erasures and exports hold one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from contracts.channel import Channel
from contracts.message import Message
from contracts.topology import EVENTS


class AuditNoted(Message):
    """Somebody did, saw or moved something. It may say who and what by id, and never what a file holds.

    `who` reads `tenant:demo`, `operator:ops`, `link:ID`, `room:gpu-bridge`, or `shell:USER` for who acts on the machine
    itself; `action` is a static name (`artifact.read`);
    `subject` is the id of what it was done to; `tenant` is whose that is.
    """

    TYPE: ClassVar[str] = "audit.v1.noted"

    id: UUID
    at: datetime
    room: str
    who: str = Field(max_length=200)
    action: str = Field(max_length=64)
    subject: str = Field(max_length=200)
    tenant: str | None = None
    why: str = ""
    details: dict[str, JsonValue] = Field(default_factory=dict)


AUDIT_NOTED: Final = Channel("evt.audit.v1.noted", AuditNoted, EVENTS.name)

GENESIS: Final = "0" * 64  # what the first line follows
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AuditLine(BaseModel):
    """A line as it is exported. `details` is JSON as the database wrote it: the hash is over that text."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: int
    at: datetime
    room: str
    tenant: str | None
    who: str
    action: str
    subject: str
    why: str
    details: str
    hash: str

    def follows(self, before: str) -> str:
        """The hash that this line has to have behind one with the hash `before` (64 hex digits)."""
        at_us = (self.at - _EPOCH) // timedelta(microseconds=1)
        fields = (
            str(self.id), str(at_us), self.room, self.tenant or "", self.who, self.action, self.subject, self.why,
            self.details,
        )  # fmt: skip
        told = "".join(f"{len(field.encode())}:{field}" for field in fields)  # lengths: no field can pose as two
        return hashlib.sha256((before + told).encode()).hexdigest()


class Broken(ValueError):
    """The chain does not hold at this line."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line


def verify(lines: Iterable[AuditLine], expected: tuple[int, str] | None = None) -> tuple[int, str]:
    """Check all lines from the first on; returns (number, hash) of the last.

    `expected` is such a head that was kept elsewhere: it must be one of the lines.

    Raises:
        Broken: a line is missing, or was changed; or the expected head is not there.
    """
    id_, hash_ = 0, GENESIS
    for line in lines:
        if line.id != id_ + 1:
            raise Broken(line.id, f"it follows line {id_}: something is missing")
        if line.hash != line.follows(hash_):
            raise Broken(line.id, "its hash is not that of its fields and of the line before")
        if expected and line.id == expected[0] and line.hash != expected[1]:
            raise Broken(line.id, "it is not the one that was kept")
        id_, hash_ = line.id, line.hash
    if expected and id_ < expected[0]:
        raise Broken(id_, f"it is the last, and line {expected[0]} was there once")
    return id_, hash_
