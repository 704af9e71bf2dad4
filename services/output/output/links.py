"""Links of our own: whoever has one needs no key, until it expires, was used once, or is revoked.

A token is a signing key's id, the link's id and a signature: what is none of ours costs no question to the database.
What a link leads to, for how long and how often is its row; of many who use a single use at once one gets it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import Row, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import Transient, error
from output.signing import ID_DIGITS, SigningKeys
from output.tables import LINKS
from runtime import logs

PURPOSE: Final = "link"
SIGNATURE_BYTES: Final = 16  # of 32: nobody guesses 128 bits
TTL_S_MOST: Final = 30 * 24 * 3600
KEPT: Final = timedelta(days=7)  # after its end, so that it is told why it does not work
PRUNE_S: Final = 3600.0
log = logs.get()


def token(keys: SigningKeys, link_id: UUID, key_id: str) -> str:
    """What makes the link. Raises KeyError when its signing key is not known any more."""
    signed = link_id.bytes + keys.sign(PURPOSE, str(link_id), key_id)[:SIGNATURE_BYTES]
    return key_id + base64.urlsafe_b64encode(signed).decode().rstrip("=")


def read_token(keys: SigningKeys, text: str) -> UUID:
    """The link that a token is of. Raises NOT_FOUND for one that we did not sign."""
    key_id, rest = text[:ID_DIGITS], text[ID_DIGITS:]
    try:
        signed = base64.urlsafe_b64decode(rest + "=" * (-len(rest) % 4))
        link_id = UUID(bytes=signed[:16])
    except (ValueError, binascii.Error):
        raise error("NOT_FOUND") from None
    if not keys.agrees(PURPOSE, str(link_id), signed[16:], key_id, SIGNATURE_BYTES) or text != token(
        keys, link_id, key_id
    ):
        raise error("NOT_FOUND")
    return link_id


async def make(
    conn: AsyncConnection,
    tenant: str,
    key_id: str,
    ttl_s: int,
    single_use: bool,
    leads_to: Sequence[dict[str, Any]],
) -> list[Row[Any]]:
    """New links; each leads to a `job_id` or a `batch_id` and its `artifacts`."""
    common = {"tenant": tenant, "key_id": key_id, "single_use": single_use}
    rows = [
        {"id": uuid4(), "job_id": None, "batch_id": None, **common, **one, "expires_at": func.now() + _seconds(ttl_s)}
        for one in leads_to
    ]
    return list(await conn.execute(insert(LINKS).values(rows).returning(LINKS)))


def _seconds(ttl_s: int) -> timedelta:
    return timedelta(seconds=ttl_s)


async def of(
    conn: AsyncConnection, tenant: str, *, job_id: UUID | None = None, batch_id: UUID | None = None
) -> list[Row[Any]]:
    """A tenant's links to a job or a batch, newest first."""
    which = LINKS.c.job_id == job_id if job_id else LINKS.c.batch_id == batch_id
    query = select(LINKS).where(LINKS.c.tenant == tenant, which).order_by(LINKS.c.created_at.desc(), LINKS.c.id)
    return list(await conn.execute(query.limit(500)))


async def revoke(conn: AsyncConnection, tenant: str, link_id: UUID) -> bool:
    """It does not work any more; False when it was revoked before. Raises NOT_FOUND."""
    mine = (LINKS.c.id == link_id, LINKS.c.tenant == tenant)
    gone = update(LINKS).where(*mine, LINKS.c.revoked_at.is_(None)).values(revoked_at=func.now())
    if (await conn.execute(gone)).rowcount:
        return True
    if (await conn.execute(select(LINKS.c.id).where(*mine))).one_or_none() is None:
        raise error("NOT_FOUND")
    return False


async def working(conn: AsyncConnection, link_id: UUID) -> Row[Any]:
    """A link that works now. Raises NOT_FOUND, LINK_REVOKED, LINK_USED, LINK_EXPIRED."""
    query = select(LINKS, (LINKS.c.expires_at <= func.now()).label("expired")).where(LINKS.c.id == link_id)
    row = (await conn.execute(query)).one_or_none()
    if row is None:
        raise error("NOT_FOUND")
    if row.revoked_at:
        raise error("LINK_REVOKED")
    if row.used_at:
        raise error("LINK_USED")
    if row.expired:
        raise error("LINK_EXPIRED")
    return row


async def use(conn: AsyncConnection, link_id: UUID) -> None:
    """Use a single use up, when what it leads to is at hand. Raises LINK_USED for all but one."""
    free = (LINKS.c.id == link_id, LINKS.c.used_at.is_(None), LINKS.c.revoked_at.is_(None))
    if not (await conn.execute(update(LINKS).where(*free).values(used_at=func.now()))).rowcount:
        raise error("LINK_USED")


async def prune_forever(engine: AsyncEngine) -> None:
    """Forget links that ended long ago, until cancelled."""
    while True:
        try:
            async with engine.begin() as conn:
                await conn.execute(LINKS.delete().where(LINKS.c.expires_at < func.now() - KEPT))
        except Transient as problem:
            log.warning("links.prune_failed", code=problem.code)
        await asyncio.sleep(PRUNE_S)


def state(row: Row[Any], now: datetime) -> str:
    """working, used, revoked or expired."""
    if row.revoked_at:
        return "revoked"
    if row.used_at:
        return "used"
    return "working" if row.expires_at > now else "expired"
