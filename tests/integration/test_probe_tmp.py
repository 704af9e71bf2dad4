"""Room is shared fairly on a real database: nobody waits for another's batch, and no limit is ever exceeded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.phases import RunPhase
from contracts.uploads import Lane
from orchestrator.app import build
from orchestrator.capacity import Capacity
from orchestrator.machine.inputs import Cancel, Pause, Resume
from orchestrator.machine.pipeline import Pipeline
from orchestrator.pipelines import BUILT_IN, load
from orchestrator.settings import Settings
from orchestrator.shell import Arrived, Shell
from runtime.outbox import Outgoing
from tests.integration.conftest import SettingsOf, until
from tests.integration.desk import engine_for, pipelines_in, seated, settings_for
from tests.integration.orchestra import (
    Bench,
    EngineOf,
    Kept,
    bench,
    broken_laws,
    calm,
    earlier,
    forget_rows,
    now,
    phase,
    pipeline,
    submit,
    succeeds,
    upload,
)
from tests.integration.wire import served
from tests.servers.models import NatsServer

PHOTO = load(BUILT_IN / "photo.yaml")
FACTS: dict[str, Any] = {"faces": [{"box": [0, 0, 1, 1]}], "detections": [{"kind": "power_line"}]}
A, B, C = "a", "b", "c"


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


@dataclass
class Hall:
    """Where the commands of one shell go: each is out until the test answers it."""

    desk: Bench
    kept: Kept
    given: list[RunPhase] = field(default_factory=list)  # all, in their order
    out: list[RunPhase] = field(default_factory=list)

    def look(self) -> list[RunPhase]:
        """The commands that came since the last look."""
        fresh = commands(self.kept.sent)
        self.kept.sent.clear()
        self.given += fresh
        self.out += fresh
        return fresh

    def out_of(self, phase: str, tenant: str | None = None) -> list[RunPhase]:
        return [c for c in self.out if c.phase == phase and tenant in (None, c.tenant)]

    async def answer(self, *those: RunPhase) -> list[RunPhase]:
        """These succeed. What goes out in their stead comes back, room given included."""
        self.out = [c for c in self.out if c not in those]
        outcomes = [succeeds(c.job_id, c.phase, c.attempt, **FACTS if c.phase == "analyze" else {}) for c in those]
        await self.desk.shell.take(outcomes)
        while await self.desk.shell.admit():
            pass
        return self.look()

    async def fill(self, phase: str) -> None:
        """Let the work of A and C go on until no command of this phase finds room any more."""
        names = [p.name for p in self.desk.pipelines[0].phases]
        before = names[: names.index(phase)]
        limit = self.desk.pipelines[0].phase(phase).running_max
        assert limit is not None
        while len(self.out_of(phase)) < limit or not await self.waiting(phase):
            theirs = [c for c in self.out if c.tenant != B]
            nearest = next(name for name in reversed(before) if any(c.phase == name for c in theirs))
            await self.answer(*(c for c in theirs if c.phase == nearest))

    async def waiting(self, phase: str) -> int:
        name = self.desk.pipelines[0].name
        query = "SELECT count(*) FROM orchestrator.waiting WHERE pipeline = :name AND phase = :phase"
        found: int = await self.desk.one(query, name=name, phase=phase)
        return found


def commands(messages: Sequence[Outgoing]) -> list[RunPhase]:
    return [RunPhase.model_validate_json(m.body) for m in messages if ".v1.run" in m.subject]


async def gallery(desk: Bench, tenant: str, count: int) -> None:
    """A batch, through the real shell, as it would arrive from the broker."""
    batch = uuid4()
    for start in range(0, count, 100):
        some = [desk.begins(tenant, batch=batch, style="warm") for _ in range(min(100, count - start))]
        await desk.shell.take(some)


# -- a batch does not hold up a single photo --------------------------------------------------------


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
async def test_a_photo_waits_for_one_ending_where_batches_of_5000_wait_too(engine: AsyncEngine, lane: Lane) -> None:
    """Two tenants fill every place of every phase, and thousands of their units wait; then a third has one photo.

    In each phase its command is the next that goes out: after one ending, or at once. In between goes none of theirs.
    """
    kept = Kept(engine)
    count = 4900 if lane == "bulk" else 400
    async with bench(engine, replace(PHOTO, name=f"photo-{uuid4().hex[:8]}"), outbox=kept) as desk:
        hall = Hall(desk, kept)
        await gallery(desk, A, count)
        hall.look()
        assert Counter(c.tenant for c in hall.out) == {A: 12}, "no more than a tenant may have"
        await gallery(desk, C, 100)
        await hall.answer()
        assert Counter(c.tenant for c in hall.out) == {A: 12, C: 4}
        assert await hall.waiting("analyze") == count + 100 - 16
        photo = desk.begins(B, lane=lane, style="warm")
        mine: list[RunPhase] = []
        for name in (p.name for p in PHOTO.phases):
            await hall.fill(name)
            if not mine:
                await desk.shell.take([photo])
                arrived = [*hall.look(), *await hall.answer()]
            else:
                arrived = await hall.answer(mine.pop())  # its phase before is over
            assert [c for c in arrived if c.phase == name] == [], "there is no room"
            theirs = hall.out_of(name, A)[0]
            [next_] = [c for c in await hall.answer(theirs) if c.phase == name]
            assert (next_.tenant, next_.job_id) == (B, photo.job_id)
            mine.append(next_)
        await hall.answer(*mine)
        assert (await desk.row(photo.job_id)).status == "succeeded"
        over = await desk.ask("SELECT tenant FROM orchestrator.jobs WHERE status = 'succeeded'")
        assert sorted(row.tenant for row in over) == [A, B], "of theirs is over what had to make room, and no more"
        await desk.laws()


async def test_a_photo_goes_through_at_once_while_the_other_s_limit_leaves_room(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, replace(PHOTO, name=f"photo-{uuid4().hex[:8]}"), outbox=kept) as desk:
        hall = Hall(desk, kept)
        await gallery(desk, A, 300)
        hall.look()
        photo = desk.begins(B, style="warm")
        await desk.shell.take([photo])
        for name in (p.name for p in PHOTO.phases):
            assert desk.shell.freed.is_set() or hall.out_of(name, B), "somebody is told to look"
            arrived = await hall.answer()
            [mine] = hall.out_of(name, B)
            assert [c.tenant for c in arrived if c.tenant == A] == []
            hall.out.remove(mine)
            await desk.shell.take([succeeds(mine.job_id, name, **FACTS if name == "analyze" else {})])
            hall.look()
        assert (await desk.row(photo.job_id)).status == "succeeded"
        assert Counter(c.tenant for c in hall.given if c.phase == "analyze") == {A: 12, B: 1}
        await desk.laws()


async def test_a_service_at_full_speed_lets_a_single_job_through_a_batch(
    engine: AsyncEngine, nc: Client, settings_of: SettingsOf, tmp_path: Path
) -> None:
    """Two replicas, a worker that answers at once, and room for 6 of 1,000: bob waits for a few of them at most."""
    gated = """
        version: 1
        phases:
          one: {command: noop, deadline_s: 60, running_max: 8, running_max_per_tenant: 6}
          two: {command: noop, deadline_s: 60, needs: [one], running_max: 8, running_max_per_tenant: 6}
        """
    settings = settings_for(settings_of, pipelines_in(tmp_path, gated=gated))
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(served(build(settings))) for _ in range(2)]
        desk = await stack.enter_async_context(seated(sites[0].url, engine, nc))
        batch, given = uuid4(), desk.worker.given
        await submit(nc, *(upload("gated", "alice", batch=batch) for _ in range(1000)))
        await until(lambda: len(given) > 100)
        before = len(given)
        photo = await desk.begun("bob", "gated")
        await desk.reaches(photo, "succeeded")
        places = {c.phase: n for n, c in enumerate(given) if c.job_id == photo}
        print("PLACES", places, before)
        assert places["two"] - before < 150, "of the 1,900 that were still to come"
        await desk.post(f"/v1/batches/{batch}/cancel")

        async def over() -> bool:
            view = await desk.get(f"/v1/batches/{batch}")
            total: int = view["jobs"]["total"]
            return total == 1000 and view["fraction"] == 1.0

        await until(over)
        most = desk.worker.out_max
        assert most["one"] <= 8
        assert most["two"] <= 8
        assert max(most["one of alice"], most["two of alice"]) <= 6
        assert await broken_laws(engine, ["gated"]) == []


# -- in which order ---------------------------------------------------------------------------------


async def test_interactive_goes_before_bulk_and_within_a_lane_who_has_least(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, pipeline(phase("a", running_max=2)), outbox=kept) as desk:
        hall = Hall(desk, kept)
        for tenant, lane, count in ((A, "bulk", 4), (B, "bulk", 2), (A, "interactive", 2), (C, "interactive", 1)):
            await desk.shell.take([desk.begins(tenant, lane=lane) for _ in range(count)])
        hall.look()
        turns = []
        while hall.out:
            turns += await hall.answer(hall.out[0])
        lanes = {job.id: job.lane for job in [await desk.job(c.job_id) for c in turns]}
        assert [(c.tenant, lanes[c.job_id]) for c in turns] == [
            (C, "interactive"),  # A had one out, C none
            (A, "interactive"),
            (A, "interactive"),
            (B, "bulk"),
            (A, "bulk"),
            (B, "bulk"),
            (A, "bulk"),
        ]
        await desk.laws()


async def test_where_there_are_more_tenants_than_places_they_take_turns(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, pipeline(phase("a", running_max=1)), outbox=kept) as desk:
        hall = Hall(desk, kept)
        for tenant in (A, B, C):
            await desk.shell.take([desk.begins(tenant) for _ in range(3)])
        hall.look()
        while hall.out:
            await hall.answer(hall.out[0])
        assert [c.tenant for c in hall.given] == [A, B, C] * 3


async def test_units_of_a_tenant_go_in_the_order_in_which_they_came(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, pipeline(phase("a", running_max=1)), outbox=kept) as desk:
        hall = Hall(desk, kept)
        jobs = [await desk.begun(A) for _ in range(6)]
        hall.look()
        while hall.out:
            await hall.answer(hall.out[0])
        assert [c.job_id for c in hall.given] == jobs


async def test_a_tenant_of_weight_3_gets_three_times_the_room(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    capacity = Capacity(weights={A: 3.0})
    async with bench(engine, pipeline(phase("a", running_max=8)), outbox=kept, capacity=capacity) as desk:
        hall = Hall(desk, kept)
        await desk.shell.take([desk.begins(B) for _ in range(60)])
        await desk.shell.take([desk.begins(A) for _ in range(60)])
        hall.look()
        for _ in range(40):
            await hall.answer(hall.out[0])
        assert Counter(c.tenant for c in hall.out) == {A: 6, B: 2}
        await desk.laws()


async def test_what_has_just_come_does_not_overtake_what_waits_even_in_one_batch(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, pipeline(phase("a", running_max=1)), outbox=kept) as desk:
        hall = Hall(desk, kept)
        first, second, third = desk.begins(A), desk.begins(B), desk.begins(A)
        await desk.shell.take([first, second, succeeds(first.job_id, "a"), third])
        assert [c.job_id for c in hall.look()] == [first.job_id]
        hall.out.clear()
        [turn] = await hall.answer()
        assert turn.job_id == second.job_id
        await desk.laws()


# -- limits -----------------------------------------------------------------------------------------


async def test_replicas_that_race_for_room_never_take_more_than_there_is(
    engine: AsyncEngine, engine_of: EngineOf
) -> None:
    """Counted from the commands that were given and the outcomes that were taken, after every single transaction."""
    limits = {"a": (5, 3), "b": (4, 4)}
    gated = pipeline(phase("a", running_max=5, running_max_per_tenant=3), phase("b", needs=("a",), running_max=4))
    elsewhere = engine_of("orchestrator")
    async with bench(engine, gated, outbox=Kept(engine)) as one, bench(elsewhere, gated, outbox=Kept(elsewhere)) as two:
        out: list[RunPhase] = []
        jobs: list[UUID] = []

        def check(desk: Bench) -> None:
            kept = desk.shell._outbox
            assert isinstance(kept, Kept)
            out.extend(commands(kept.sent))
            kept.sent.clear()
            for name, (most, of_one) in limits.items():
                tenants = Counter(c.tenant for c in out if c.phase == name)
                assert sum(tenants.values()) <= most, tenants
                assert max(tenants.values(), default=0) <= of_one, tenants

        async def work(desk: Bench, n: int) -> None:
            some = [desk.begins(f"t{(n + k) % 3}") for k in range(6)]
            jobs.extend(one.job_id for one in some)
            await desk.shell.take(some)
            check(desk)
            for _ in range(30):
                mine = [c for c in out if c.job_id.int % 2 == n][:3]
                for c in mine:
                    out.remove(c)
                await desk.shell.take([succeeds(c.job_id, c.phase) for c in mine])
                check(desk)
                await desk.shell.admit()
                check(desk)

        await asyncio.gather(*(work(desk, n) for n, desk in enumerate((one, two)) for _ in range(3)))
        for _ in range(60):
            if not out and not await one.ask(
                "SELECT 1 FROM orchestrator.waiting WHERE pipeline = :n LIMIT 1", n=gated.name
            ):
                break
            rest, out[:] = out[:], []
            await one.shell.take([succeeds(c.job_id, c.phase) for c in rest])
            await one.shell.look()
            await one.shell.admit()
            check(one)
        assert {(await one.row(job)).status for job in jobs} == {"succeeded"}
        await one.laws()
    await elsewhere.dispose()


async def test_a_limit_that_was_lowered_lets_no_more_out_until_enough_have_ended(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    async with bench(engine, pipeline(phase("a", running_max=8, running_max_per_tenant=4))) as desk:
        await desk.shell.take([desk.begins(tenant) for tenant in (A, B) * 10])
        [known] = desk.pipelines
        lower = Capacity({f"{known.name}.a": 2})
        async with bench(engine, known, outbox=kept, capacity=lower) as after:
            hall = Hall(after, kept, out=await _out(after))
            assert Counter(c.tenant for c in hall.out) == {A: 4, B: 4}
            for left in (7, 6, 5, 4, 3, 2):
                assert await hall.answer(hall.out[0]) == []
                assert len(hall.out) == left
            for _ in range(10):
                assert len(await hall.answer(hall.out[0])) == 1
                assert len(hall.out) == 2
                assert max(Counter(c.tenant for c in hall.out).values()) == 1, (
                    "the tenants' share is kept in proportion"
                )
            await after.laws()
        async with bench(engine, known, outbox=kept, capacity=Capacity({f"{known.name}.a": 0})) as closed:
            hall = Hall(closed, kept, out=await _out(closed))
            assert await hall.answer(*hall.out) == []
            await closed.begun()
            assert hall.look() == []
            await closed.laws()


async def _out(desk: Bench) -> list[RunPhase]:
    """The commands that are out by what the jobs say."""
    rows = await desk.ask(
        "SELECT id FROM orchestrator.jobs WHERE pipeline = :n AND ended_at IS NULL ORDER BY created_at, id",
        n=desk.pipelines[0].name,
    )
    found = []
    for row in rows:
        job = await desk.job(row.id)
        found += [
            RunPhase(job_id=job.id, phase=name, attempt=state.attempt, tenant=job.tenant, inputs={}, deadline=now())
            for name, _, state in job.units()
            if state.deadline is not None
        ]
    return found


# -- what leaves a line otherwise than by its turn --------------------------------------------------


async def _rows(desk: Bench) -> tuple[int, int]:
    """Units that wait, by their rows and by their counts."""
    name = desk.pipelines[0].name
    rows = await desk.one("SELECT count(*) FROM orchestrator.waiting WHERE pipeline = :n", n=name)
    counts = await desk.one(
        "SELECT coalesce(sum(count), 0) FROM orchestrator.waiting_counts WHERE pipeline = :n", n=name
    )
    return rows, counts


@pytest.fixture
def queue() -> Pipeline:
    return pipeline(phase("a", running_max=2), expires_s=3600.0)


async def test_units_of_cancelled_jobs_leave_their_line(engine: AsyncEngine, queue: Pipeline) -> None:
    async with bench(engine, queue) as desk:
        jobs = [await desk.begun(A) for _ in range(6)]
        assert await _rows(desk) == (4, 4)
        await desk.shell.take([Arrived(job, Cancel(now()), None, None) for job in jobs[1:5]])
        assert await _rows(desk) == (1, 1)
        await desk.laws()
        assert await desk.shell.admit() == 1
        await desk.shell.take(
            [Arrived(jobs[0], Cancel(now()), None, None), Arrived(jobs[5], Cancel(now()), None, None)]
        )
        assert await _rows(desk) == (0, 0)
        await desk.laws()


async def test_units_of_paused_jobs_leave_their_line_and_come_to_its_end_again(
    engine: AsyncEngine, queue: Pipeline
) -> None:
    async with bench(engine, queue) as desk:
        jobs = [await desk.begun(A) for _ in range(4)]
        until_ = now() + timedelta(hours=1)
        await desk.shell.take([Arrived(jobs[2], Pause("operator:x", until_, now()), None, None)])
        assert await _rows(desk) == (1, 1)
        await desk.laws()
        await desk.shell.take([Arrived(jobs[2], Resume(now()), None, None)])
        assert await _rows(desk) == (2, 2)
        for job in jobs[:2]:
            await desk.shell.take([succeeds(job, "a")])
            await desk.shell.admit()
            await desk.laws()
        assert await _rows(desk) == (0, 0)
        order = await desk.ask(
            "SELECT job_id FROM orchestrator.history WHERE input LIKE 'Admitted%' AND job_id = ANY(:ids) ORDER BY at",
            ids=jobs,
        )
        assert [row.job_id for row in order] == [jobs[3], jobs[2]]


async def test_units_of_jobs_that_expire_leave_their_line(engine: AsyncEngine, queue: Pipeline) -> None:
    async with bench(engine, queue) as desk:
        jobs = [await desk.begun(A) for _ in range(4)]
        for job in jobs[2:]:
            await earlier(engine, job, timedelta(hours=2))
        await desk.shell.wake()
        assert {(await desk.row(job)).status for job in jobs[2:]} == {"dead"}
        assert await _rows(desk) == (0, 0)
        await desk.laws()


async def test_what_waits_for_room_does_not_die_of_its_work_s_deadline(engine: AsyncEngine, queue: Pipeline) -> None:
    async with bench(engine, queue) as desk:
        jobs = [await desk.begun(A) for _ in range(3)]
        await earlier(engine, jobs[2], timedelta(seconds=700))  # its work may take 600 s, but it has not begun
        await desk.shell.wake()
        assert (await desk.row(jobs[2])).status == "queued"
        assert await _rows(desk) == (1, 1)
        await desk.laws()


async def test_items_of_a_fan_out_wait_and_leave_one_by_one(engine: AsyncEngine) -> None:
    kept = Kept(engine)
    pages = pipeline(phase("find"), phase("page", needs=("find",), each="find.pages", running_max=3))
    async with bench(engine, pages, outbox=kept) as desk:
        hall = Hall(desk, kept)
        job = await desk.begun(A)
        other = await desk.begun(B)
        await desk.shell.take([succeeds(job, "find", pages=[{"id": f"p{n}"} for n in range(8)])])
        await desk.shell.take([succeeds(other, "find", pages=["x", "y"])])
        hall.look()
        hall.out = hall.out_of("page")
        assert (len(hall.out), await _rows(desk)) == (3, (7, 7))
        await desk.laws()
        turns = []
        while hall.out:
            done = hall.out.pop(0)
            await desk.shell.take([succeeds(done.job_id, "page", item=done.item)])
            await desk.shell.admit()
            turns += hall.look()
            await desk.laws()
        assert [c.tenant for c in turns][:3] == [B, A, B]
        assert {(await desk.row(id_)).status for id_ in (job, other)} == {"succeeded"}


async def test_a_shell_that_starts_knows_what_is_out_and_what_waits(engine: AsyncEngine, queue: Pipeline) -> None:
    async with bench(engine, queue) as desk:
        jobs = [await desk.begun(A) for _ in range(5)]
        again = Shell(engine, Kept(engine), {(queue.name, 1): queue}, [queue])
        assert await again.admit() == 0
        await again.take([succeeds(jobs[0], "a"), succeeds(jobs[1], "a")])
        assert await again.admit() == 2
        await desk.laws()
