"""What an API key looks like.

    slk_0a1b2c3d4e5f_<32 characters of secret><6 of checksum>

The prefix says whose kind it is, so that secret scanners find one in a repository; the checksum says, without asking
anybody, that it is one and not a look-alike (CRC-32 over all before it, in base 62). The id names the key in lists and
audits and is no secret; the secret has 190 bits of chance, which is why its plain SHA-256 is all that we keep of it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from typing import Final

from runtime.keys import KEY_PREFIX

BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID: Final = "[0-9a-z]{12}"
KEY: Final = re.compile(rf"{KEY_PREFIX}({ID})_[0-9A-Za-z]{{32}}[0-9A-Za-z]{{6}}")
_ID_LETTERS: Final = string.digits + string.ascii_lowercase
CHECKSUM_CHARS: Final = 6


@dataclass(frozen=True, slots=True)
class Given:
    """A key as somebody sent it: the id that it names, and its hash."""

    id: str
    sha256: str


def prefix(id_: str) -> str:
    """How the key of this id begins: what people see of it."""
    return f"{KEY_PREFIX}{id_}"


def made() -> str:
    """A new key."""
    id_ = "".join(secrets.choice(_ID_LETTERS) for _ in range(12))
    secret = "".join(secrets.choice(BASE62) for _ in range(32))
    return signed(f"{KEY_PREFIX}{id_}_{secret}")


def signed(body: str) -> str:
    """A key from all but its checksum."""
    return body + checksum(body)


def read(key: str) -> Given | None:
    """What a key says; None for what cannot be one."""
    found = KEY.fullmatch(key)
    if found is None or checksum(key[:-CHECKSUM_CHARS]) != key[-CHECKSUM_CHARS:]:
        return None
    return Given(found[1], hashlib.sha256(key.encode()).hexdigest())


def checksum(body: str) -> str:
    """CRC-32 in base 62, the highest digit first."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits
