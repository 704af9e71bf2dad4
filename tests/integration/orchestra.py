"""What tests of the orchestrator share: pipelines, inputs, a shell on the real database, the laws that rows keep."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import nats
from msgspec.structs import replace
from nats.aio.client import Client
from pydantic import JsonValue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts import topology
from contracts.artifacts import Artifact, ObjectRef
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, PhaseFailed, PhaseSucceeded, RunPhase
from contracts.uploads import UPLOAD_RECEIVED, Lane, UploadReceived
from orchestrator import store
from orchestrator.capacity import EVERYBODY, Capacity
from orchestrator.machine.inputs import Begin, Failed, Succeeded
from orchestrator.machine.job import Job, PhaseState
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.shell import Arrived, Shell
from orchestrator.store import Stored
from orchestrator.tables import METADATA, OUTBOX
from runtime import postgres
from runtime.outbox import Outbox, Outgoing, outgoing, publish
from runtime.settle import Delivery, consume_batches
from tests.servers.models import NatsServer

EngineOf = Callable[[str], AsyncEngine]
ORIGINAL = ObjectRef(key="uploads/x", sha256="0" * 64, size=1, media_type="image/jpeg")


def now() -> datetime:
    return datetime.now(UTC)


def pipeline(*phases: Phase, name: str | None = None, version: int = 1, **about: Any) -> Pipeline:
    """One of its own name, so that nothing of another test is counted with it."""
    given: dict[str, Any] = {"accepts": ("image/jpeg",), "deadline_s": 600.0, **about}
    return Pipeline(name or f"p{uuid4().hex[:12]}", version, phases=phases, **given)


def phase(name: str, **about: Any) -> Phase:
    """A phase that anybody can run."""
    given: dict[str, Any] = {"command": "noop", "deadline_s": 60.0, **about}
    return Phase(name, **given)


def upload(
    name: str,
    tenant: str = "t",
    batch: UUID | None = None,
    lane: Lane | None = None,
    job: UUID | None = None,
    **options: Any,
) -> UploadReceived:
    """An upload for the pipeline of that name."""
    return UploadReceived(
        upload_id=uuid4(),
        job_id=uuid4(),
        tenant=tenant,
        pipeline=name,
        original=ORIGINAL,
        options=options,
        batch_id=batch,
        lane=lane,
        received_at=now(),
    )


def succeeds(
    job: UUID,
    name: str,
    attempt: int = 1,
    *,
    item: str | None = None,
    message_id: str | None = None,
    **facts: JsonValue,
) -> Arrived:
    at = now()
    about: dict[str, Any] = {"job_id": job, "phase": name, "item": item, "attempt": attempt}
    done = PhaseSucceeded(**about, facts=facts, engine="test@1", started_at=at, ended_at=at)
    return Arrived(job, Succeeded(done, at), message_id or f"{done.key}.outcome", None)


def fails(job: UUID, name: str, code: str, attempt: int = 1) -> Arrived:
    bad = PhaseFailed(job_id=job, phase=name, attempt=attempt, code=code, ended_at=now())
    return Arrived(job, Failed(bad, now()), f"{bad.key}.outcome", None)


class Kept(Outbox):
    """An outbox whose process never gets to publish: what it would have sent can be looked at."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine, OUTBOX, None)  # type: ignore[arg-type]  # there is no broker to reach
        self.sent: list[Outgoing] = []

    async def flush(self, messages: Sequence[Outgoing]) -> None:
        self.sent += messages


