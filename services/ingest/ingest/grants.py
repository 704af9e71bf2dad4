"""Upload grants: short-lived tokens with which a browser uploads, for a tenant, so much and no more.

    slg_<claims>.<signature>       both in base64url; claims: {"k": key id, "g": grant, "t": tenant, "e": expiry}

The signature (HMAC-SHA-256, by a secret of the environment) says that the token is ours, without asking anybody. What
it allows is a row, where its uses are counted: the last one is given to one upload, however many want it at once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import error
from ingest.acts import noted
from ingest.tables import GRANTS, KEYS
from runtime import clock
from runtime.keys import GRANT_PREFIX, Asker
from runtime.outbox import Outbox

SECRET_CHARS_MIN: Final = 32
_PART: Final = re.compile(r"[A-Za-z0-9_-]{1,1024}")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself."""

    grant: UUID
    tenant: str
    expires_at: datetime  # whole seconds


class Signer:
    """Signs tokens with the first of `id:secret,id:secret`, and knows those of all of them: so secrets are rotated."""

    def __init__(self, secrets: str) -> None:
        pairs = [pair.strip().partition(":") for pair in secrets.split(",") if pair.strip()]
        if any(not id_ or len(secret) < SECRET_CHARS_MIN for id_, _, secret in pairs):
            raise ValueError(
                f"SAFELIGHT_GRANT_KEYS reads id:secret,id:secret, each of {SECRET_CHARS_MIN} characters or more"
            )
        self._secrets = {id_: secret.encode() for id_, _, secret in pairs}

    @property
    def can_sign(self) -> bool:
        """Whether there is a secret."""
        return bool(self._secrets)

    def sign(self, claims: Claims) -> str:
        """A token."""
        id_ = next(iter(self._secrets))
        said = {"k": id_, "g": str(claims.grant), "t": claims.tenant, "e": int(claims.expires_at.timestamp())}
        body = _coded(json.dumps(said, separators=(",", ":")).encode())
        return f"{GRANT_PREFIX}{body}.{_coded(self._signature(id_, body))}"

    def read(self, token: str) -> Claims | None:
        """What a token claims; None for one that we did not sign. Whether it is over, is not looked at."""
        body, _, signature = token.removeprefix(GRANT_PREFIX).partition(".")
        if not token.startswith(GRANT_PREFIX) or not _PART.fullmatch(body) or not _PART.fullmatch(signature):
            return None
        try:
            said = json.loads(_decoded(body))
            if not hmac.compare_digest(self._signature(said["k"], body), _decoded(signature)):
                return None
            return Claims(UUID(said["g"]), said["t"], datetime.fromtimestamp(said["e"], UTC))
        except (binascii.Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def _signature(self, id_: str, body: str) -> bytes:
        return hmac.digest(self._secrets[id_], f"{GRANT_PREFIX}{body}".encode(), hashlib.sha256)


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class Grant:
    """What a grant allows: `files` of at most `bytes_max` each, of these media types (None: all that a pipeline takes).

    `fields` are the uploads' options as they are; the uploader may choose those in `open_fields`, and no others.
    """

    id: UUID
    tenant: str
    files: int
    bytes_max: int
    media_types: list[str] | None
    fields: Mapping[str, str]
    open_fields: list[str]
    used: int
    made_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None

    @property
    def claims(self) -> Claims:
        """As its token tells them."""
        return Claims(self.id, self.tenant, self.expires_at)

    def allows(self, fields: Mapping[str, str]) -> dict[str, str]:
        """An upload's fields, with those that the grant sets. Raises FORBIDDEN."""
        for name, value in fields.items():
            if name not in self.open_fields and self.fields.get(name) != value:
                raise error("FORBIDDEN", f"{name}: this upload grant does not leave it open.")
        return {**fields, **self.fields}

    def check(self, size: int | None, media_type: str | None) -> None:
        """Whether it is for such a file, as far as that is known.

        Raises:
            SafelightError: UPLOAD_TOO_LARGE, MEDIA_TYPE_UNSUPPORTED.
        """
        if size is not None and size > self.bytes_max:
            raise error("UPLOAD_TOO_LARGE", f"This upload grant is for files of {self.bytes_max} bytes at most.")
        if media_type is not None and self.media_types is not None and media_type not in self.media_types:
            raise error("MEDIA_TYPE_UNSUPPORTED", f"This upload grant is for {', '.join(self.media_types)}.")


_COLUMNS: Final = [GRANTS.c[name] for name in Grant.__dataclass_fields__]


@dataclass(frozen=True, slots=True)
class Grants:
    """The rows."""

    engine: AsyncEngine
    outbox: Outbox
    signer: Signer

    async def make(self, asker: Asker, **allowed: Any) -> Grant:
        """A new one. Raises SERVICE_UNAVAILABLE where there is no secret to sign it with."""
        if not self.signer.can_sign:
            raise error("SERVICE_UNAVAILABLE", "Upload grants need SAFELIGHT_GRANT_KEYS.")
        row = insert(GRANTS).values(
            id=uuid4(), tenant=asker.tenant, made_by=asker.who, key_id=asker.key, used=0, **allowed
        )
        async with self.outbox.transaction() as (conn, told):
            made = Grant(**(await conn.execute(row.returning(*_COLUMNS))).one()._mapping)
            until = made.expires_at.isoformat()
            about = {"key": asker.key, "files": made.files, "bytes_max": made.bytes_max, "until": until}
            told.append(noted(f"tenant:{made.tenant}", "grant.made", str(made.id), made.tenant, about))
        return made

    async def one(self, tenant: str, id_: UUID) -> Grant:
        """A tenant's. Raises NOT_FOUND."""
        return await self._found(select(*_COLUMNS).where(GRANTS.c.id == id_, GRANTS.c.tenant == tenant))

    async def revoke(self, tenant: str, id_: UUID) -> Grant:
        """Let nothing more come with it. Raises NOT_FOUND."""
        columns = GRANTS.c
        mine = (columns.id == id_) & (columns.tenant == tenant)
        working = update(GRANTS).where(mine, columns.revoked_at.is_(None))
        async with self.outbox.transaction() as (conn, told):
            if (await conn.execute(working.values(revoked_at=clock.now()))).rowcount:
                told.append(noted(f"tenant:{tenant}", "grant.revoked", str(id_), tenant))
        return await self.one(tenant, id_)

    async def asker(self, token: str) -> Asker | None:
        """Who asks with this token, if it works: it is over when the key that made it is revoked."""
        claims = self.signer.read(token)
        if claims is None or claims.expires_at <= clock.now():
            return None
        columns = GRANTS.c
        query = (
            select(columns.id)
            .outerjoin(KEYS, KEYS.c.id == columns.key_id)
            .where(columns.id == claims.grant, columns.revoked_at.is_(None), KEYS.c.revoked_at.is_(None))
        )
        async with self.engine.connect() as conn:
            if (await conn.execute(query)).one_or_none() is None:
                return None
        return Asker(claims.tenant, claims.tenant, frozenset(), None, str(claims.grant), claims.expires_at)

    async def _found(self, query: Any) -> Grant:
        async with self.engine.connect() as conn:
            row = (await conn.execute(query)).one_or_none()
        if row is None:
            raise error("NOT_FOUND")
        return Grant(**row._mapping)


async def spend(conn: AsyncConnection, id_: UUID) -> None:
    """Count one use, in the transaction that takes the upload in. Who comes when the last is being taken waits here.

    Raises:
        SafelightError: GRANT_SPENT.
    """
    columns = GRANTS.c
    one = update(GRANTS).where(columns.id == id_, columns.used < columns.files, columns.revoked_at.is_(None))
    if not (await conn.execute(one.values(used=columns.used + 1))).rowcount:
        raise error("GRANT_SPENT")
