"""Replaying dead letters: one, or all that a filter finds, at a pace, from wherever the operator says.

A letter of a job makes the job work again through the machine. An undeliverable message is
published again as it came; whoever has taken it before refuses it by its id. Either closes the
letter in the same transaction, so each is replayed once, however many replicas are at it.

A replay of many is a row. Each replica looks after running ones once a tick, takes what the rate
allows since they were last looked after, and leaves the rest; so it survives restarts, can be
paused, and tells how far it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import SafelightError, error
from contracts.jobs import Status
from contracts.message import HEADER_MESSAGE_ID
from orchestrator import letters, store
from orchestrator.audit import Actor, note
from orchestrator.letters import Filter
from orchestrator.machine.decide import decide
from orchestrator.machine.pipeline import Pipeline, version_differences
from orchestrator.operations import NEWEST, Again, Guard, Operations
from orchestrator.pipelines import COMMANDS
from orchestrator.shell import Shell
from orchestrator.store import Stored
from runtime import clock, logs, postgres
from runtime.outbox import dressed, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

SAMPLE: Final = 200  # the newest succeeded jobs of a pipeline, from which an estimate takes its seconds
PLANNED_MAX: Final = 5000  # so many letters are looked into for a plan; of more, it is a projection
READ_MAX: Final = 200  # jobs that are read at once
BURST_S: Final = 2.0  # a replay that nobody looked after for long does not make up for it at once
log = logs.get()


class _Halted(Exception):
    """The replay was paused or cancelled meanwhile."""


@dataclass(slots=True)
class Plan:
    """What a replay would do. `phases` counts jobs, `seconds` are of work, `usd` is None without a configured price."""

    count: int
    phases: dict[str, int]
    seconds: float
    gpu_seconds: float
    usd: float | None
    versions: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Replays:
    """The use cases around replaying."""

    engine: AsyncEngine
    js: JetStreamContext
    shell: Shell
    operations: Operations
    gpu_usd_per_s: float | None

    async def one(self, actor: Actor, id_: UUID, again: Again, part_of: UUID | None = None) -> Mapping[str, Any]:
        """Replay a letter, maybe as part of a replay of many.

        Raises NOT_FOUND, REQUEST_INVALID, STATE_CONFLICT, BROKER_UNAVAILABLE.
        """
        async with postgres.transaction(self.engine) as conn:
            found = await letters.whole(conn, id_)
        if found is None:
            raise error("NOT_FOUND")
        if found["state"] != "open":
            raise error("STATE_CONFLICT", f"the dead letter is {found['state']}")

        async def guard(conn: asyncpg.Connection) -> None:
            if part_of is not None:
                await _hold_running(conn, part_of)

        if found["source"] == "undeliverable":
            await self._send_again(actor, found, guard)
        else:
            job = (await self.operations.seen(actor, found["job_id"])).job
            target = await self.operations.target(job.pipeline, job.pipeline_version, again.version)
            wish = replace(again, from_phase=_start(again, found["phase"], found["item"], target))
            about = {"dead_letter": str(id_), "replay": str(part_of) if part_of else None}
            await self.operations.reopen(actor, "job.replay", found["job_id"], wish, target, id_, guard, **about)
        return {"id": id_, "state": "replayed", "job_id": found["job_id"]}

    async def discard(self, actor: Actor, id_: UUID) -> Mapping[str, Any]:
        """Close a letter without doing anything about it. Raises NOT_FOUND, STATE_CONFLICT."""
        async with postgres.transaction(self.engine) as conn:
            found = await letters.whole(conn, id_, lock=True)
            if found is None:
                raise error("NOT_FOUND")
            if not await letters.resolve(conn, id_, "discarded", actor.who, actor.why):
                raise error("STATE_CONFLICT", f"the dead letter is {found['state']}")
            await note(conn, actor, "dead-letter.discard", str(id_))
        return {"id": id_, "state": "discarded", "job_id": found["job_id"]}

    async def _send_again(self, actor: Actor, found: asyncpg.Record, guard: Guard) -> None:
        headers: dict[str, str] = json.loads(found["headers"])
        sent_as = f"replay.{uuid4()}"  # the broker's own deduplication would swallow the first id
        headers[HEADER_MESSAGE_ID] = sent_as
        body = base64.b64decode(json.loads(found["command"])["base64"])
        async with postgres.transaction(self.engine) as conn:
            await guard(conn)
            if not await letters.resolve(conn, found["id"], "replayed", actor.who, actor.why):
                raise error("STATE_CONFLICT", "the dead letter is not open any more")
            await note(conn, actor, "dead-letter.replay", str(found["id"]))
            # Before the commit: a crash in between sends it twice, which its readers' inboxes refuse.
            await publish(self.js, [dressed(sent_as, found["subject"], headers, body)])

    # -- many ---------------------------------------------------------------------------------

    async def plan(self, which: Filter, again: Again) -> Plan:
        """What a replay of these would do, without doing it. Raises REQUEST_INVALID for a phase that nobody has."""
        count, found = await self._which(which)
        again.check(await self._targets(found, again))
        plan = Plan(count, {}, 0.0, 0.0, None, [])
        took: dict[str, dict[str, float]] = {}
        versions: dict[tuple[str, int], dict[str, Any]] = {}
        first = {row["job_id"]: row for row in found if row["source"] != "undeliverable"}  # a job goes by its oldest
        ids = list(first)
        for start in range(0, len(ids), READ_MAX):
            async with postgres.transaction(self.engine) as conn:
                known = await store.read_many(conn, ids[start : start + READ_MAX])
            for id_, stored in known.items():
                pinned, newest = await self.shell.pinned(stored.job), self.shell.newest(stored.job.pipeline)
                target = newest if again.version == NEWEST else pinned
                if target is None:
                    continue
                if target.name not in took:
                    took[target.name] = await self._medians(target.name)
                for name in _redone(stored, pinned, target, again, first[id_]):
                    plan.phases[name] = plan.phases.get(name, 0) + 1
                    seconds = took[target.name].get(name, 0.0)
                    plan.seconds += seconds
                    plan.gpu_seconds += seconds if COMMANDS[target.phase(name).command].gpu else 0.0
                if newest and pinned:
                    key = (pinned.name, pinned.version)
                    line = versions.setdefault(key, _difference(pinned, newest))
                    line["count"] += 1
        plan.versions = list(versions.values())
        _project(plan, count / len(found) if found else 1.0)
        plan.usd = None if self.gpu_usd_per_s is None else round(plan.gpu_seconds * self.gpu_usd_per_s, 4)
        return plan

    async def start(self, actor: Actor, which: Filter, again: Again, rate_per_s: float) -> UUID:
        """Begin to replay what the filter finds now. Returns the replay's id. Raises REQUEST_INVALID as `plan` does."""
        _, found = await self._which(which)
        again.check(await self._targets(found, again))
        id_ = uuid4()
        told = {"filter": _plain(which), **again.details(), "rate_per_s": rate_per_s}
        request = {
            "from": again.from_phase,
            "parameters": dict(again.parameters or {}),
            "version": again.version,
            "force": again.force,
        }
        async with postgres.transaction(self.engine) as conn:
            await conn.execute(
                "INSERT INTO orchestrator.replays (id, state, request, rate_per_s, by, reason, total) "
                "VALUES ($1, 'running', $2::text::jsonb, $3, $4, $5, 0)",
                id_,
                store.as_json(request),
                rate_per_s,
                actor.who,
                actor.why,
            )
            where, arguments = which.where(2)
            done = await conn.execute(
                f"WITH mine AS (SELECT id FROM orchestrator.dead_letters WHERE {_FREE} AND {where} "
                "ORDER BY id FOR UPDATE) "
                "UPDATE orchestrator.dead_letters l SET replay_id = $1, refusal = NULL FROM mine WHERE l.id = mine.id",
                id_,
                *arguments,
            )
            count = int(done.split()[1])
            await conn.execute("UPDATE orchestrator.replays SET total = $2 WHERE id = $1", id_, count)
            await note(conn, actor, "dead-letters.replay", str(id_), {**told, "count": count})
        return id_

    async def steer(self, actor: Actor, id_: UUID, action: str) -> None:
        """Pause, resume or cancel a replay; nothing of it happens after that. Raises NOT_FOUND, STATE_CONFLICT."""
        before, after = _STEERING[action]
        async with postgres.transaction(self.engine) as conn:
            state = await conn.fetchval("SELECT state FROM orchestrator.replays WHERE id = $1 FOR UPDATE", id_)
            if state is None:
                raise error("NOT_FOUND")
            if state not in before:
                raise error("STATE_CONFLICT", f"the replay is {state}")
            await conn.execute(
                "UPDATE orchestrator.replays SET state = $2, last_at = now(), "
                "ended_at = CASE WHEN $2 = 'cancelled' THEN now() END WHERE id = $1",
                id_,
                after,
            )
            if after == "cancelled":
                # `replay_id` stays on those that it closed or that refused, so that its progress can be told.
                await conn.execute(
                    "WITH mine AS (SELECT id FROM orchestrator.dead_letters "
                    "WHERE replay_id = $1 AND state = 'open' AND refusal IS NULL ORDER BY id FOR UPDATE) "
                    "UPDATE orchestrator.dead_letters l SET replay_id = NULL FROM mine WHERE l.id = mine.id",
                    id_,
                )
            await note(conn, actor, f"replay.{action}", str(id_))

    async def work(self) -> int:
        """Look after running replays: replay what their rate allows. Returns how many letters that were."""
        async with postgres.transaction(self.engine) as conn:
            rows = await conn.fetch(
                "SELECT id, request::text, rate_per_s, by, reason, last_at FROM orchestrator.replays "
                "WHERE state = 'running' FOR NO KEY UPDATE SKIP LOCKED"
            )
            turns = [(row, await _take_turn(conn, row)) for row in rows]
        done = 0
        for row, ids in turns:
            wish = json.loads(row["request"])
            again = Again(wish["from"], wish["parameters"], wish["version"], wish.get("force", False))
            for id_ in ids:
                try:
                    done += await self._turn(Actor(row["by"], None, row["reason"]), id_, again, row["id"])
                except _Halted:
                    break
        return done

    async def _turn(self, actor: Actor, id_: UUID, again: Again, replay_id: UUID) -> int:
        try:
            await self.one(actor, id_, again, replay_id)
        except SafelightError as problem:
            if problem.row.transient:
                raise
            log.info("replays.refused", letter=str(id_), why=problem.detail)
            return await self._refuse(id_, replay_id, problem.detail)
        except (_Halted, asyncpg.PostgresError):
            raise
        except Exception as problem:  # one letter that nobody can decide must not hold up all others
            log.error("replays.undecidable", letter=str(id_), exc_info=problem)
            return await self._refuse(id_, replay_id, error("INTERNAL").detail)
        return 1

    async def _refuse(self, id_: UUID, replay_id: UUID, why: str) -> int:
        async with postgres.transaction(self.engine) as conn:
            await _hold_running(conn, replay_id)
            refused = await conn.execute(
                "UPDATE orchestrator.dead_letters SET refusal = $3 "
                "WHERE id = $1 AND replay_id = $2 AND state = 'open' AND refusal IS NULL",
                id_,
                replay_id,
                why,
            )
            if refused == "UPDATE 1":
                await conn.execute("UPDATE orchestrator.replays SET refused = refused + 1 WHERE id = $1", replay_id)
        return 0

    async def _which(self, which: Filter) -> tuple[int, list[asyncpg.Record]]:
        """How many letters a replay would take, and the newest of them."""
        where, arguments = which.where()
        async with postgres.transaction(self.engine) as conn:
            count = await conn.fetchval(
                f"SELECT count(*) FROM orchestrator.dead_letters WHERE {_FREE} AND {where}", *arguments
            )
            found = await conn.fetch(
                "SELECT job_id, pipeline, pipeline_version, phase, item, source FROM orchestrator.dead_letters "
                f"WHERE {_FREE} AND {where} ORDER BY created_at DESC, id LIMIT {PLANNED_MAX}",
                *arguments,
            )
        return count, found

    async def _targets(self, found: Sequence[asyncpg.Record], again: Again) -> list[Pipeline]:
        """The definitions that the jobs of these letters would go on with; all, when there are no such jobs."""
        names = {(row["pipeline"], row["pipeline_version"]) for row in found if row["pipeline"]}
        if not names:
            return self.shell.newest_of_all()
        newest = again.version == NEWEST
        targets = [self.shell.newest(n) if newest else await self.shell.definition(n, v) for n, v in sorted(names)]
        return [target for target in targets if target]

    async def _medians(self, pipeline: str) -> dict[str, float]:
        """Seconds that each phase took, as the median of the newest jobs that succeeded."""
        async with postgres.transaction(self.engine) as conn:
            jobs = await store.newest_succeeded(conn, pipeline, SAMPLE)
        took: dict[str, list[float]] = {}
        for job in jobs:
            for name, state in job.phases.items():
                if state.status is Status.SUCCEEDED and state.started_at and state.ended_at:
                    took.setdefault(name, []).append((state.ended_at - state.started_at).total_seconds())
        return {name: median(seconds) for name, seconds in took.items()}