@dataclass
class Bench:
    """A shell, and a look at its tables."""

    engine: AsyncEngine
    shell: Shell
    pipelines: Sequence[Pipeline]

    def begins(self, tenant: str = "t", version: int | None = None, **about: Any) -> Arrived:
        """An upload for the first of the pipelines, or for that version of it."""
        chosen = next(p for p in self.pipelines if version in (None, p.version))
        return begins(chosen, tenant, **about)

    async def begun(self, tenant: str = "t", **about: Any) -> UUID:
        """A job that has just begun."""
        arrived = self.begins(tenant, **about)
        await self.shell.take([arrived])
        return arrived.job_id

    async def ask(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.connect() as conn:
            return list((await conn.execute(text(query), values)).all())

    async def one(self, query: str, **values: Any) -> Any:
        [[found]] = await self.ask(query, **values)
        return found

    async def row(self, job: UUID) -> Any:
        [row] = await self.ask("SELECT * FROM orchestrator.jobs WHERE id = :id", id=job)
        return row

    async def job(self, job: UUID) -> Job:
        found = await self.shell.read(job)
        assert found is not None
        return found[0].job

    async def history(self, job: UUID) -> list[str]:
        """What came, decision by decision."""
        query = "SELECT input FROM orchestrator.history WHERE job_id = :id ORDER BY revision"
        return [row[0] for row in await self.ask(query, id=job)]

    async def sent(self, job: UUID) -> list[str]:
        """The ids of the messages that a job has caused."""
        query = (
            "SELECT json_array_elements_text(effects) FROM orchestrator.history WHERE job_id = :id ORDER BY revision"
        )
        return [row[0] for row in await self.ask(query, id=job)]

    async def laws(self) -> None:
        """Every row of these pipelines says what the jobs say."""
        wrong = await broken_laws(self.engine, {p.name for p in self.pipelines})
        assert not wrong, "\n".join(wrong)


def begins(chosen: Pipeline, tenant: str = "t", message_id: str | None = None, **about: Any) -> Arrived:
    """An upload for a pipeline."""
    made = upload(chosen.name, tenant, **about)
    return Arrived(made.job_id, Begin(made, chosen, now()), message_id or str(made.upload_id), None)


@asynccontextmanager
async def bench(
    engine: AsyncEngine, *pipelines: Pipeline, outbox: Outbox | None = None, capacity: Capacity | None = None
) -> AsyncIterator[Bench]:
    """A shell for these pipelines, whose messages are kept unless it is given an outbox."""
    async with engine.begin() as conn:
        known = await store.declare_pipelines(conn, pipelines)
    mine = {(p.name, p.version): p for p in known if p.name in {one.name for one in pipelines}}
    yield Bench(engine, Shell(engine, outbox or Kept(engine), mine, pipelines, capacity), pipelines)


async def broken_laws(engine: AsyncEngine, names: Iterable[str]) -> list[str]:
    """What the rows of these pipelines say that their jobs do not."""
    wrong: list[str] = []
    async with _picture(engine) as conn:
        rows = await conn.fetch(
            "SELECT id, revision, wake_at, ended_at, status, pipeline, tenant, "
            "(SELECT array_agg(revision ORDER BY revision) FROM orchestrator.history WHERE job_id = id) AS steps "
            "FROM orchestrator.jobs WHERE pipeline = ANY($1)",
            list(names),
        )
        jobs = await store.read_many(conn, [row["id"] for row in rows])
        running, waiting = await store.counts(conn)
        lines = await conn.fetch(
            "SELECT job_id, phase, item, pipeline, tenant, lane, ready_at FROM orchestrator.waiting "
            "WHERE pipeline = ANY($1)",
            list(names),
        )
        twice = await conn.fetch(
            "SELECT id, count(*) FROM (SELECT json_array_elements_text(effects) AS id FROM orchestrator.history "
            "JOIN orchestrator.jobs j ON j.id = job_id WHERE j.pipeline = ANY($1)) AS sent GROUP BY id "
            "HAVING count(*) > 1",
            list(names),
        )
    out: Counter[store.Place] = Counter()
    line: Counter[tuple[str, str, str, str]] = Counter()
    ready = set()
    for row in rows:
        job, revision = jobs[row["id"]].job, jobs[row["id"]].revision
        about = f"job {row['id']}"
        if list(row["steps"] or []) != list(range(1, revision + 1)) or revision != row["revision"]:
            wrong.append(f"{about} has revision {row['revision']} and history {row['steps']}")
        wakes = row["wake_at"], job.wake_at
        if wakes != (None, None) if row["ended_at"] else None in wakes or wakes[0] > wakes[1]:
            wrong.append(f"{about} wakes at {row['wake_at']}, is {row['status']}, and says {job.wake_at}")
        for name, count in job.standing.out.items():
            out[job.pipeline, name, EVERYBODY] += count
            out[job.pipeline, name, job.tenant] += count
        for (name, item), at in job.standing.ready.items():
            ready.add((job.id, name, item or "", job.pipeline, job.tenant, job.lane, at))
            line[job.pipeline, name, job.lane, job.tenant] += 1
    counted = {place: count for place, count in running.items() if count and place[0] in names}
    if counted != dict(out):
        wrong.append(f"running says {counted}, the jobs {dict(out)}")
    if {tuple(row) for row in lines} != ready:
        wrong.append(f"waiting says {sorted(map(str, lines))}, the jobs {sorted(map(str, ready))}")
    if {key: count for key, count in waiting.items() if key[0] in names} != dict(line):
        wrong.append(f"waiting_counts says {waiting}, the jobs {dict(line)}")
    return wrong + [f"{row['id']} was sent {row['count']} times" for row in twice]


@asynccontextmanager
async def _picture(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """Everything as it is at one moment, while work goes on."""
    async with engine.connect() as conn:
        raw = (await conn.get_raw_connection()).driver_connection
        assert raw is not None
        async with raw.transaction(isolation="repeatable_read"):
            yield raw


async def earlier(engine: AsyncEngine, job: UUID, by: timedelta | None = None) -> None:
    """Set a job's whole clock back, so that what it waits for first is due (or by so much): as if nobody had come."""
    async with postgres.transaction(engine) as conn:
        _, held = await store.take(conn, [], [job])
        [stored] = held.values()
        wake_at = stored.job.wake_at
        assert wake_at is not None
        late = by or wake_at - now() + timedelta(milliseconds=1)
        moved = replace(
            stored.job,
            phases={name: _earlier(state, late) for name, state in stored.job.phases.items()},
            deadline=stored.job.deadline - late,
            expires_at=stored.job.expires_at - late,
            paused_until=stored.job.paused_until and stored.job.paused_until - late,
        )
        await store.write(conn, store.Changes([(stored.revision, Stored(moved, stored.revision))]))


def _earlier(state: PhaseState, late: timedelta) -> PhaseState:
    return replace(
        state,
        deadline=state.deadline and state.deadline - late,
        lease_until=state.lease_until and state.lease_until - late,
        retry_at=state.retry_at and state.retry_at - late,
        items={id_: _earlier(unit, late) for id_, unit in state.items.items()},
    )


# -- with a broker ----------------------------------------------------------------------------------


@asynccontextmanager
async def calm(engine: AsyncEngine, server: NatsServer) -> AsyncIterator[None]:
    """A broker and a schema in which nothing of other tests is left; afterwards nothing of these."""
    await _forget(engine, server)
    yield
    await _forget(engine, server)


async def forget_rows(engine: AsyncEngine) -> None:
    """Leave nothing to other tests: what waits would be admitted by anybody's shell."""
    kept = ("audit", "pipelines")  # one refuses to forget, the other never has to
    async with engine.begin() as conn:
        for table in reversed(METADATA.sorted_tables):
            if table.name not in kept:
                await conn.execute(table.delete())


async def _forget(engine: AsyncEngine, server: NatsServer) -> None:
    await forget_rows(engine)
    nc = await nats.connect(server.url, user="setup", password=server.passwords["setup"])
    for stream in topology.STREAMS:
        await nc.jetstream().purge_stream(stream.name)
    await nc.close()


async def submit(nc: Client, *uploads: UploadReceived) -> None:
    """Say that files came in, as ingest does."""
    told = [
        outgoing(UPLOAD_RECEIVED, u, message_id=str(u.upload_id), key=str(u.job_id), source="test") for u in uploads
    ]
    for start in range(0, len(told), 500):
        await publish(nc.jetstream(), told[start : start + 500])


@dataclass
class Worker:
    """Answers no-op commands. Of (tenant, phase) `codes` says which fail, `holds` which are not answered yet, and
    `lesser` which a lesser engine does."""

    nc: Client
    codes: dict[tuple[str, str], str] = field(default_factory=dict)
    holds: set[tuple[str, str]] = field(default_factory=set)
    lesser: set[tuple[str, str]] = field(default_factory=set)
    given: list[RunPhase] = field(default_factory=list)
    held: list[RunPhase] = field(default_factory=list)
    out: Counter[str] = field(default_factory=Counter)
    out_max: Counter[str] = field(default_factory=Counter)

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """What has come is answered; a command that came twice is one."""
        commands = [RunPhase.model_validate_json(delivery.body) for delivery in deliveries]
        known = {command.key for command in self.given}
        fresh = [command for command in commands if command.key not in known]
        self.given += fresh
        for command in fresh:
            for place in (command.phase, f"{command.phase} of {command.tenant}"):
                self.out[place] += 1
                self.out_max[place] = max(self.out_max[place], self.out[place])
        held = [command for command in fresh if (command.tenant, command.phase) in self.holds]
        self.held += held
        await self.answer(*(command for command in fresh if command not in held))

    async def answer(self, *commands: RunPhase) -> None:
        """Say how they ended."""
        for command in commands:
            self.out[command.phase] -= 1
            self.out[f"{command.phase} of {command.tenant}"] -= 1
        await publish(self.nc.jetstream(), [self._outcome(command) for command in commands])

    async def let_go(self) -> None:
        """Answer what was held."""
        self.holds.clear()
        held, self.held = self.held, []
        await self.answer(*held)

    def _outcome(self, command: RunPhase) -> Outgoing:
        about: dict[str, Any] = {"job_id": command.job_id, "phase": command.phase, "attempt": command.attempt}
        at, id_ = now(), f"{command.key}.outcome"
        if code := self.codes.get((command.tenant, command.phase)):
            bad = PhaseFailed(**about, item=command.item, code=code, detail="as the test wants", ended_at=at)
            return outgoing(PHASE_FAILED, bad, message_id=id_, key=command.key, source="test")
        made = Artifact(
            key=f"{command.prefix}/image.png", sha256="1" * 64, size=1, media_type="image/png", name="image.png"
        )
        about |= {"item": command.item, "artifacts": [made]}
        about |= {"degraded": (command.tenant, command.phase) in self.lesser}
        done = PhaseSucceeded(**about, engine="noop@1", started_at=at - timedelta(seconds=2), ended_at=at)
        return outgoing(PHASE_SUCCEEDED, done, message_id=id_, key=command.key, source="test")


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """Let the worker take commands."""
    task = asyncio.create_task(consume_batches(worker.nc, topology.consumer("bench-noop"), worker.take))
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
