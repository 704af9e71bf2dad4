"""Erasures as their owner asks for them and follows them, and receipts as anybody checks them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from console.client import Client, ClientError
from console.jobs import Read

PATH: Final = "/v1/erasures"
LOOK_EVERY_S: Final = 0.5


class Erasure(Read):
    """An erasure as it stands."""

    id: str
    state: str
    target: str
    target_id: str
    jobs: int
    waits_for: list[str]
    requested_at: datetime
    ended_at: datetime | None = None
    receipt: dict[str, Any] | None = None
    signature: str | None = None


class Forged(ClientError):
    """A receipt that the key did not sign."""


async def request(api: Client, body: dict[str, Any]) -> Erasure:
    """Ask for it, and wait for the receipt. Raises Refused (NOT_FOUND, LEGAL_HOLD), Unreachable."""
    found = Erasure.model_validate(await api.post(PATH, body))
    while found.ended_at is None:
        await asyncio.sleep(LOOK_EVERY_S)
        found = await show(api, found.id)
    return found


async def show(api: Client, id_: str) -> Erasure:
    """One erasure. Raises Refused, Unreachable."""
    return Erasure.model_validate(await api.get(f"{PATH}/{id_}"))


async def public_key(api: Client) -> str:
    """What verifies receipts. Raises Refused, Unreachable."""
    return str((await api.get(f"{PATH}/key"))["public_key"])


def check(path: Path, key: str) -> dict[str, Any]:
    """The receipt in a file (as `--json` printed it), if the key has signed it. Raises Forged."""
    try:
        told = json.loads(path.read_text())
        receipt: dict[str, Any] = told["receipt"]
        signed = json.dumps(receipt, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True))
        public.verify(base64.b64decode(told["signature"], validate=True), signed)
    except (ValueError, KeyError, TypeError, binascii.Error, InvalidSignature) as problem:
        raise Forged("RECEIPT_INVALID", "This is no receipt that the key has signed.") from problem
    return receipt