_FREE: Final = "state = 'open' AND (replay_id IS NULL OR refusal IS NOT NULL)"  # no other replay is about to take it

_STEERING: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "pause": (("running",), "paused"),
    "resume": (("paused",), "running"),
    "cancel": (("running", "paused"), "cancelled"),
}


async def _hold_running(conn: asyncpg.Connection, id_: UUID) -> None:
    """Let nobody pause or cancel the replay until this transaction ends. Raises _Halted when somebody has."""
    if await conn.fetchval("SELECT state FROM orchestrator.replays WHERE id = $1 FOR KEY SHARE", id_) != "running":
        raise _Halted


async def _take_turn(conn: asyncpg.Connection, row: asyncpg.Record) -> list[UUID]:
    """The letters that a replay may take now. One that has none left has succeeded."""
    due, last_at = allowance(row["last_at"], clock.now(), row["rate_per_s"])
    if not due:
        return []
    left = await conn.fetch(
        "SELECT id FROM orchestrator.dead_letters "
        "WHERE replay_id = $1 AND state = 'open' AND refusal IS NULL ORDER BY created_at, id LIMIT $2",
        row["id"],
        due,
    )
    await conn.execute("UPDATE orchestrator.replays SET last_at = $2 WHERE id = $1", row["id"], last_at)
    if not left:
        await conn.execute(
            "UPDATE orchestrator.replays SET state = 'succeeded', ended_at = now() WHERE id = $1", row["id"]
        )
    return [letter["id"] for letter in left]


