"""Erasure: somebody's data is gone from every room, the broker and the dead letters, and a signed receipt says so.

    stopping    jobs that still run are cancelled; a hold refuses all of it
    erasing     our rows are gone, each other room was asked in the same transaction and answers with counts
    scrubbing   every room has answered: messages about the jobs are deleted from the streams
    succeeded   the receipt is signed, with the audit's head in it

What is erased is an upload with every version of it, a batch with its uploads, or all that belongs to one subject (a
student); retention asks for the same. The audit stays: it names ids, and never what a file held.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.erasures import ERASURE_REQUESTED, JOBS_MAX, ROOMS, ErasureDone, ErasureRequested
from contracts.errors import error
from contracts.jobs import Status
from orchestrator import holds, store
from orchestrator.audit import Actor, head, note
from orchestrator.operations import Operations
from orchestrator.receipts import Signer
from orchestrator.scrub import scrub
from orchestrator.shell import SOURCE
from runtime import clock, logs, postgres
from runtime.outbox import Outbox, Outgoing, outgoing
from runtime.settle import Delivery

if TYPE_CHECKING:
    from nats.js import JetStreamContext

Target = Literal["upload", "batch", "subject", "retention"]
_RUNNING: Final = [str(status) for status in Status if not status.is_terminal]
# Of the uploads that a target names, every version, whichever batch that is in.
_WHOSE: Final = {
    "upload": "upload_id = $2::uuid",
    "batch": "batch_id = $2::uuid",
    "subject": "subject = $2",
}
log = logs.get()


@dataclass(frozen=True, slots=True)
class Erasures:
    """The use cases. Replicas share the work: an erasure is locked while one of them moves it on."""

    engine: AsyncEngine
    js: JetStreamContext
    outbox: Outbox
    operations: Operations
    signer: Signer

    async def request(self, actor: Actor, tenant: str, target: Target, target_id: str) -> UUID:
        """Let everything of a target be erased; returns the erasure's id.

        Raises NOT_FOUND: this tenant has no such thing (any more); LEGAL_HOLD.
        """
        async with postgres.transaction(self.engine) as conn:
            await store.begin_erasing(conn)
            jobs = await conn.fetch(
                "SELECT id, upload_id, batch_id, created_at FROM orchestrator.jobs WHERE tenant = $1 AND upload_id IN "
                f"(SELECT upload_id FROM orchestrator.jobs WHERE tenant = $1 AND {_WHOSE[target]})",
                tenant,
                target_id,
            )
            if not jobs:
                raise error("NOT_FOUND")
            return await self.begin(conn, actor, tenant, target, target_id, jobs)

    async def begin(
        self, conn: asyncpg.Connection, actor: Actor, tenant: str, target: Target, target_id: str, jobs: Sequence[Any]
    ) -> UUID:
        """Write an erasure of these rows of `jobs` down, in the transaction that has begun it. Raises LEGAL_HOLD."""
        if await holds.any_of(conn, tenant, jobs):
            raise error("LEGAL_HOLD")
        id_ = uuid4()
        await conn.execute(
            "INSERT INTO orchestrator.erasures "
            "(id, tenant, target, target_id, by, reason, state, jobs, uploads, since) "
            "VALUES ($1, $2, $3, $4, $5, $6, 'stopping', $7, $8, $9)",
            id_,
            tenant,
            target,
            target_id,
            actor.who,
            actor.why,
            [row["id"] for row in jobs],
            list({row["upload_id"] for row in jobs}),
            min(row["created_at"] for row in jobs),
        )
        details = {"target": target, "jobs": len(jobs)}
        await note(conn, actor, "erasure.request", str(id_), details, tenant)
        return id_

    async def work(self) -> None:
        """Move every erasure on that can move."""
        async with postgres.transaction(self.engine) as conn:
            waiting = await conn.fetch(
                "SELECT id, state FROM orchestrator.erasures WHERE ended_at IS NULL ORDER BY requested_at LIMIT 100"
            )
        for row in waiting:
            try:
                await {"stopping": self._stop, "erasing": self._look, "scrubbing": self._scrub}[row["state"]](row["id"])
            except Exception as problem:  # the next one must not wait for it; the next round tries it again
                log.warning("erasure.interrupted", erasure=str(row["id"]), error=type(problem).__name__)

    async def heard(self, deliveries: Sequence[Delivery]) -> None:
        """A room has done its part. Raises ValidationError for a body that is none."""
        told = [ErasureDone.model_validate_json(delivery.body) for delivery in deliveries]
        async with postgres.transaction(self.engine) as conn:
            await conn.executemany(
                "UPDATE orchestrator.erasure_parts SET erased = $4::text::jsonb, kept = $5::text::jsonb, done_at = $6 "
                "WHERE erasure_id = $1 AND part = $2 AND room = $3 AND done_at IS NULL",
                [(t.erasure_id, t.part, t.room, json.dumps(t.erased), json.dumps(t.kept), t.at) for t in told],
            )

    async def _stop(self, id_: UUID) -> None:
        messages: list[Outgoing] = []
        async with postgres.transaction(self.engine) as conn:
            row = await _locked(conn, id_, "stopping")
            if row is None:
                return
            jobs: list[UUID] = row["jobs"]
            # Locked: nobody lets one work again between this look and the deletion.
            states = await conn.fetch(
                "SELECT id, status FROM orchestrator.jobs WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE", jobs
            )
            running = [one["id"] for one in states if one["status"] in _RUNNING]
            if not running:
                messages = await self._ask(conn, row, await _erase_here(conn, row))
        if running:
            actor = Actor(row["by"], None, "it is to be erased")
            await self.operations.cancel_many(actor, str(id_), running)
        elif messages:
            await self.outbox.flush(messages)

    async def _ask(self, conn: asyncpg.Connection, row: Any, erased: dict[str, int]) -> list[Outgoing]:
        jobs = row["jobs"]
        parts = [jobs[at : at + JOBS_MAX] for at in range(0, len(jobs), JOBS_MAX)]
        per = -(-len(row["uploads"]) // len(parts))
        requests = [
            ErasureRequested(
                erasure_id=row["id"],
                part=n,
                tenant=row["tenant"],
                jobs=part,
                uploads=row["uploads"][(n - 1) * per : n * per],
                batch=UUID(row["target_id"]) if row["target"] == "batch" else None,
            )
            for n, part in enumerate(parts, 1)
        ]
        await conn.executemany(
            "INSERT INTO orchestrator.erasure_parts (erasure_id, part, room) VALUES ($1, $2, $3)",
            [(row["id"], one.part, room) for one in requests for room in ROOMS],
        )
        await conn.execute(
            "UPDATE orchestrator.erasures SET state = 'erasing', erased = $2::text::jsonb WHERE id = $1",
            row["id"],
            json.dumps(erased),
        )
        messages = [
            outgoing(ERASURE_REQUESTED, one, message_id=f"{row['id']}.{one.part}", key=str(row["id"]), source=SOURCE)
            for one in requests
        ]
        await store.send(conn, messages)
        return messages

    async def _look(self, id_: UUID) -> None:
        async with postgres.transaction(self.engine) as conn:
            await conn.execute(
                "UPDATE orchestrator.erasures AS e SET state = 'scrubbing' WHERE id = $1 AND state = 'erasing' "
                "AND NOT EXISTS (SELECT FROM orchestrator.erasure_parts WHERE erasure_id = e.id AND done_at IS NULL)",
                id_,
            )

    async def _scrub(self, id_: UUID) -> None:
        async with postgres.transaction(self.engine) as conn:
            row: Any = await conn.fetchrow("SELECT * FROM orchestrator.erasures WHERE id = $1", id_)
        scrubbed = await scrub(
            self.js, {str(one) for one in (*row["jobs"], *row["uploads"], row["target_id"])}, row["since"]
        )
        async with postgres.transaction(self.engine) as conn:
            row = await _locked(conn, id_, "scrubbing")
            if row is None:
                return  # another replica has scrubbed as well, and was first
            now = clock.now()
            rooms = await _counts(conn, row)
            audit = Actor("room:orchestrator", None, row["reason"])
            await note(conn, audit, "erasure.done", str(id_), {"rooms": rooms, "broker": scrubbed}, row["tenant"])
            receipt = {
                "erasure": str(id_),
                "tenant": row["tenant"],
                "target": {row["target"]: row["target_id"]},
                "jobs": sorted(map(str, row["jobs"])),
                "uploads": sorted(map(str, row["uploads"])),
                "requested_at": row["requested_at"].isoformat(),
                "requested_by": row["by"],
                "reason": row["reason"],
                "ended_at": now.isoformat(),
                "rooms": rooms,
                "broker": scrubbed,
                "audit_head": ":".join(map(str, await head(conn))),
            }
            await conn.execute(
                "UPDATE orchestrator.erasures SET state = 'succeeded', ended_at = $2, receipt = $3::text::jsonb, "
                "signature = $4 WHERE id = $1",
                id_,
                now,
                json.dumps(receipt),
                self.signer.sign(receipt),
            )
        log.info("erasure.done", erasure=str(id_), jobs=len(row["jobs"]))


async def _locked(conn: asyncpg.Connection, id_: UUID, state: str) -> Any:
    return await conn.fetchrow(
        "SELECT *, erased::text AS counted FROM orchestrator.erasures WHERE id = $1 AND state = $2 "
        "FOR UPDATE SKIP LOCKED",
        id_,
        state,
    )


async def _erase_here(conn: asyncpg.Connection, row: Any) -> dict[str, int]:
    """Our own rows: jobs with their history, dead letters, and a batch's name."""
    gone = {
        "rows.dead_letters": "DELETE FROM orchestrator.dead_letters WHERE job_id = ANY($1::uuid[])",
        "rows.history": "DELETE FROM orchestrator.history WHERE job_id = ANY($1::uuid[])",
        "rows.jobs": "DELETE FROM orchestrator.jobs WHERE id = ANY($1::uuid[])",
    }
    erased = {kind: _count(await conn.execute(statement, row["jobs"])) for kind, statement in gone.items()}
    if row["target"] == "batch":
        statement = "DELETE FROM orchestrator.batches WHERE tenant = $1 AND id = $2"
        erased["rows.batches"] = _count(await conn.execute(statement, row["tenant"], UUID(row["target_id"])))
    return erased


