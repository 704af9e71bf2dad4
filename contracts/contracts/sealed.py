"""The form of a sealed object: what storage and providers see of work that is sealed. Pure: the cipher is given.

    header   magic (8) | id of the key (16) | salt (32)
    chunks   65,536 bytes of content each, the last one shorter (or none), each with its tag of 16 bytes

Each object has a cipher of its own, derived by HKDF-SHA256 (RFC 5869) from the key that the header names, the
salt, and the name under which the object is stored: the bytes of one object do not open as another. Chunks are
sealed by AES-256-GCM, with a nonce that counts them and marks the last (the STREAM construction of Hoang,
Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015), and
with the header beside. So a chunk that was altered, moved, repeated or cut off is noticed; content streams in constant
memory; and any chunk opens by itself, which is what reading a range needs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import SafelightError, error

MAGIC: Final = b"SLsealed"
HEADER_BYTES: Final = 56
SALT_BYTES: Final = 32
KEY_BYTES: Final = 32
CHUNK_BYTES: Final = 64 * 1024
TAG_BYTES: Final = 16
_FULL: Final = CHUNK_BYTES + TAG_BYTES
_PURPOSE: Final = b"safelight sealed object 1"

# `encrypt(nonce, data, associated)`, `decrypt(...)`, as `AESGCM` of cryptography has them; made of a key of 32 bytes.
Cipher = Callable[[bytes], Any]


class Secret(BaseModel):
    """A key on its way to whoever opens or seals one object, and that object's name. It rests nowhere."""

    model_config = ConfigDict(frozen=True)

    id: str
    key: str = Field(repr=False)  # base64
    name: str

    @classmethod
    def of(cls, id_: str, key: bytes, name: str) -> Secret:
        """The key for the object of this name."""
        return cls(id=id_, key=base64.b64encode(key).decode(), name=name)

    @property
    def bytes(self) -> bytes:
        return base64.b64decode(self.key)


def is_sealed(head: bytes | bytearray) -> bool:
    """Whether an object that begins like this is sealed."""
    return head[: len(MAGIC)] == MAGIC


def key_id(head: bytes) -> str:
    """The key that opens the object with this head. Raises SEAL_BROKEN for one that ends within its header."""
    if len(head) < HEADER_BYTES or not is_sealed(head):
        raise _broken("it has no header")
    return str(UUID(bytes=head[len(MAGIC) : len(MAGIC) + 16]))


def sealed_size(size: int) -> int:
    """How many bytes so many bytes of content become."""
    return HEADER_BYTES + size + TAG_BYTES * chunks(size)


