"""What must hold when all is over, whatever was killed: each guarantee is a question to the servers."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

import asyncpg
import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import Error as JetStreamError

from contracts.message import HEADER_ID, HEADER_SUBJECT
from contracts.topology import COMMANDS, CONSUMERS, EVENTS
from runtime.objects import Objects
from runtime.settings import S3Settings

Environment = Mapping[str, str]
ENDINGS: Final = tuple(f"evt.job.v1.{ending}" for ending in ("succeeded", "failed", "dead", "cancelled"))
# fmt: off
# Work that is not over. Each counts rows, and must come to nothing.
UNFINISHED: Final = {
    "jobs that have not ended":
        "SELECT count(*) FROM orchestrator.jobs WHERE ended_at IS NULL",
    "jobs shown as not ended":
        "SELECT count(*) FROM output.jobs WHERE ended_at IS NULL",
    "uploads without a job":
        "SELECT count(*) FROM ingest.uploads u LEFT JOIN output.jobs j ON j.id = u.job_id WHERE j.id IS NULL",
    "calls that have not ended":
        "SELECT count(*) FROM gpu_bridge.calls WHERE ended_at IS NULL",
    "rows in ingest's outbox":
        "SELECT count(*) FROM ingest.outbox",
    "rows in the orchestrator's outbox":
        "SELECT count(*) FROM orchestrator.outbox",
    "rows in the bridge's outbox":
        "SELECT count(*) FROM gpu_bridge.outbox",
}
# What must never be, at no time after the end.
NEVER: Final = {
    "jobs that are overdue":
        "SELECT count(*) FROM orchestrator.jobs WHERE wake_at < now()",
    "counts of commands out":
        "SELECT count(*) FROM orchestrator.running WHERE count <> 0",
    "units that wait":
        "SELECT count(*) FROM orchestrator.waiting",
    "counts of units that wait":
        "SELECT count(*) FROM orchestrator.waiting_counts WHERE count <> 0",
    "jobs shown otherwise than decided":
        "SELECT count(*) FROM orchestrator.jobs j FULL JOIN output.jobs o USING (id) "
        "WHERE (j.status, j.degraded, j.revision) IS DISTINCT FROM (o.status, o.degraded, o.revision)",
    "jobs shown with another than one end":
        "SELECT count(*) FROM orchestrator.jobs j WHERE 1 <> (SELECT count(*) FROM output.events e "
        "WHERE e.job_id = j.id AND e.type IN "
        "('job.v1.succeeded', 'job.v1.failed', 'job.v1.dead', 'job.v1.cancelled'))",
    "histories with a gap":
        "SELECT count(*) FROM orchestrator.jobs j "
        "WHERE j.revision <> (SELECT count(*) FROM orchestrator.history h WHERE h.job_id = j.id)",
    "calls that nobody has commanded":
        "SELECT count(*) FROM gpu_bridge.calls c "
        "WHERE NOT EXISTS (SELECT 1 FROM gpu_bridge.commands o WHERE o.call = c.key)",
    "commands to the bridge of nobody's":
        "SELECT count(*) FROM gpu_bridge.commands o "
        "LEFT JOIN orchestrator.jobs j ON j.id::text = split_part(o.key, '.', 1) WHERE j.id IS NULL",
    "commands that wait for no call":
        "SELECT count(*) FROM gpu_bridge.commands o LEFT JOIN gpu_bridge.calls c ON c.key = o.call "
        "WHERE o.state = 'waiting' AND c.ended_at IS NOT NULL",
    "epochs whose books are open":
        "SELECT count(*) FROM gpu_bridge.epochs WHERE ended_at IS NULL",
    "epochs out of order":
        "SELECT count(*) FROM gpu_bridge.calls c "
        "WHERE c.epoch <> (SELECT count(*) FROM gpu_bridge.epochs e WHERE e.call = c.key)",
}
# fmt: on
# An attempt may fail with these because a server or a process was killed; with others only because something is wrong.
OF_THE_STORM: Final = frozenset(
    {
        "CALL_LOST",
        "WORKER_LOST",
        "PHASE_DEADLINE",
        "STORAGE_UNAVAILABLE",
        "BROKER_UNAVAILABLE",
        "DATABASE_UNAVAILABLE",
        "SERVICE_UNAVAILABLE",
    }
)


class Unreachable(Exception):
    """The broker cannot be asked."""


@contextlib.asynccontextmanager
async def _database(known: Environment) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(known["SAFELIGHT_POSTGRES_ADMIN_URL"], timeout=5)
    try:
        yield conn
    finally:
        await conn.close()


@contextlib.asynccontextmanager
async def _broker(known: Environment) -> AsyncIterator[Client]:
    user, password = known["SAFELIGHT_NATS_USER"], known["SAFELIGHT_NATS_PASSWORD"]
    try:
        nc = await nats.connect(
            known["SAFELIGHT_NATS_URL"],
            user=user,
            password=password,
            allow_reconnect=False,
            connect_timeout=3,
            error_cb=_raised_anyway,
        )
        try:
            yield nc
        finally:
            await nc.close()
    except (NatsError, JetStreamError) as problem:
        raise Unreachable(type(problem).__name__) from problem


async def _raised_anyway(_problem: Exception) -> None:
    """The client logs each error if nobody listens."""


async def left_over(known: Environment) -> list[str]:
    """What is still to be done, in words; the servers may be away. Raises OSError, PostgresError, Unreachable."""
    left = []
    async with _database(known) as conn:
        for what, query in UNFINISHED.items():
            if found := await conn.fetchval(query):
                left.append(f"{found} {what}")
    async with _broker(known) as nc:
        js = nc.jetstream()
        for row in CONSUMERS:
            info = await js.consumer_info(row.stream, row.name)
            if info.num_pending or info.num_ack_pending:
                left.append(f"{row.name}: {info.num_pending} messages pending, {info.num_ack_pending} to be acked")
    return left


async def audit(known: Environment, accepted: Mapping[UUID, str]) -> tuple[dict[str, Any], list[str]]:
    """Ask everything. Returns what there is, for the report, and what is wrong. `accepted`: jobs by pipeline."""
    wrong: list[str] = []
    async with _database(known) as conn:
        for what, query in NEVER.items():
            if found := await conn.fetchval(query):
                wrong.append(f"{found} {what}")
        jobs = await conn.fetch("SELECT id, status, state::text FROM orchestrator.jobs")
        letters = await conn.fetch("SELECT job_id, source, code, phase, detail FROM orchestrator.dead_letters")
        [bought] = await conn.fetch(
            "SELECT (SELECT count(*) FROM gpu_bridge.calls) AS calls, (SELECT count(*) FROM gpu_bridge.commands) "
            "AS commands, count(*) AS epochs, count(code) AS failed FROM gpu_bridge.epochs"
        )
        shown = await conn.fetch(
            "SELECT p.job_id, p.name, p.status, p.state::text FROM output.phases p "
            "JOIN output.jobs j ON j.id = p.job_id WHERE j.status = 'succeeded'"
        )
    wrong += _lost(accepted, {row["id"] for row in jobs})
    wrong += _unexplained(jobs, letters)
    async with _broker(known) as nc:
        endings, copies = await _endings(nc)
        wrong += [f"{n} endings of {job} in the stream" for job in accepted if (n := endings.get(job, 0)) != 1]
        wrong += await _stranded(nc)
    missing, objects = await _missing(known, shown)
    wrong += missing
    phases = [phase for row in jobs for phase in json.loads(row["state"])["phases"].values()]
    counts = {
        "ended": ", ".join(f"{n} {status}" for status, n in Counter(row["status"] for row in jobs).items()),
        "attempts": f"{sum(max(0, phase.get('attempt', 0) - 1) for phase in phases)} beyond the first",
        "GPU calls": "{} for {} commands, in {} epochs of which {} ended badly".format(*bought),
        "dead letters": ", ".join(f"{n} {code}" for code, n in Counter(r["code"] for r in letters).items()) or "none",
        "objects": f"{objects} artifacts read and compared",
        "told twice": f"{copies} endings that the broker stored twice, under one id",
    }
    return counts, wrong


def _lost(accepted: Mapping[UUID, str], known: set[UUID]) -> list[str]:
    lost = [f"{job} was accepted and is not known" for job in accepted if job not in known]
    return lost + [f"{job} is a job that nobody was told of" for job in known - accepted.keys()]


def _unexplained(jobs: list[asyncpg.Record], letters: list[asyncpg.Record]) -> list[str]:
    wrong = []
    of_job: dict[UUID, list[asyncpg.Record]] = defaultdict(list)
    for letter in letters:
        of_job[letter["job_id"]].append(letter)
        if letter["code"] not in OF_THE_STORM or letter["source"] not in ("exhausted", "unsettled"):
            wrong.append(f"a dead letter that no kill explains: {dict(letter)}")
    for job in jobs:
        if job["status"] != "succeeded" and not (job["status"] == "dead" and of_job[job["id"]]):
            wrong.append(f"{job['id']} is {job['status']}")
    return wrong


async def _endings(nc: Client) -> tuple[dict[UUID, int], int]:
    """How many ends each job was told to have, and how many messages told what another had told already."""
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, filter_subjects=list(ENDINGS), mem_storage=True
    )
    reader = await nc.jetstream().pull_subscribe("", stream=EVENTS.name, config=config)
    ids: dict[str, UUID] = {}
    messages = 0
    while True:
        try:
            batch = await reader.fetch(500, timeout=2)
        except (NatsTimeoutError, TimeoutError):
            break
        for message in batch:
            headers = message.headers or {}
            ids[headers[HEADER_ID]] = UUID(headers[HEADER_SUBJECT])
            messages += 1
    return dict(Counter(ids.values())), messages - len(ids)


async def _stranded(nc: Client) -> list[str]:
    """Commands that no consumer has, neither pending nor out."""
    js = nc.jetstream()
    messages = (await js.stream_info(COMMANDS.name)).state.messages
    for row in CONSUMERS:
        if row.stream == COMMANDS.name:
            info = await js.consumer_info(row.stream, row.name)
            messages -= (info.num_pending or 0) + (info.num_ack_pending or 0)
    return [f"{messages} commands are stranded"] if messages else []


async def _missing(known: Environment, shown: list[asyncpg.Record]) -> tuple[list[str], int]:
    """Artifacts of succeeded jobs that are not there, or are others; and how many there are."""
    objects = Objects(
        S3Settings.model_validate({name.removeprefix("SAFELIGHT_").lower(): value for name, value in known.items()})
    )
    wrong, count = [], 0
    try:
        for row in shown:
            if row["status"] not in ("succeeded", "skipped"):
                wrong.append(f"{row['job_id']} succeeded, but its {row['name']} is {row['status']}")
            for made in json.loads(row["state"])["artifacts"]:
                count += 1
                try:
                    await objects.get_checked(made["key"], made["sha256"])
                except Exception as problem:
                    wrong.append(f"{made['key']}: {problem}")
    finally:
        objects.close()
    return wrong, count
