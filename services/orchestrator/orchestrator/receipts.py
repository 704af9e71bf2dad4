"""Receipts are signed, so that who has one can show it: Ed25519 over its canonical JSON.

Canonical: keys sorted, no spaces, UTF-8. The signature and the public key are base64.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET_CHARS_MIN: Final = 32


class Signer:
    """Signs with a key that is derived from the secret of the environment."""

    def __init__(self, secret: str) -> None:
        """Raises ValueError for a secret that could be guessed."""
        if len(secret) < SECRET_CHARS_MIN:
            raise ValueError(f"SAFELIGHT_RECEIPT_KEY has {SECRET_CHARS_MIN} characters or more")
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"receipts:{secret}".encode()).digest())

    @property
    def public_key(self) -> str:
        """What verifies our signatures."""
        return base64.b64encode(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()

    def sign(self, receipt: Mapping[str, Any]) -> str:
        """The signature of a receipt."""
        return base64.b64encode(self._key.sign(canonical(receipt))).decode()


def canonical(receipt: Mapping[str, Any]) -> bytes:
    """The bytes that are signed."""
    return json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