def allowance(last_at: datetime, now: datetime, rate_per_s: float) -> tuple[int, datetime]:
    """How many letters the rate allows since it was last made use of, and until when that is made use of now."""
    window_s = max(BURST_S, 1 / rate_per_s)
    last_at = max(last_at, now - timedelta(seconds=window_s))
    due = int((now - last_at).total_seconds() * rate_per_s + 1e-6)
    return due, last_at + timedelta(seconds=due / rate_per_s)


def _start(again: Again, phase: str | None, item: str | None, target: Pipeline) -> str | None:
    """Without a wish the work starts where it failed, and nowhere else: a letter is about one phase.

    One about an item leaves the other items alone, and one about a phase that is gone begins with what went wrong.
    """
    if again.from_phase is not None or phase is None or item is not None or not target.has(phase):
        return again.from_phase
    return phase


def _redone(
    stored: Stored, pinned: Pipeline | None, target: Pipeline, again: Again, found: asyncpg.Record
) -> list[str]:
    """The phases that a replay would run again: what the machine itself would decide."""
    start = _start(again, found["phase"], found["item"], target)
    decision = decide(stored.job, stored.revision + 1, pinned, replace(again, from_phase=start).retry(target))
    if decision.job is None or decision.ignored:
        return []
    return [name for name, state in decision.job.phases.items() if not state.is_done]


