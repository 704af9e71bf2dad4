"""The ledger of deliveries: who sees to which endpoint, what is due, what came of it.

An endpoint is leased as a whole, so its deliveries leave in order, one slow endpoint holds up nobody else's, and
replicas share the endpoints between them. A lease that nobody renews is over by itself: what a dead process had in
hand is delivered again, under the same webhook-id. Whoever changes an endpoint or its deliveries locks the
endpoint's row first, so none waits for another that waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from output.webhooks.schedule import DISABLED_AFTER, Answer, next_try_s, rest_s
from output.webhooks.signature import Secret

# An endpoint that is well comes before one that fails, whoever waits longer.
_CLAIM: Final = """
UPDATE output.webhooks AS w SET lease_owner = $1, leased_until = now() + $2 * interval '1 second'
FROM (
    SELECT id FROM output.webhooks
    WHERE enabled AND (leased_until IS NULL OR leased_until <= now() OR lease_owner = $1) AND id <> ALL($5::uuid[])
      AND (failing_since IS NOT NULL) = $3
      AND (rest_until IS NULL OR rest_until <= now())
      AND EXISTS (SELECT FROM output.deliveries d
                  WHERE d.webhook_id = webhooks.id AND d.status = 'pending' AND d.due_at <= now())
    ORDER BY leased_until NULLS FIRST, id LIMIT $4 FOR NO KEY UPDATE SKIP LOCKED
) AS free WHERE w.id = free.id RETURNING w.id
"""
_RENEW: Final = """
UPDATE output.webhooks SET leased_until = now() + $3 * interval '1 second'
WHERE id = $1 AND lease_owner = $2 AND leased_until > now() AND enabled AND (rest_until IS NULL OR rest_until <= now())
RETURNING *, now() AS now
"""
_DUE: Final = """
SELECT message_id, body, tries FROM output.deliveries
WHERE webhook_id = $1 AND status = 'pending' AND due_at <= now() ORDER BY n LIMIT $2
"""
_RELEASE: Final = "UPDATE output.webhooks SET leased_until = now() WHERE id = $1 AND lease_owner = $2"
_NEXT: Final = """
SELECT extract(epoch FROM min(greatest(
    d.due_at, w.rest_until, CASE WHEN w.lease_owner <> $2 THEN w.leased_until END)) - now())::float8
FROM output.webhooks w
JOIN LATERAL (SELECT min(due_at) AS due_at FROM output.deliveries
              WHERE webhook_id = w.id AND status = 'pending') d ON d.due_at IS NOT NULL
WHERE w.enabled AND w.id <> ALL($1::uuid[])
"""
_STILL_THERE: Final = "SELECT FROM output.webhooks WHERE id = $1 FOR NO KEY UPDATE"
_ATTEMPTS: Final = """
INSERT INTO output.attempts (webhook_id, message_id, at, seconds, status_code, code)
SELECT $1, * FROM unnest($2::text[], $3::timestamptz[], $4::float8[], $5::int[], $6::text[])
"""
_DELIVERED: Final = """
UPDATE output.deliveries SET status = 'delivered', tries = tries + 1, due_at = NULL, ended_at = now()
WHERE webhook_id = $1 AND message_id = ANY($2::text[]) AND status = 'pending'
"""
_AGAIN: Final = """
UPDATE output.deliveries SET tries = tries + 1, due_at = now() + told.wait * interval '1 second',
    status = CASE WHEN told.wait IS NULL THEN 'failed' ELSE 'pending' END,
    ended_at = CASE WHEN told.wait IS NULL THEN now() END
FROM unnest($2::text[], $3::float8[]) AS told (id, wait)
WHERE webhook_id = $1 AND message_id = told.id AND status = 'pending'
"""
_WELL: Final = (
    "UPDATE output.webhooks SET failing_since = NULL, failures = 0, rest_until = NULL "
    "WHERE id = $1 AND failing_since IS NOT NULL"
)
_FAILED: Final = """
UPDATE output.webhooks SET failures = failures + 1, rest_until = now() + $2 * interval '1 second',
    failing_since = coalesce(failing_since, now())
WHERE id = $1 RETURNING now() - failing_since > $3 AS too_long
"""
_DISABLE: Final = (
    "UPDATE output.webhooks SET enabled = false, disabled_code = $2, disabled_at = now() WHERE id = $1 AND enabled"
)
_GIVE_UP: Final = (
    "UPDATE output.deliveries SET status = 'failed', due_at = NULL, ended_at = now() "
    "WHERE webhook_id = $1 AND status = 'pending'"
)
_BATCH_SECRET: Final = "SELECT * FROM output.batch_secrets WHERE tenant = $1"  # noqa: S105
_PRUNE: Final = (
    "DELETE FROM output.deliveries WHERE ended_at < now() - $1::interval",
    "DELETE FROM output.attempts WHERE at < now() - $1::interval",
)


@dataclass(frozen=True, slots=True)
class Due:
    """One delivery whose time has come. `tries` were made before."""

    message_id: str
    body: bytes
    tries: int


@dataclass(frozen=True, slots=True)
class Work:
    """An endpoint, the secrets that sign now, and what it is to be told. `failures` are in a row."""

    webhook: UUID
    url: str
    secrets: tuple[Secret, ...]
    failures: int
    due: tuple[Due, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one try."""

    due: Due
    at: datetime
    answer: Answer
    chance: float  # 0..1, for the jitter