def chunks(content: int) -> int:
    """How many chunks so many bytes of content are."""
    return max(1, -(-content // CHUNK_BYTES))


def content_size(size: int) -> int:
    """How many bytes of content are in a sealed object of this size. Raises SEAL_BROKEN when there is none of it."""
    body = size - HEADER_BYTES
    left = body % _FULL
    if body < TAG_BYTES or 0 < left < TAG_BYTES:
        raise _broken("it was cut")
    return body - TAG_BYTES * (-(-body // _FULL))


@dataclass(frozen=True, slots=True)
class Span:
    """The chunks in which a range of the content lies: `first_chunk` is the number of the first.

    `at` and `size` are their bytes in the sealed object, `skip` how much of their content comes before the range.
    """

    first_chunk: int
    at: int
    size: int
    skip: int


def span(first: int, last: int, content: int) -> Span:
    """Where to read for the content's bytes `first` to `last` (both in it), of `content` in all."""
    one, other = first // CHUNK_BYTES, last // CHUNK_BYTES
    end = min((other + 1) * _FULL, sealed_size(content) - HEADER_BYTES)
    return Span(one, HEADER_BYTES + one * _FULL, end - one * _FULL, first - one * CHUNK_BYTES)


class Sealer:
    """Seals one object as its content comes: `header`, then what `add` gives, then what `end` gives."""

    def __init__(self, cipher: Cipher, key: bytes, id_: str, name: str, salt: bytes | None = None) -> None:
        self.header = MAGIC + UUID(id_).bytes + (salt or os.urandom(SALT_BYTES))
        self._chunks = _Chunks(cipher, key, self.header, name)
        self._waiting = bytearray()

    def add(self, content: bytes) -> bytes:
        """Take more of the content; returns what is ready. The last chunk is kept back, since only its end marks it."""
        self._waiting += content
        return b"".join(self._chunks.seal(chunk, last=False) for chunk in _taken(self._waiting, CHUNK_BYTES))

    def end(self) -> bytes:
        """The last chunk."""
        return self._chunks.seal(bytes(self._waiting), last=True)


class Opener:
    """Opens an object, or a range of it, as its bytes come after the header.

    `chunk` is the number of the first one that comes, `chunks` how many the object has; None: the last that comes must
    be its last. Raises SEAL_BROKEN for anything that was not sealed so.
    """

    def __init__(
        self, cipher: Cipher, key: bytes, header: bytes, name: str, *, chunk: int = 0, chunks: int | None = None
    ) -> None:
        self._chunks = _Chunks(cipher, key, header[:HEADER_BYTES], name, chunk)
        self._last = None if chunks is None else chunks - 1  # the number of the object's last one, where it is known
        self._waiting = bytearray()

    def add(self, sealed: bytes) -> bytes:
        """Take more; returns the content that is certain."""
        self._waiting += sealed
        return b"".join(self._chunks.open(chunk, last=False) for chunk in _taken(self._waiting, _FULL))

    def end(self) -> bytes:
        """The rest, when no more comes: it must be the object's last chunk, or the last of the range."""
        last = self._last is None or self._chunks.number == self._last
        return self._chunks.open(bytes(self._waiting), last=last)


def seal(cipher: Cipher, key: bytes, id_: str, name: str, content: bytes) -> bytes:
    """A whole object at once."""
    sealer = Sealer(cipher, key, id_, name)
    return sealer.header + sealer.add(content) + sealer.end()


def unseal(cipher: Cipher, key: bytes, name: str, sealed: bytes) -> bytes:
    """The content of a whole object. Raises SEAL_BROKEN."""
    key_id(sealed[:HEADER_BYTES])
    opener = Opener(cipher, key, sealed[:HEADER_BYTES], name)
    return opener.add(sealed[HEADER_BYTES:]) + opener.end()


class _Chunks:
    """Seals or opens one chunk after the other, from a number on."""

    def __init__(self, cipher: Cipher, key: bytes, header: bytes, name: str, number: int = 0) -> None:
        salt = header[-SALT_BYTES:]
        self._aead = cipher(_derived(key, salt, _PURPOSE + b"\0" + name.encode()))
        self._header = header
        self.number = number

    def seal(self, content: bytes, *, last: bool) -> bytes:
        found: bytes = self._aead.encrypt(self._nonce(last), content, self._header)
        return found

    def open(self, sealed: bytes, *, last: bool) -> bytes:
        if len(sealed) < TAG_BYTES:
            raise _broken("it was cut")
        try:
            found: bytes = self._aead.decrypt(self._nonce(last), sealed, self._header)
        except Exception as problem:  # the given cipher's own: InvalidTag
            raise _broken("a chunk is not what was sealed there") from problem
        return found

    def _nonce(self, last: bool) -> bytes:
        number, self.number = self.number, self.number + 1
        return number.to_bytes(11, "big") + (b"\1" if last else b"\0")


def _taken(waiting: bytearray, size: int) -> list[bytes]:
    """The whole chunks at the front, taken off at once; never the last one, which may be the end."""
    end = max(0, len(waiting) - 1) // size * size
    with memoryview(waiting) as view:
        taken = [bytes(view[at : at + size]) for at in range(0, end, size)]
    del waiting[:end]
    return taken


def _derived(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """HKDF-SHA256 to 32 bytes: one block."""
    extracted = hmac.new(salt, key, hashlib.sha256).digest()
    return hmac.new(extracted, purpose + b"\1", hashlib.sha256).digest()


def _broken(why: str) -> SafelightError:
    return error("SEAL_BROKEN", f"a sealed object cannot be opened: {why}")