def _difference(pinned: Pipeline, newest: Pipeline) -> dict[str, Any]:
    same = pinned.version == newest.version
    differences = [] if same else version_differences(pinned, newest)
    return {
        "pipeline": pinned.name,
        "pinned": pinned.version,
        "newest": newest.version,
        "count": 0,
        "differences": differences,
    }


def _project(plan: Plan, factor: float) -> None:
    """What was found in a part of the letters, for all of them."""
    plan.phases = {name: round(count * factor) for name, count in plan.phases.items()}
    plan.seconds, plan.gpu_seconds = round(plan.seconds * factor, 3), round(plan.gpu_seconds * factor, 3)
    plan.versions = [{**line, "count": round(line["count"] * factor)} for line in plan.versions]


def _plain(which: Filter) -> dict[str, Any]:
    return {name: value for name in Filter.__dataclass_fields__ if (value := getattr(which, name)) is not None}


async def progress(conn: asyncpg.Connection, id_: UUID | None, limit: int = 100) -> list[asyncpg.Record]:
    """One replay, or the newest ones, with how far each is."""
    return await conn.fetch(
        "SELECT r.*, l.* FROM (SELECT id, state, rate_per_s, by, reason, total, refused, created_at, ended_at "
        f"FROM orchestrator.replays WHERE $1::uuid IS NULL OR id = $1 ORDER BY created_at DESC, id LIMIT {limit}) r, "
        "LATERAL (SELECT count(*) FILTER (WHERE state = 'replayed') AS replayed, "
        "count(*) FILTER (WHERE state = 'open' AND refusal IS NULL) AS remaining "
        "FROM orchestrator.dead_letters WHERE replay_id = r.id) l ORDER BY r.created_at DESC, r.id",
        id_,
    )
