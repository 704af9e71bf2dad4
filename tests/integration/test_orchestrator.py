"""The machine's hands on a real database: once is once, whoever dies or races, and time is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from msgspec import structs
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from contracts.phases import RunPhase
from orchestrator import store
from orchestrator.app import build
from orchestrator.capacity import Capacity
from orchestrator.machine.inputs import Begin, Cancel, Pause, Resume, Retry
from orchestrator.settings import Settings
from orchestrator.shell import Answer, Arrived, Shell
from orchestrator.store import PipelineChanged
from orchestrator.tables import OUTBOX
from runtime import postgres
from runtime.outbox import Outbox, Outgoing
from tests.integration.conftest import SettingsOf, until
from tests.integration.desk import engine_for
from tests.integration.orchestra import (
    Bench,
    EngineOf,
    Kept,
    Worker,
    bench,
    calm,
    earlier,
    fails,
    forget_rows,
    now,
    phase,
    pipeline,
    succeeds,
    upload,
    working,
)
from tests.integration.wire import served, told
from tests.servers.models import NatsServer

RETRIED = {"*": (1.0, 5.0)}


@pytest.fixture(scope="module", autouse=True)
async def alone(prepared: object, settings_of: SettingsOf, nats_server: NatsServer) -> AsyncIterator[None]:
    engine = engine_for(settings_of(Settings, "orchestrator"))
    async with calm(engine, nats_server):
        yield
    await engine.dispose()


@pytest.fixture
async def engine(engine_of: EngineOf) -> AsyncIterator[AsyncEngine]:
    made = engine_of("orchestrator")
    yield made
    await forget_rows(made)
    await made.dispose()


@pytest.fixture
async def desk(engine: AsyncEngine) -> AsyncIterator[Bench]:
    """Three phases in a row, of which the first is tried three times."""
    steps = pipeline(phase("a", retry=RETRIED), phase("b", needs=("a",)), phase("c", needs=("b",)))
    async with bench(engine, steps) as made:
        yield made
        await made.laws()


# -- once is once -----------------------------------------------------------------------------------


async def test_a_batch_takes_many_jobs_and_several_inputs_of_one(desk: Bench) -> None:
    first, second = desk.begins(), desk.begins()
    job = first.job_id
    answers = await desk.shell.take([first, second, succeeds(job, "a"), succeeds(job, "b")])
    assert [answer.ignored for answer in answers] == [None] * 4
    assert await desk.history(job) == ["Begin", "Succeeded a.1", "Succeeded b.1"]
    assert ((await desk.row(job)).revision, (await desk.row(second.job_id)).revision) == (3, 1)


async def test_the_same_message_acts_once_however_often_it_comes(desk: Bench) -> None:
    arrived = desk.begins()
    job = arrived.job_id
    answers = await desk.shell.take([arrived, arrived])
    assert [answer.ignored for answer in answers] == [None, "the message was taken before"]
    await desk.shell.take([arrived])
    await desk.shell.take([succeeds(job, "a"), succeeds(job, "a")])
    await desk.shell.take([succeeds(job, "a")])
    assert await desk.history(job) == ["Begin", "Succeeded a.1"]
    sent = await desk.sent(job)
    assert len(sent) == len(set(sent))
    assert f"{job}.b.1" in sent


async def test_an_outcome_under_another_id_is_stale_and_changes_nothing(desk: Bench) -> None:
    job = await desk.begun()
    await desk.shell.take([succeeds(job, "a")])
    before = await desk.row(job)
    for late in (
        succeeds(job, "a", message_id="again"),
        succeeds(job, "c", message_id="early"),
        fails(job, "a", "X", 2),
    ):
        [answer] = await desk.shell.take([late])
        assert answer.ignored
    assert await desk.row(job) == before


async def test_an_input_for_a_stranger_is_taken_and_forgotten(desk: Bench) -> None:
    job = uuid4()
    [answer] = await desk.shell.take([succeeds(job, "a")])
    assert answer == Answer(None, "there is no such job")
    assert await desk.history(job) == []


async def test_two_replicas_at_the_same_jobs_do_everything_once(desk: Bench, engine_of: EngineOf) -> None:
    elsewhere = engine_of("orchestrator")
    async with bench(elsewhere, *desk.pipelines) as other:
        uploads = [desk.begins() for _ in range(30)]
        jobs = [one.job_id for one in uploads]
        for batch in (uploads, *([succeeds(job, name) for job in jobs] for name in "abc")):
            await asyncio.gather(desk.shell.take(batch), other.shell.take(list(reversed(batch))))
    await elsewhere.dispose()
    for job in jobs:
        assert await desk.history(job) == ["Begin", "Succeeded a.1", "Succeeded b.1", "Succeeded c.1"]
        assert (await desk.row(job)).status == "succeeded"


async def test_two_replicas_that_hear_of_one_upload_begin_one_job(desk: Bench, engine_of: EngineOf) -> None:
    elsewhere = engine_of("orchestrator")
    async with bench(elsewhere, *desk.pipelines) as other:
        arrived = desk.begins()
        answers = await asyncio.gather(*(shell.take([arrived]) for shell in (desk.shell, other.shell) * 5))
    await elsewhere.dispose()
    assert sum(1 for [answer] in answers if answer.ignored is None) == 1
    assert await desk.history(arrived.job_id) == ["Begin"]


# -- all or nothing ---------------------------------------------------------------------------------


async def test_a_crash_right_after_the_commit_loses_no_command(desk: Bench, nc: Client) -> None:
    arrived = desk.begins()
    await desk.shell.take([arrived])  # its outbox never gets to publish
    again = Outbox(desk.engine, OUTBOX, nc.jetstream())
    async with bench(desk.engine, *desk.pipelines, outbox=again) as other:
        await other.shell.take([arrived])  # the redelivered message finds its work done
    while await again.sweep(0):
        pass
    assert await desk.history(arrived.job_id) == ["Begin"]
    found = await nc.jetstream().get_last_msg("COMMANDS", "cmd.bench.v1.run")
    assert (found.headers or {})["Nats-Msg-Id"] == f"{arrived.job_id}.a.1"
    assert [one.subject for one in await told(nc, str(arrived.job_id))] == ["evt.job.v1.started"]


async def test_a_crash_before_the_commit_leaves_nothing_and_the_message_acts_when_it_comes_again(desk: Bench) -> None:
    arrived = desk.begins()

    async def dies(_conn: asyncpg.Connection, answers: Sequence[Answer]) -> None:
        assert answers[0].ignored is None
        raise RuntimeError("the process dies before the commit")

    with pytest.raises(RuntimeError, match="dies"):
        await desk.shell.take([arrived], dies)
    assert await desk.ask("SELECT 1 FROM orchestrator.jobs WHERE id = :id", id=arrived.job_id) == []
    assert await desk.ask("SELECT 1 FROM orchestrator.inbox WHERE message_id = :id", id=arrived.message_id) == []
    await desk.laws()
    await desk.shell.take([arrived])
    assert (await desk.row(arrived.job_id)).revision == 1


async def test_what_belongs_to_an_input_is_written_in_its_transaction(desk: Bench) -> None:
    job = await desk.begun()

    async def then(conn: asyncpg.Connection, answers: Sequence[Answer]) -> None:
        assert answers[0].stored is not None
        assert answers[0].stored.revision == 2
        assert await conn.fetchval("SELECT status FROM orchestrator.jobs WHERE id = $1", job) == "cancelled"
        await conn.execute("INSERT INTO orchestrator.batches (tenant, id, name) VALUES ('t', $1, 'then')", job)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await desk.shell.take([Arrived(job, Cancel(now()), None, None)], then)
    assert ((await desk.row(job)).status, await desk.history(job)) == ("running", ["Begin"])
    assert await desk.ask("SELECT 1 FROM orchestrator.batches WHERE id = :id", id=job) == []


async def test_200_inputs_of_which_one_cannot_be_written_leave_nothing(desk: Bench) -> None:
    good = [desk.begins() for _ in range(199)]
    bad = desk.begins(tenant="a\0b")  # no text of the database holds this
    with pytest.raises(asyncpg.CharacterNotInRepertoireError):
        await desk.shell.take([*good[:100], bad, *good[100:]])
    jobs = [one.job_id for one in good]
    assert await desk.one("SELECT count(*) FROM orchestrator.jobs WHERE id = ANY(:ids)", ids=jobs) == 0
    assert await desk.one("SELECT count(*) FROM orchestrator.history WHERE job_id = ANY(:ids)", ids=jobs) == 0
    await desk.laws()
    await desk.shell.take(good)
    assert await desk.one("SELECT count(*) FROM orchestrator.jobs WHERE id = ANY(:ids)", ids=jobs) == 199


async def test_a_second_writer_of_the_same_revision_is_refused(desk: Bench) -> None:
    found = await desk.shell.read(await desk.begun())
    assert found is not None
    stored = found[0]
    async with postgres.transaction(desk.engine) as conn:
        await store.write(conn, store.Changes([(1, structs.replace(stored, revision=2))]))
        with pytest.raises(store.RevisionConflict, match="1 of 1"):
            await store.write(conn, store.Changes([(1, structs.replace(stored, revision=3))]))
        await conn.execute("UPDATE orchestrator.jobs SET revision = 1 WHERE id = $1", stored.job.id)


async def test_a_job_reads_back_as_it_was_written(engine: AsyncEngine) -> None:
    pages = phase("page", needs=("find",), each="find.pages", command="noop")
    async with bench(engine, pipeline(phase("find"), pages)) as desk:
        job = await desk.begun(style="warm", lane="bulk", batch=uuid4())
        [answer] = await desk.shell.take(
            [succeeds(job, "find", pages=[{"id": "p1"}, {"id": "p2"}], note="Grüße\n\U0001f4f7", ratio=0.1, none=None)]
        )
        assert answer.stored is not None
        assert set(answer.stored.job.phases["page"].items) == {"p1", "p2"}
        assert await desk.job(job) == answer.stored.job
        await desk.laws()


# -- time -------------------------------------------------------------------------------------------


async def test_time_reaches_a_retry(desk: Bench) -> None:
    job = await desk.begun()
    await desk.shell.take([fails(job, "a", "STORAGE_UNAVAILABLE")])
    await desk.shell.wake()
    assert (await desk.history(job))[-1] == "Failed a.1"
    await earlier(desk.engine, job)
    assert await desk.shell.wake() >= 1
    assert (await desk.history(job))[-1] == "TimeReached"
    assert f"{job}.a.2" in await desk.sent(job)


async def test_a_job_that_nobody_answers_ends_by_time_alone(desk: Bench) -> None:
    job = await desk.begun()
    for _ in range(20):
        if (await desk.row(job)).ended_at:
            break
        await earlier(desk.engine, job)
        await desk.shell.wake()
    row = await desk.row(job)
    assert (row.status, row.wake_at) == ("dead", None)
    assert (await desk.job(job)).phases["a"].attempt == 3


async def test_a_row_that_wakes_its_job_too_soon_costs_a_look_and_nothing_else(engine: AsyncEngine) -> None:
    async with bench(engine, pipeline(phase("a", deadline_s=10), phase("b", needs=("a",), deadline_s=900))) as desk:
        job = await desk.begun()
        first = (await desk.job(job)).wake_at
        await desk.shell.take([succeeds(job, "a")])
        later = (await desk.job(job)).wake_at
        assert first is not None
        assert later is not None
        assert later > first
        assert (await desk.row(job)).wake_at == first, "no index had to change"
        async with postgres.transaction(desk.engine) as conn:
            await conn.execute("UPDATE orchestrator.jobs SET wake_at = $2 WHERE id = $1", job, now())
        assert await desk.shell.wake() >= 1
        assert (await desk.row(job)).wake_at == later
        assert (await desk.history(job))[-1] == "Succeeded a.1"
        await desk.laws()


async def test_waking_passes_over_jobs_that_another_replica_holds(desk: Bench) -> None:
    job = await desk.begun()
    await earlier(desk.engine, job)
    async with postgres.transaction(desk.engine) as held:
        await held.execute("SELECT 1 FROM orchestrator.jobs WHERE id = $1 FOR UPDATE", job)
        await desk.shell.wake()
        assert (await desk.row(job)).revision == 1
    await desk.shell.wake()
    assert (await desk.row(job)).revision == 2


async def test_one_job_that_nobody_can_decide_does_not_stop_the_clocks_of_the_others(desk: Bench) -> None:
    broken, *sound = [await desk.begun() for _ in range(4)]
    for job in (broken, *sound):
        await earlier(desk.engine, job)
    # A state that the law of movement does not know: a phase that is out of a pipeline that has it not.
    await _alter(desk, broken, '"phases":{"a"', '"phases":{"gone"')
    with capture_logs() as logged:
        assert await desk.shell.wake() == 3
    assert [(line["event"], line["job"]) for line in logged if line["log_level"] == "error"] == [
        ("job.undecidable", str(broken))
    ]
    for job in sound:
        assert (await desk.history(job))[-1] == "TimeReached"
    await _alter(desk, broken, '"phases":{"gone"', '"phases":{"a"')
    await desk.shell.wake()


async def _alter(desk: Bench, job: object, old: str, new: str) -> None:
    async with postgres.transaction(desk.engine) as conn:
        done = await conn.execute(
            "UPDATE orchestrator.jobs SET state = replace(state::text, $2, $3)::json "
            "WHERE id = $1 AND state::text LIKE '%' || $2 || '%'",
            job,
            old,
            new,
        )
    assert done == "UPDATE 1"


async def test_timers_fire_within_a_second_of_their_time_after_a_restart(
    engine: AsyncEngine, nc: Client, settings_of: SettingsOf
) -> None:
    quick = pipeline(phase("a", retry={"*": (1.5,)}))
    outbox = Outbox(engine, OUTBOX, nc.jetstream())
    settings = settings_of(Settings, "orchestrator")
    async with bench(engine, quick, outbox=outbox) as desk, working(Worker(nc)) as worker:
        early, late = await desk.begun(), await desk.begun()
        await desk.shell.take([fails(early, "a", "CALL_LOST"), fails(late, "a", "CALL_LOST")])
        await earlier(engine, early)  # its time came while no process was there
        async with served(build(settings)):
            started = now()
            await until(lambda: f"{early}.a.2" in {command.key for command in worker.given})
            assert now() - started < timedelta(seconds=1)
            await until(lambda: f"{late}.a.2" in {command.key for command in worker.given})
        for job in (early, late):
            due = (await desk.job(job)).phases["a"].tries[0].ended_at + timedelta(seconds=1.5)
            [fired] = await desk.ask(
                "SELECT at FROM orchestrator.history WHERE job_id = :id AND input = 'TimeReached'", id=job
            )
            assert job == early or due <= fired.at < due + timedelta(seconds=1)


# -- pipelines --------------------------------------------------------------------------------------


async def test_a_pipeline_that_changed_without_a_new_version_is_refused(desk: Bench) -> None:
    [known] = desk.pipelines
    changed = replace(known, deadline_s=1.0)
    async with desk.engine.connect() as conn:
        with pytest.raises(PipelineChanged, match=f"{known.name}@1 was changed; give it a new version"):
            await store.declare_pipelines(conn, [changed])
        kept = await store.declare_pipelines(conn, [replace(changed, version=2)])
        assert [p.version for p in kept if p.name == known.name] == [1, 2]
        await conn.rollback()


async def test_a_job_that_pins_version_1_runs_beside_one_of_version_2(engine: AsyncEngine) -> None:
    old = pipeline(phase("a"), phase("b", needs=("a",)))
    new = pipeline(phase("a"), phase("z", needs=("a",)), name=old.name, version=2)
    async with bench(engine, old, new) as desk:
        first, second = await desk.begun(version=1), await desk.begun(version=2)
        await desk.shell.take([succeeds(first, "a"), succeeds(second, "a")])
        assert f"{first}.b.1" in await desk.sent(first)
        assert f"{second}.z.1" in await desk.sent(second)
        await desk.shell.take([succeeds(first, "b"), succeeds(second, "z")])
        for job, version in ((first, 1), (second, 2)):
            row = await desk.row(job)
            assert (row.status, row.pipeline_version) == ("succeeded", version)
        await desk.laws()


async def test_a_version_that_a_newer_replica_declared_is_used_by_an_older_one(engine: AsyncEngine) -> None:
    old = pipeline(phase("a"), phase("b", needs=("a",)))
    new = pipeline(phase("a"), phase("z", needs=("a",)), name=old.name, version=2)
    async with bench(engine, old) as older:
        async with bench(engine, old, new) as newer:
            job = await newer.begun(version=2)
        await older.shell.take([succeeds(job, "a"), succeeds(job, "z")])
        assert (await older.row(job)).status == "succeeded"
        assert (await older.begun(), (await older.row(await older.begun())).pipeline_version)[1] == 1
        await older.laws()


async def test_a_job_whose_definition_nobody_has_dies_with_the_reason(engine: AsyncEngine) -> None:
    async with bench(engine, pipeline(phase("a"))) as desk:
        job = await desk.begun()
        async with engine.begin() as conn:
            await conn.exec_driver_sql("DELETE FROM orchestrator.pipelines WHERE name = $1", (desk.pipelines[0].name,))
        forgetful = Shell(engine, Kept(engine), {}, ())
        await forgetful.take([succeeds(job, "a")])
        assert (await desk.row(job)).status == "dead"
        [letter] = await desk.ask("SELECT code FROM orchestrator.dead_letters WHERE job_id = :id", id=job)
        assert letter.code == "PIPELINE_CHANGED"
        await desk.laws()


# -- what people do, at the shell -------------------------------------------------------------------


async def test_a_paused_job_gives_no_command_until_it_goes_on(desk: Bench) -> None:
    job = await desk.begun()
    await desk.shell.take([Arrived(job, Pause("operator:ops", now() + timedelta(days=1), now()), None, None)])
    await desk.shell.take([succeeds(job, "a")])
    assert f"{job}.b.1" not in await desk.sent(job)
    await desk.laws()
    await desk.shell.take([Arrived(job, Resume(now()), None, None)])
    assert f"{job}.b.1" in await desk.sent(job)


async def test_a_cancelled_job_ends_and_its_late_outcome_changes_nothing(desk: Bench) -> None:
    job = await desk.begun()
    await desk.shell.take([Arrived(job, Cancel(now()), None, None)])
    [answer] = await desk.shell.take([succeeds(job, "a")])
    assert answer.ignored == "the job is cancelled"
    assert (await desk.row(job)).status == "cancelled"


async def test_a_retried_job_gives_a_command_of_a_new_attempt(desk: Bench) -> None:
    job = await desk.begun()
    await desk.shell.take([succeeds(job, "a"), fails(job, "b", "OBJECT_MISSING")])
    assert (await desk.row(job)).status == "dead"
    await desk.shell.take([Arrived(job, Retry(None, desk.pipelines[0], now()), None, None)])
    assert [id_ for id_ in await desk.sent(job) if ".b." in id_] == [f"{job}.b.1", f"{job}.b.2"]
    await desk.shell.take([succeeds(job, "b", 2), succeeds(job, "c")])
    assert (await desk.row(job)).status == "succeeded"


async def test_jobs_of_a_batch_that_nobody_made_make_it(desk: Bench) -> None:
    batch = uuid4()
    await desk.shell.take([desk.begins(batch=batch) for _ in range(3)] + [desk.begins("other", batch=batch)])
    rows = await desk.ask("SELECT tenant FROM orchestrator.batches WHERE id = :id ORDER BY 1", id=batch)
    assert [row.tenant for row in rows] == ["other", "t"]


async def test_what_follows_belongs_to_the_trace_of_what_came_or_else_of_the_job(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    trace, other = (f"00-{n * 32}-{n * 16}-01" for n in "12")
    async with bench(engine, pipeline(phase("a", retry=RETRIED), phase("b", needs=("a",))), outbox=kept) as desk:
        made = upload(desk.pipelines[0].name)
        given = Begin(made, desk.pipelines[0], now(), trace)
        arrived = Arrived(made.job_id, given, str(made.upload_id), trace)
        await desk.shell.take([arrived])
        await desk.shell.take([fails(arrived.job_id, "a", "CALL_LOST")])
        await earlier(engine, arrived.job_id)
        await desk.shell.wake()
        await desk.shell.take([structs.replace(succeeds(arrived.job_id, "a", 2), traceparent=other)])
    parents = {message.message_id: message.headers["traceparent"] for message in kept.sent}
    job = arrived.job_id
    assert [parents[f"{job}.{key}"] for key in ("a.1", "a.2", "b.1")] == [trace, trace, other]


# -- limits, as far as the shell alone is concerned -------------------------------------------------


def outs(kept: Sequence[Outgoing]) -> list[RunPhase]:
    return [RunPhase.model_validate_json(m.body) for m in kept if m.subject.startswith("cmd.")]


async def test_commands_beyond_the_limit_wait_and_go_out_as_others_end(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, pipeline(phase("a", running_max=2)), outbox=kept) as desk:
        jobs = [await desk.begun() for _ in range(5)]
        assert [command.job_id for command in outs(kept.sent)] == jobs[:2]
        await desk.laws()
        for n in range(5):
            assert await desk.shell.admit() == 0
            await desk.shell.take([succeeds(jobs[n], "a")])
            assert await desk.shell.admit() == (1 if n < 3 else 0)
            await desk.laws()
        assert [command.job_id for command in outs(kept.sent)] == jobs
        assert {(await desk.row(job)).status for job in jobs} == {"succeeded"}


async def test_a_new_tenant_s_first_commands_are_counted_though_they_go_out_at_once(engine: AsyncEngine) -> None:
    async with bench(engine, pipeline(phase("a", running_max=9, running_max_per_tenant=3))) as desk:
        await asyncio.gather(*(desk.begun("new") for _ in range(12)))
        assert await desk.one("SELECT count FROM orchestrator.running WHERE (phase, tenant) = ('a', 'new')") == 3
        await desk.laws()


async def test_an_older_version_keeps_the_limits_of_the_newest(engine: AsyncEngine) -> None:
    """Else a command of the old one takes room that the new one does not know of, or waits for room for ever."""
    wide = pipeline(phase("a", running_max=4))
    narrow = pipeline(phase("a", running_max=1), name=wide.name, version=2)
    open_ = pipeline(phase("a"), name=wide.name, version=3)
    async with bench(engine, wide) as before:
        jobs = [await before.begun() for _ in range(3)]
    async with bench(engine, wide, narrow) as desk:
        jobs += [await desk.begun(version=1), await desk.begun(version=2)]
        assert (await desk.one("SELECT count(*) FROM orchestrator.waiting WHERE job_id = ANY(:ids)", ids=jobs)) == 2
        for n, job in enumerate(jobs[:3]):
            await desk.shell.take([succeeds(job, "a")])
            assert await desk.shell.admit() == (1 if n == 2 else 0)
        await desk.laws()
    async with bench(engine, wide, narrow, open_) as after:  # the limit is gone, what waited need wait no more
        await after.shell.look()
        assert await after.shell.admit() == 1
        await after.shell.take([succeeds(job, "a") for job in jobs[3:]])
        await after.laws()


async def test_a_count_that_says_more_than_there_is_puts_itself_right(engine: AsyncEngine) -> None:
    async with bench(engine, pipeline(phase("a", running_max=1))) as desk:
        jobs = [await desk.begun("x"), await desk.begun("y"), await desk.begun("z")]
        async with engine.begin() as conn:  # somebody deletes by hand what a tenant wants forgotten
            await conn.exec_driver_sql("DELETE FROM orchestrator.jobs WHERE id = $1", (jobs[1],))
        await desk.shell.take([succeeds(jobs[0], "a")])
        assert [await desk.shell.admit(), await desk.shell.admit()] == [0, 1]
        assert f"{jobs[2]}.a.1" in await desk.sent(jobs[2])
        await desk.laws()


async def test_counts_that_were_deleted_by_hand_are_counted_anew_from_nothing(engine: AsyncEngine) -> None:
    async with bench(engine, pipeline(phase("a", running_max=3))) as desk:
        first = await desk.begun()
        await desk.shell.take([succeeds(first, "a")])
        async with engine.begin() as conn:
            await conn.exec_driver_sql("DELETE FROM orchestrator.running")
        await desk.begun()
        await desk.laws()


async def test_where_others_always_take_the_room_a_batch_lets_its_units_wait(engine: AsyncEngine) -> None:
    """A transaction that loses its room too often does not fail: it counts on none."""

    class Optimist(Capacity):
        def learn(self, *counts: Any) -> None:
            super().learn({}, {})  # it always sees an empty house

    async with bench(engine, pipeline(phase("a", running_max=1))) as desk:
        await desk.begun()
        other = Shell(
            engine, Kept(engine), {(p.name, p.version): p for p in desk.pipelines}, desk.pipelines, Optimist()
        )
        late = desk.begins()
        [answer] = await other.take([late])
        assert answer.ignored is None
        assert (await desk.job(late.job_id)).standing.ready
        await desk.laws()


async def test_jobs_are_admitted_while_others_are_cancelled_and_nobody_waits_in_a_circle(engine: AsyncEngine) -> None:
    async with bench(engine, pipeline(phase("a", running_max=5))) as desk, bench(engine, *desk.pipelines) as other:
        jobs = [one.job_id for one in await _begun(desk, 120)]

        async def cancel() -> None:
            for start in range(0, 120, 10):
                todo = [Arrived(job, Cancel(now()), None, None) for job in jobs[start : start + 10]]
                await desk.shell.take(todo)

        async def admit() -> None:
            for _ in range(20):
                await other.shell.look()
                await other.shell.admit()

        await asyncio.gather(cancel(), admit(), admit())
        assert {(await desk.row(job)).status for job in jobs} == {"cancelled"}
        await desk.laws()


async def _begun(desk: Bench, count: int) -> list[Arrived]:
    arrived = [desk.begins() for _ in range(count)]
    await desk.shell.take(arrived)
    return arrived