def _count(said: str) -> int:
    return int(said.rpartition(" ")[2])  # "DELETE 3"


async def _counts(conn: asyncpg.Connection, row: Any) -> dict[str, dict[str, Any]]:
    """What each room erased and kept, summed over the parts."""
    rooms: dict[str, dict[str, Any]] = {"orchestrator": {"erased": json.loads(row["counted"]), "kept": {}}}
    parts = await conn.fetch(
        "SELECT room, erased::text, kept::text FROM orchestrator.erasure_parts WHERE erasure_id = $1", row["id"]
    )
    for part in parts:
        sums = rooms.setdefault(part["room"], {"erased": {}, "kept": {}})
        for column in ("erased", "kept"):
            for kind, count in json.loads(part[column]).items():
                sums[column][kind] = sums[column].get(kind, 0) + count
    return rooms


@dataclass(frozen=True, slots=True)
class Erasure:
    """An erasure as it stands. `receipt` and `signature` are there when it has succeeded."""

    id: UUID
    tenant: str
    target: Target
    target_id: str
    state: str
    by: str
    reason: str
    jobs: int
    waits_for: list[str]
    requested_at: datetime
    ended_at: datetime | None
    receipt: dict[str, Any] | None
    signature: str | None


async def read(conn: asyncpg.Connection, tenant: str | None, id_: UUID) -> Erasure | None:
    """One erasure, or None when there is none that this tenant (None: anybody) may see."""
    found = await page(conn, tenant, 1, None, id_)
    return found[0] if found else None


async def page(
    conn: asyncpg.Connection,
    tenant: str | None,
    limit: int,
    before: tuple[datetime, UUID] | None,
    id_: UUID | None = None,
) -> list[Erasure]:
    """Erasures, newest first, after a place in that order."""
    rows = await conn.fetch(
        "SELECT e.id, tenant, target, target_id, state, by, reason, cardinality(jobs) AS jobs, requested_at, ended_at, "
        "receipt::text, signature, ARRAY(SELECT DISTINCT room FROM orchestrator.erasure_parts "
        "WHERE erasure_id = e.id AND done_at IS NULL ORDER BY room) AS waits_for FROM orchestrator.erasures AS e "
        "WHERE ($1::text IS NULL OR tenant = $1) AND ($2::uuid IS NULL OR id = $2) "
        "AND ($3::timestamptz IS NULL OR (requested_at, id) < ($3, $4::uuid)) "
        f"ORDER BY requested_at DESC, id DESC LIMIT {limit}",
        tenant,
        id_,
        *(before or (None, None)),
    )
    return [Erasure(**{**row, "receipt": json.loads(row["receipt"]) if row["receipt"] else None}) for row in rows]
