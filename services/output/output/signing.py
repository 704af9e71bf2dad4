"""What output signs with: secrets from the environment, each known by an id that is made of it. Pure.

The first key signs; the others are still believed, so that a key can be rotated: put the new one in front, and take
the old one out when nothing that it signed is in use any more.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

KEY_CHARS_MIN: Final = 32
ID_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """`secret,secret` as keys by their ids. Raises ValueError for none, and for one that is too short."""

    current: str
    _known: dict[str, bytes]

    @classmethod
    def read(cls, text: str) -> SigningKeys:
        secrets = [part.strip().encode() for part in text.split(",") if part.strip()]
        if not secrets or any(len(secret) < KEY_CHARS_MIN for secret in secrets):
            raise ValueError(f"signing keys read secret,secret with {KEY_CHARS_MIN} characters or more each")
        known = {hashlib.sha256(b"id:" + secret).hexdigest()[:ID_DIGITS]: secret for secret in secrets}
        return cls(next(iter(known)), known)

    def sign(self, purpose: str, text: str, key_id: str | None = None) -> bytes:
        """32 bytes that only a holder of the key can make. Raises KeyError for a key that is not known (any more)."""
        secret = self._known[key_id or self.current]
        return hmac.digest(secret, f"{purpose}\n{text}".encode(), "sha256")

    def agrees(self, purpose: str, text: str, signature: bytes, key_id: str, length: int) -> bool:
        """Whether these are so many first bytes of our signature, in constant time."""
        return key_id in self._known and hmac.compare_digest(self.sign(purpose, text, key_id)[:length], signature)