async def claim(
    conn: asyncpg.Connection, owner: UUID, lease_s: float, *, failing: bool, most: int, busy: Sequence[UUID]
) -> list[UUID]:
    """Lease endpoints that have something due and are not `busy`, either of those that fail or of the others."""
    return [row["id"] for row in await conn.fetch(_CLAIM, owner, lease_s, failing, most, busy)]


async def work(
    conn: asyncpg.Connection, webhook: UUID, owner: UUID, lease_s: float, *, most: int, default_key: str
) -> Work | None:
    """What is due at an endpoint that we hold, and the lease made longer. None when it is not ours any more."""
    row = await conn.fetchrow(_RENEW, webhook, owner, lease_s)
    if row is None:
        return None
    # An endpoint that fails is tried with one delivery: the others need not fail with it.
    due = await conn.fetch(_DUE, webhook, 1 if row["failing_since"] else most)
    secret = await conn.fetchrow(_BATCH_SECRET, row["tenant"]) if row["kind"] == "batch" else row
    secrets = secrets_of(row, secret, row["now"], default_key)
    return Work(
        webhook=webhook,
        url=row["url"],
        secrets=secrets,
        failures=row["failures"],
        due=tuple(Due(one["message_id"], one["body"].encode(), one["tries"]) for one in due),
    )


def secrets_of(webhook: Any, secret: Any, now: datetime, default_key: str) -> tuple[Secret, ...]:
    """The secrets that sign: the newest first. `secret` is None for batches whose secret nobody has asked for yet."""
    of = f"batches:{webhook['tenant']}" if webhook["kind"] == "batch" else f"endpoint:{webhook['id']}"
    if secret is None:
        return (Secret(of, default_key, 1),)
    newest = Secret(of, secret["key_id"], secret["secret_version"])
    if secret["previous_until"] is None or secret["previous_until"] <= now:
        return (newest,)
    return (newest, Secret(of, secret["previous_key_id"], secret["previous_version"]))


async def settle(conn: asyncpg.Connection, given: Work, tried: Sequence[Tried]) -> str | None:
    """Write down what came of tries. Returns the code under which the endpoint was disabled by it, if it was."""
    webhook = given.webhook
    if await conn.fetchrow(_STILL_THERE, webhook) is None:
        return None  # deleted meanwhile, and its log with it
    columns = [(one.due.message_id, one.at, one.answer.seconds, one.answer.status, one.answer.code) for one in tried]
    await conn.execute(_ATTEMPTS, webhook, *map(list, zip(*columns, strict=True)))
    good = [one for one in tried if one.answer.code is None]
    bad = [one for one in tried if one.answer.code is not None]
    if good:
        await conn.execute(_DELIVERED, webhook, [one.due.message_id for one in good])
        await conn.execute(_WELL, webhook)
    if not bad:
        return None
    waits = [next_try_s(one.due.tries + 1, one.answer, one.chance) for one in bad]
    await conn.execute(_AGAIN, webhook, [one.due.message_id for one in bad], waits)
    too_long = False
    if not good:
        rest = rest_s(given.failures + 1, [one.answer for one in bad])
        too_long = await conn.fetchval(_FAILED, webhook, rest, DISABLED_AFTER)
    gone = any(one.answer.code == "WEBHOOK_GONE" for one in bad)
    code = "WEBHOOK_GONE" if gone else "WEBHOOK_FAILING" if too_long else None
    if code:
        await conn.execute(_DISABLE, webhook, code)
        await conn.execute(_GIVE_UP, webhook)
    return code


async def release(conn: asyncpg.Connection, webhook: UUID, owner: UUID) -> None:
    """Let go of an endpoint that has nothing due now."""
    await conn.execute(_RELEASE, webhook, owner)


async def seconds_until_due(conn: asyncpg.Connection, owner: UUID, busy: Sequence[UUID]) -> float | None:
    """Until something is due at an endpoint that is none of the `busy` ones. None: nothing is."""
    found: float | None = await conn.fetchval(_NEXT, busy, owner)
    return found


async def prune(conn: asyncpg.Connection, kept: Any) -> None:
    """Forget deliveries that ended, and tries that were made, longer ago than this."""
    for statement in _PRUNE:
        await conn.execute(statement, kept)
