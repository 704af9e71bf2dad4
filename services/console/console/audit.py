"""The audit as operators read it, take it away, and check it: nothing of the check is asked of who keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from console.client import Client, ClientError
from console.jobs import Read
from contracts.audit import AuditLine, Broken, verify

PATH: Final = "/v1/audit"


class Line(Read):
    """One act."""

    id: int
    at: datetime
    room: str | None = None
    tenant: str | None = None
    who: str
    action: str
    subject: str
    why: str = ""
    details: dict[str, Any] = Field(default_factory=dict)


class Tampered(ClientError):
    """The lines are not those that were written."""


async def newest(api: Client, filters: Mapping[str, str], limit: int) -> list[Line]:
    """The newest lines that fit. Raises Refused, Unreachable."""
    return [Line.model_validate(row) for row in await api.listed(PATH, filters, limit)]


async def export(api: Client, target: Path) -> Path:
    """Every line, oldest first, as JSON lines in a file: whole or not at all. Raises Refused, Unreachable."""
    return await api.save(f"{PATH}/export", target)


def check(path: Path, expected: str | None) -> tuple[int, str]:
    """Check an export; returns number and hash of its last line. `expected` (`NUMBER:HASH`) is a head kept before.

    Raises Tampered; OSError: the file cannot be read.
    """
    head = None
    if expected:
        number, _, hash_ = expected.partition(":")
        if not number.isdecimal() or not hash_:
            raise Tampered("HEAD_INVALID", "a head reads NUMBER:HASH")
        head = (int(number), hash_)
    try:
        with path.open() as file:
            return verify(_lines(file), head)
    except Broken as problem:
        raise Tampered("AUDIT_BROKEN", f"The chain does not hold: {problem}.") from problem


def _lines(texts: Iterable[str]) -> Iterable[AuditLine]:
    for number, text in enumerate(texts, 1):
        try:
            yield AuditLine.model_validate_json(text)
        except ValidationError as problem:
            raise Broken(number, "it is none") from problem
