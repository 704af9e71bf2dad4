"""Secrets and signatures of the Standard Webhooks specification. Pure.

An endpoint's secret is derived from a signing key, the endpoint's id and a version: no table holds one. Rotating it
counts the version up; the old one signs beside the new one until its time is over.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from output.signing import SigningKeys

PREFIX: Final = "whsec_"
PURPOSE: Final = "webhook"


@dataclass(frozen=True, slots=True)
class Secret:
    """Which secret: of what (an endpoint's id, or a tenant's batches), under which signing key, which version."""

    of: str
    key_id: str
    version: int

    def bytes(self, keys: SigningKeys) -> bytes:
        """Raises KeyError when the signing key is not known any more."""
        return keys.sign(PURPOSE, f"{self.of}\n{self.version}", self.key_id)

    def shown(self, keys: SigningKeys) -> str:
        """As its owner is shown it."""
        return PREFIX + base64.b64encode(self.bytes(keys)).decode()


def headers(
    keys: SigningKeys, secrets: Sequence[Secret], message_id: str, at: datetime, body: bytes
) -> Mapping[str, str]:
    """The three headers of one try. Raises KeyError when a signing key is not known any more."""
    stamp = str(int(at.timestamp()))
    signed = f"{message_id}.{stamp}.".encode() + body
    signatures = (hmac.digest(secret.bytes(keys), signed, "sha256") for secret in secrets)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in signatures),
    }
