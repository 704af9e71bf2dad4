"""The audit: one place where it says who did, saw or moved what, append-only and chained (`contracts.audit`).

People's acts are noted in the transaction that does them; what other rooms tell comes as events. A trigger numbers
and chains the lines, whoever inserts them; who adds one waits until the one before is committed, so it comes last in
its transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.audit import GENESIS, AuditNoted
from orchestrator import store
from runtime import postgres
from runtime.settle import Delivery

ROOM: Final = "orchestrator"
EXPORTED_AT_ONCE: Final = 1000
_TOLD: Final = ("id", "at", "room", "tenant", "who", "action", "subject", "why")
_LINE: Final = "id, at, room, tenant, who, action, subject, why, details::text AS details, hash"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts (`tenant:demo`, `operator:ops`), whose jobs they may touch (None: everybody's), and why."""

    who: str
    tenant: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which lines are asked for; None: any."""

    subject: str | None = None
    tenant: str | None = None
    who: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def note(
    conn: asyncpg.Connection,
    actor: Actor,
    action: str,
    subject: str,
    details: Mapping[str, Any] | None = None,
    tenant: str | None = None,
) -> None:
    """Add a line to the audit, in the caller's transaction."""
    await conn.execute(
        "INSERT INTO orchestrator.audit (room, tenant, who, action, subject, why, details) "
        f"VALUES ('{ROOM}', $1, $2, $3, $4, $5, $6::text::jsonb)",
        tenant or actor.tenant,
        actor.who,
        action,
        subject,
        actor.why,
        store.as_json(dict(details or {})),
    )


@dataclass(frozen=True, slots=True)
class Audit:
    """What other rooms tell, and what is read of it."""

    engine: AsyncEngine

    async def noted(self, deliveries: Sequence[Delivery]) -> None:
        """Take lines in, in the order in which they came; one that is there already is not added twice.

        Raises ValidationError for a body that is none.
        """
        told = {one.id: one for one in (AuditNoted.model_validate_json(delivery.body) for delivery in deliveries)}
        columns = [(*(getattr(one, name) for name in _TOLD), store.as_json(one.details)) for one in told.values()]
        async with postgres.transaction(self.engine) as conn:
            await conn.execute(
                "INSERT INTO orchestrator.audit (told_as, at, room, tenant, who, action, subject, why, details) "
                "SELECT told_as, at, room, tenant, who, action, subject, why, details::jsonb "
                "FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], "
                "$7::text[], $8::text[], $9::text[]) WITH ORDINALITY "
                "AS told (told_as, at, room, tenant, who, action, subject, why, details, n) "
                "ORDER BY n ON CONFLICT (told_as) DO NOTHING",
                *map(list, zip(*columns, strict=True)),
            )

    async def page(self, wanted: Filter, limit: int, before: int | None) -> list[Any]:
        """Lines, newest first, of lower numbers than `before`."""
        async with postgres.transaction(self.engine) as conn:
            return list(
                await conn.fetch(
                    f"SELECT {_LINE} FROM orchestrator.audit WHERE ($1::text IS NULL OR subject = $1) "
                    "AND ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR who = $3) "
                    "AND ($4::text IS NULL OR action = $4) AND ($5::timestamptz IS NULL OR at >= $5) "
                    "AND ($6::timestamptz IS NULL OR at < $6) AND ($7::bigint IS NULL OR id < $7) "
                    "ORDER BY id DESC LIMIT $8",
                    wanted.subject,
                    wanted.tenant,
                    wanted.who,
                    wanted.action,
                    wanted.since,
                    wanted.until,
                    before,
                    limit,
                )
            )

    async def all(self) -> AsyncIterator[list[Any]]:
        """Every line from the first on, a thousand at once."""
        after = 0
        while True:
            async with postgres.transaction(self.engine) as conn:
                rows = await conn.fetch(
                    f"SELECT {_LINE} FROM orchestrator.audit WHERE id > $1 ORDER BY id LIMIT {EXPORTED_AT_ONCE}", after
                )
            if not rows:
                return
            yield list(rows)
            after = rows[-1]["id"]


async def head(conn: asyncpg.Connection) -> tuple[int, str]:
    """Number and hash of the last line."""
    row = await conn.fetchrow("SELECT id, hash FROM orchestrator.audit ORDER BY id DESC LIMIT 1")
    return (row["id"], row["hash"]) if row else (0, GENESIS)
