"""The machine's hands on a real database and broker: once is once, whoever dies or races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.phases import PhaseFailed, PhaseSucceeded
from contracts.uploads import UploadReceived
from orchestrator import store
from orchestrator.machine.inputs import Begin, Failed, Succeeded
from orchestrator.pipelines import PHOTO
from orchestrator.shell import Arrived, Shell
from orchestrator.store import PipelineChanged
from orchestrator.tables import OUTBOX
from runtime.outbox import Outbox

EngineOf = Callable[[str], AsyncEngine]
ORIGINAL = ObjectRef(key="uploads/x", sha256="0" * 64, size=1, media_type="image/jpeg")


class Interrupted(Outbox):
    """An outbox of a process that dies right after its commit."""

    async def flush(self, messages: Any) -> None:
        return


@dataclass
class Bench:
    """A shell and a look at its tables."""

    engine: AsyncEngine
    shell: Shell
    outbox: Outbox

    async def ask(self, query: str, **values: Any) -> list[Any]:
        async with self.engine.connect() as conn:
            return list((await conn.execute(text(query), values)).all())

    async def job(self, job_id: UUID) -> Any:
        [row] = await self.ask("SELECT * FROM orchestrator.jobs WHERE id = :id", id=job_id)
        return row

    async def history(self, job_id: UUID) -> list[tuple[int, str]]:
        rows = await self.ask(
            "SELECT revision, input FROM orchestrator.history WHERE job_id = :id ORDER BY revision", id=job_id
        )
        return [tuple(row) for row in rows]

    async def messages(self, job_id: UUID) -> list[str]:
        rows = await self.ask(
            "SELECT unnest(effects) FROM orchestrator.history WHERE job_id = :id ORDER BY revision", id=job_id
        )
        return [row[0] for row in rows]


@pytest.fixture
async def bench(engine_of: EngineOf, nc: Client) -> AsyncIterator[Bench]:
    engine = engine_of("orchestrator")
    async with engine.begin() as conn:
        await store.declare_pipelines(conn, [PHOTO])
    outbox = Outbox(engine, OUTBOX, nc.jetstream())
    yield Bench(engine, Shell(engine, outbox, {("photo", 1): PHOTO}), outbox)
    await engine.dispose()


def begins(job_id: UUID) -> Arrived:
    upload = UploadReceived(
        upload_id=uuid4(),
        job_id=job_id,
        tenant="t",
        pipeline="photo",
        original=ORIGINAL,
        received_at=datetime.now(UTC),
    )
    return Arrived(job_id, Begin(upload, PHOTO, datetime.now(UTC)), f"upload.{job_id}", None)


def succeeds(job_id: UUID, phase: str, attempt: int = 1, message_id: str | None = None) -> Arrived:
    now = datetime.now(UTC)
    outcome = PhaseSucceeded(job_id=job_id, phase=phase, attempt=attempt, engine="test@1", started_at=now, ended_at=now)
    return Arrived(job_id, Succeeded(outcome, now), message_id or f"{outcome.key}.outcome", None)


def fails(job_id: UUID, phase: str, attempt: int, code: str) -> Arrived:
    now = datetime.now(UTC)
    outcome = PhaseFailed(job_id=job_id, phase=phase, attempt=attempt, code=code, ended_at=now)
    return Arrived(job_id, Failed(outcome, now), f"{outcome.key}.outcome", None)


async def test_a_batch_takes_many_jobs_and_several_inputs_of_one(bench: Bench) -> None:
    first, second = uuid4(), uuid4()
    batch = [begins(first), begins(second), succeeds(first, "analyze"), succeeds(first, "crop")]
    await bench.shell.take(batch)
    assert [name for _, name in await bench.history(first)] == ["Begin", "Succeeded analyze.1", "Succeeded crop.1"]
    assert (await bench.job(first)).revision == 3
    assert (await bench.job(second)).revision == 1


async def test_the_same_message_acts_once_however_often_it_comes(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([begins(job), begins(job)])
    await bench.shell.take([begins(job)])
    await bench.shell.take([succeeds(job, "analyze"), succeeds(job, "analyze")])
    await bench.shell.take([succeeds(job, "analyze")])
    assert [name for _, name in await bench.history(job)] == ["Begin", "Succeeded analyze.1"]
    sent = await bench.messages(job)
    assert len(sent) == len(set(sent))
    assert [m for m in sent if m.endswith(".1") and ".crop." in m] == [f"{job}.crop.1"]


async def test_an_outcome_under_another_id_is_stale_and_changes_nothing(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([begins(job), succeeds(job, "analyze")])
    before = await bench.job(job)
    await bench.shell.take([succeeds(job, "analyze", message_id="again")])
    await bench.shell.take([succeeds(job, "style", message_id="skipped already")])
    assert (await bench.job(job)).revision == before.revision


async def test_an_input_for_a_stranger_is_taken_and_forgotten(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([succeeds(job, "analyze")])
    assert await bench.history(job) == []


async def test_a_crash_right_after_the_commit_loses_no_command(bench: Bench, nc: Client) -> None:
    job = uuid4()
    dying = Shell(bench.engine, Interrupted(bench.engine, OUTBOX, nc.jetstream()), {("photo", 1): PHOTO})
    await dying.take([begins(job)])
    left = [row[0] for row in await bench.ask("SELECT message_id FROM orchestrator.outbox")]
    assert f"{job}.analyze.1" in left
    await bench.shell.take([begins(job)])  # the redelivered message finds its work done
    await bench.outbox.sweep(0)
    assert [name for _, name in await bench.history(job)] == ["Begin"]
    found = await nc.jetstream().get_last_msg("COMMANDS", "cmd.analysis.v1.run")
    assert (found.headers or {}).get("Nats-Msg-Id") == f"{job}.analyze.1"


async def test_a_batch_that_fails_leaves_nothing_behind(bench: Bench) -> None:
    job = uuid4()

    class Refusing(Outbox):
        async def add(self, conn: Any, messages: Any) -> None:
            await super().add(conn, messages)
            raise RuntimeError("the process dies before the commit")

    dying = Shell(bench.engine, Refusing(bench.engine, OUTBOX, None), {("photo", 1): PHOTO})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="dies"):
        await dying.take([begins(job)])
    assert await bench.history(job) == []
    assert await bench.ask("SELECT 1 FROM orchestrator.inbox WHERE message_id = :id", id=f"upload.{job}") == []
    await bench.shell.take([begins(job)])
    assert (await bench.job(job)).revision == 1


async def test_two_replicas_at_the_same_jobs_do_everything_once(bench: Bench, engine_of: EngineOf, nc: Client) -> None:
    other_engine = engine_of("orchestrator")
    other = Shell(other_engine, Outbox(other_engine, OUTBOX, nc.jetstream()), {("photo", 1): PHOTO})
    jobs = [uuid4() for _ in range(20)]
    for step in (begins, lambda job: succeeds(job, "analyze"), lambda job: succeeds(job, "crop")):
        batch = [step(job) for job in jobs]
        await asyncio.gather(bench.shell.take(batch), other.take(list(reversed(batch))))
    await other_engine.dispose()
    for job in jobs:
        assert [r for r, _ in await bench.history(job)] == [1, 2, 3]


async def test_time_reaches_a_retry_and_a_deadline(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([begins(job), fails(job, "analyze", 1, "STORAGE_UNAVAILABLE")])
    await _make_due(bench, job)
    assert await bench.shell.wake() >= 1
    assert (await bench.history(job))[-1][1] == "TimeReached"
    assert f"{job}.analyze.2" in await bench.messages(job)


async def test_a_job_that_nobody_answers_ends_by_time_alone(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([begins(job)])
    for _ in range(20):
        row = await bench.job(job)
        if row.ended_at:
            break
        await _make_due(bench, job)
        await bench.shell.wake()
    row = await bench.job(job)
    assert (row.status, row.wake_at) == ("dead", None)


async def test_waking_passes_over_jobs_that_another_replica_holds(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([begins(job)])
    await _make_due(bench, job)
    async with bench.engine.connect() as held:
        await held.execute(text("SELECT 1 FROM orchestrator.jobs WHERE id = :id FOR UPDATE"), {"id": job})
        await bench.shell.wake()
        assert (await bench.job(job)).revision == 1
        await held.rollback()
    await bench.shell.wake()
    assert (await bench.job(job)).revision == 2


async def test_a_pipeline_that_changed_without_a_new_version_is_refused(bench: Bench) -> None:
    changed = replace(PHOTO, deadline_s=1.0)
    async with bench.engine.connect() as conn:
        with pytest.raises(PipelineChanged, match="photo@1 was changed; give it a new version"):
            await store.declare_pipelines(conn, [changed])
        known = await store.declare_pipelines(conn, [replace(changed, version=2)])
        assert [(p.name, p.version) for p in known if p.name == "photo"] == [("photo", 1), ("photo", 2)]
        await conn.rollback()


async def test_a_job_reads_back_as_it_was_written(bench: Bench) -> None:
    job = uuid4()
    await bench.shell.take([begins(job)])
    async with bench.engine.connect() as conn:
        stored = (await store.load_for_update(conn, [job]))[job]
        await store.save_if_revision(conn, [replace(stored, revision=2)], [1])
        again = (await store.load_for_update(conn, [job]))[job]
        with pytest.raises(store.RevisionConflict):
            await store.save_if_revision(conn, [replace(stored, revision=3)], [1])
        await conn.rollback()
    assert again.job == stored.job


async def _make_due(bench: Bench, job: UUID) -> None:
    """Let the job's whole clock be in the past, as if nobody had come for so long."""
    async with bench.engine.begin() as conn:
        stored = (await store.load_for_update(conn, [job]))[job]
        wake_at = stored.job.wake_at
        assert wake_at is not None
        late = wake_at - datetime.now(UTC) + timedelta(seconds=1)
        phases = {
            name: replace(
                state,
                deadline=state.deadline and state.deadline - late,
                retry_at=state.retry_at and state.retry_at - late,
            )
            for name, state in stored.job.phases.items()
        }
        moved = replace(stored.job, phases=phases, deadline=stored.job.deadline - late)
        await store.save_if_revision(conn, [replace(stored, job=moved)], [stored.revision])
