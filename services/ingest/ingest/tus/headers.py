"""What a tus request says in its headers, read strictly: strangers wrote them. Raises REQUEST_INVALID throughout.

Pure. No value of a header ever appears in an error.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from contracts.errors import error

VERSION: Final = "1.0.0"
EXTENSIONS: Final = "creation,creation-with-upload,checksum,expiration,termination,concatenation"
ALGORITHMS: Final = ("sha1", "sha256", "sha512", "md5")
BODY: Final = "application/offset+octet-stream"
HEADER_CHARS_MAX: Final = 8192
CONCAT_MAX: Final = 100  # parts of one file

# What clients send of a file by themselves. It is repeated to them and used for nothing.
ABOUT_FILES: Final = frozenset({"filename", "filetype", "name", "type", "relativePath", "contentType", "fileName"})

_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_KEY: Final = re.compile(r"[!-+\--~]{1,64}", re.ASCII)  # no space, no comma


@dataclass(frozen=True, slots=True)
class Checksum:
    """What the bytes of one request must hash to."""

    algorithm: str
    digest: bytes


def number(name: str, value: str | None) -> int:
    """A count of bytes that must be there."""
    if value is None or not _NUMBER.fullmatch(value):
        raise error("REQUEST_INVALID", f"{name} must be a number of bytes.")
    return int(value)


def metadata(value: str | None) -> dict[str, str]:
    """Upload-Metadata as fields: keys with values in base64. What clients say of the file itself is left out."""
    fields: dict[str, str] = {}
    seen: set[str] = set()
    if not value:
        return fields
    if len(value) > HEADER_CHARS_MAX:
        raise error("REQUEST_INVALID", f"Upload-Metadata has {HEADER_CHARS_MAX} characters at most.")
    for pair in value.split(","):
        key, _, coded = pair.strip().partition(" ")
        if not _KEY.fullmatch(key) or key in seen:
            raise error("REQUEST_INVALID", "Upload-Metadata holds each key once, and a value in base64 behind it.")
        seen.add(key)
        try:
            text = base64.b64decode(coded, validate=True).decode()
        except (binascii.Error, ValueError) as problem:
            raise error("REQUEST_INVALID", "Upload-Metadata holds texts in UTF-8 in base64.") from problem
        if key not in ABOUT_FILES:
            fields[key] = text
    return fields


def checksum(value: str | None) -> Checksum | None:
    """Upload-Checksum: an algorithm and a digest in base64."""
    if value is None:
        return None
    algorithm, _, coded = value.partition(" ")
    if algorithm not in ALGORITHMS:
        raise error("REQUEST_INVALID", f"Upload-Checksum knows {', '.join(ALGORITHMS)}.")
    try:
        return Checksum(algorithm, base64.b64decode(coded, validate=True))
    except (binascii.Error, ValueError) as problem:
        raise error("REQUEST_INVALID", "Upload-Checksum holds a digest in base64.") from problem


def concat(value: str | None) -> tuple[str | None, tuple[UUID, ...]]:
    """Upload-Concat: (None, `partial` or `final`; of what a final one is made)."""
    if value is None or value == "partial":
        return value, ()
    kind, _, urls = value.partition(";")
    parts = urls.split()
    if kind != "final" or not parts or len(parts) > CONCAT_MAX or len(value) > HEADER_CHARS_MAX:
        raise error("REQUEST_INVALID", f"Upload-Concat reads partial, or final; and 1 to {CONCAT_MAX} addresses.")
    try:
        ids = tuple(UUID(url.rstrip("/").rpartition("/")[2]) for url in parts)
    except ValueError as problem:
        raise error("REQUEST_INVALID", "Upload-Concat names uploads of this service.") from problem
    if len(set(ids)) != len(ids):
        raise error("REQUEST_INVALID", "Upload-Concat names each upload once.")
    return "final", ids
