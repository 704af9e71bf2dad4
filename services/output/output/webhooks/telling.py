"""What is to be told becomes rows, in the transaction that makes it known: a crash loses none, and tells none twice.

A message of ours has one webhook-id for all time, so an event that is projected again finds its rows there.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from output.webhooks import events
from output.webhooks.events import TOLD_OF_BATCHES, EventType
from runtime.settle import Delivery

NOTIFY: Final = "output_webhooks"

# A lock on the key only: an endpoint cannot be deleted under our hands, and who delivers is not in our way.
_LISTENERS: Final = (
    "SELECT id, tenant, events, url FROM output.webhooks WHERE kind = 'own' AND enabled AND tenant = ANY($1::text[]) "
    "AND events && $2::text[] FOR KEY SHARE"
)
_ARTIFACTS: Final = (
    "SELECT p.job_id, p.name, p.state->>'artifacts' AS made FROM output.phases p JOIN output.jobs j ON j.id = p.job_id "
    "WHERE p.job_id = ANY($1::uuid[]) AND p.item = '' AND j.phase_names ? p.name "
    "AND jsonb_array_length(p.state->'artifacts') > 0 "
    "ORDER BY p.job_id, (SELECT n FROM jsonb_array_elements_text(j.phase_names) WITH ORDINALITY AS x (name, n) "
    "WHERE x.name = p.name)"
)
# The endpoint that a batch's own URL is; it is there from the first batch that named it.
_NAMED: Final = (
    "INSERT INTO output.webhooks (id, tenant, kind, url, events, key_id) VALUES ($1, $2, 'batch', $3, $4, $5) "
    "ON CONFLICT (tenant, url) WHERE kind = 'batch' DO UPDATE SET url = excluded.url RETURNING id, enabled"
)
_TELL: Final = (
    "WITH told AS (INSERT INTO output.deliveries (webhook_id, message_id, type, body, due_at) "
    "SELECT webhook_id, message_id, type, body, now() "
    "FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY "
    "AS given (webhook_id, message_id, type, body, n) ORDER BY n ON CONFLICT DO NOTHING RETURNING 1) "
    f"SELECT pg_notify('{NOTIFY}', '') WHERE EXISTS (SELECT FROM told)"
)
Row = tuple[UUID, str, str, str]  # webhook, message id, type, body


@dataclass(frozen=True, slots=True)
class Told:
    """An event of a job that was taken in, and the job's row after it."""

    message_id: str
    kind: EventType
    event: Any
    job: Any


async def jobs(conn: asyncpg.Connection, told: Sequence[Told], base_url: str) -> None:
    """Tell endpoints what happened to jobs."""
    if not told:
        return
    tenants = list({one.job.tenant for one in told})
    listeners: defaultdict[tuple[str, str], list[UUID]] = defaultdict(list)
    for row in await conn.fetch(_LISTENERS, tenants, list({str(one.kind) for one in told})):
        for kind in row["events"]:
            listeners[row["tenant"], kind].append(row["id"])
    heard = [one for one in told if (one.job.tenant, str(one.kind)) in listeners]
    if not heard:
        return
    made = await _artifacts(conn, [one.event.job_id for one in heard])
    rows: list[Row] = []
    for one in heard:
        data = events.of_job(one.kind, one.event, one.job, made[one.event.job_id], base_url)
        about = events.message_id(one.message_id), str(one.kind), events.body(one.kind, one.event.at, data)
        rows += [(webhook, *about) for webhook in listeners[one.job.tenant, str(one.kind)]]
    await tell(conn, rows)


async def batches(conn: asyncpg.Connection, told: Sequence[tuple[Delivery, Any]], base_url: str, key_id: str) -> None:
    """Tell endpoints, and the URLs that batches name themselves, what happened to batches."""
    rows: list[Row] = []
    for delivery, event in told:
        kind = TOLD_OF_BATCHES.get(delivery.subject)
        if kind is None:
            continue
        listening = await conn.fetch(_LISTENERS, [event.tenant], [str(kind)])
        webhooks = {row["id"] for row in listening}
        if event.webhook and not any(row["url"] == event.webhook for row in listening):  # who is told is told once
            named = (uuid4(), event.tenant, event.webhook, list(map(str, TOLD_OF_BATCHES.values())), key_id)
            webhooks |= {row["id"] for row in await conn.fetch(_NAMED, *named) if row["enabled"]}
        data = events.of_batch(event, base_url)
        about = events.message_id(delivery.message_id), str(kind), events.body(kind, event.at, data)
        rows += [(webhook, *about) for webhook in webhooks]
    await tell(conn, rows)


async def ping(conn: asyncpg.Connection, webhook: UUID, told_by: str, at: datetime) -> str:
    """Tell one endpoint something that means nothing; returns the message's id."""
    message_id = events.message_id(told_by)
    body = events.body(events.PING, at, {"webhook_id": str(webhook)})
    await tell(conn, [(webhook, message_id, events.PING, body)])
    return message_id


async def tell(conn: asyncpg.Connection, rows: Sequence[Row]) -> None:
    """Each row becomes a delivery, unless it is one already."""
    if rows:
        await conn.execute(_TELL, *map(list, zip(*rows, strict=True)))


async def _artifacts(
    conn: asyncpg.Connection, job_ids: Sequence[UUID]
) -> Mapping[UUID, list[tuple[str, dict[str, Any]]]]:
    found: defaultdict[UUID, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for row in await conn.fetch(_ARTIFACTS, job_ids):
        found[row["job_id"]] += [(row["name"], one) for one in json.loads(row["made"])]
    return found
