"""Whatever comes, in whatever order, however often, through either of two replicas: the rows keep their laws.

A Hypothesis machine plays broker, workers, time and people against two real shells on a real
database. Messages are taken from the outbox rows that the shells leave, and are answered, delayed,
delivered in any order, twice, or never; processes die before their commit. After each step
the rows must say what the jobs say; at the end time alone must end every job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from contracts.errors import SafelightError
from contracts.phases import PhaseDeferred, PhaseFailed, PhaseProgressed, RunPhase
from contracts.uploads import Lane
from orchestrator import store
from orchestrator.audit import Actor
from orchestrator.machine.inputs import Begin, Deferred, Failed, Progressed, Retry
from orchestrator.machine.pipeline import Pipeline
from orchestrator.operations import NEWEST, PINNED, Again, Operations
from orchestrator.settings import Settings
from orchestrator.shell import Answer, Arrived, Shell
from runtime import postgres
from runtime.outbox import unpack
from tests.integration.conftest import SettingsOf
from tests.integration.desk import engine_for
from tests.integration.orchestra import (
    Kept,
    begins,
    broken_laws,
    earlier,
    forget_rows,
    now,
    phase,
    pipeline,
    succeeds,
)

T = TypeVar("T")
RETRY = {"*": (2.0,)}
LIMITS = {"find": 2, "page": 3, "make": 2}  # and one tenant may have two pages
JOBS_MAX = 6
OPERATOR = Actor("operator:hypothesis", None, "because")

any_of = st.integers(0, 999)  # one of what there is, modulo how many there are
replica = st.integers(0, 1)
late = st.sampled_from([False, False, True])


def versions() -> tuple[Pipeline, Pipeline]:
    """Two versions of a pipeline in which everything can happen."""
    find = phase("find", retry=RETRY, deadline_s=30.0, running_max=2)
    pages = phase(
        "page",
        needs=("find",),
        each="find.pages",
        retry=RETRY,
        on_failure="degrade",
        deadline_s=30.0,
        stall_s=10.0,
        running_max=3,
        running_max_per_tenant=2,
    )
    make = phase("make", needs=("find", "page"), fallback="cpu", unavailable="wait", retry={"*": (2.0,)}, running_max=2)
    extra = phase("extra", needs=("make",))
    first = pipeline(find, pages, make, deadline_s=120.0, expires_s=900.0)
    return first, pipeline(find, pages, make, extra, name=first.name, version=2, deadline_s=120.0, expires_s=900.0)


class Deliveries(RuleBasedStateMachine):
    """What the world does to two replicas."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: AsyncEngine) -> None:
        super().__init__()
        self.loop, self.engine = loop, engine
        self.pipelines = versions()
        self.name = self.pipelines[0].name
        self.jobs: list[UUID] = []
        self.commands: list[RunPhase] = []  # that workers have and have not answered for good
        self.waiting: list[Arrived] = []  # messages on their way to the orchestrator
        self.delivered: list[Arrived] = []
        self.sent: list[str] = []  # the ids of all messages that ever left
        self.ended: dict[UUID, int] = {}  # at which revision
        self.run(self._declare())
        known = {(p.name, p.version): p for p in self.pipelines}
        self.shells = [Shell(engine, Kept(engine), known, self.pipelines[:n]) for n in (1, 2)]  # one is newer

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def _declare(self) -> None:
        async with self.engine.begin() as conn:
            await store.declare_pipelines(conn, self.pipelines)

    # -- the broker -----------------------------------------------------------------------------

    async def _collect(self) -> None:
        """What the shells left in the outbox is published, once."""
        async with postgres.transaction(self.engine) as conn:
            rows = await conn.fetch("DELETE FROM orchestrator.outbox RETURNING message_ids, subjects, headers, bodies")
        for message in (message for row in rows for message in unpack(*row)):
            self.sent.append(message.message_id)
            if message.subject.endswith(".run"):
                self.commands.append(RunPhase.model_validate_json(message.body))

    def _pick(self, things: Sequence[T], which: int) -> T:
        return things[which % len(things)]

    @initialize(tenants=st.lists(st.sampled_from("xy"), min_size=1, max_size=3))
    def begin(self, tenants: list[str]) -> None:
        for tenant in tenants:
            self.upload(tenant, True, False, 0, False)

    @precondition(lambda self: len(self.jobs) < JOBS_MAX)
    @rule(tenant=st.sampled_from("xy"), interactive=st.booleans(), batch=st.booleans(), version=replica, late=late)
    def upload(self, tenant: str, interactive: bool, batch: bool, version: int, late: bool) -> None:
        lane: Lane = "interactive" if interactive else "bulk"
        arrived = begins(self.pipelines[version], tenant, lane=lane, batch=uuid4() if batch else None)
        self.jobs.append(arrived.job_id)
        self._send(arrived, late)

    def _send(self, arrived: Arrived, late: bool) -> None:
        """On its way; it arrives at once unless it is `late`."""
        self.waiting.append(arrived)
        if not late:
            self.deliver([len(self.waiting) - 1], len(self.delivered) % 2)

    @precondition(lambda self: self.waiting)
    @rule(which=st.lists(any_of, min_size=1, max_size=4), by=replica)
    def deliver(self, which: list[int], by: int) -> None:
        """Some of what waits, in any order, in one batch, maybe twice in it."""
        batch = [self._pick(self.waiting, one) for one in which]
        self.run(self.shells[by].take(batch))
        self._take_away(batch)

    @precondition(lambda self: len(self.waiting) > 1)
    @rule(one=any_of, other=any_of)
    def deliver_to_both_at_once(self, one: int, other: int) -> None:
        batches = [[self._pick(self.waiting, one), self._pick(self.waiting, other)], [self._pick(self.waiting, other)]]
        works = [shell.take(batch) for shell, batch in zip(self.shells, batches, strict=True)]
        self.run(_together(*works))
        self._take_away(batches[0])

    @precondition(lambda self: self.delivered)
    @rule(which=any_of, by=replica)
    def deliver_again(self, which: int, by: int) -> None:
        old = self._pick(self.delivered, which)
        [answer] = self.run(self.shells[by].take([old]))
        assert old.message_id is None or answer == Answer(None, "the message was taken before")

    @precondition(lambda self: self.waiting)
    @rule(which=any_of, by=replica)
    def die_before_the_commit(self, which: int, by: int) -> None:
        async def dies(_conn: asyncpg.Connection, _answers: Sequence[Answer]) -> None:
            raise ConnectionResetError

        with pytest.raises((SafelightError, ConnectionResetError)):
            self.run(self.shells[by].take([self._pick(self.waiting, which)], dies))

    @precondition(lambda self: self.waiting)
    @rule(which=any_of)
    def lose_a_message(self, which: int) -> None:
        lost = self._pick(self.waiting, which)
        if not isinstance(lost.given, Begin):  # an upload was acknowledged only when the broker had it
            self.waiting.remove(lost)

    def _take_away(self, batch: Sequence[Arrived]) -> None:
        for one in batch:
            if one in self.waiting:
                self.waiting.remove(one)
                self.delivered.append(one)

    # -- workers --------------------------------------------------------------------------------

    @precondition(lambda self: self.commands)
    @rule(which=any_of, pages=st.integers(0, 4), gone=st.booleans(), late=late)
    def succeed(self, which: int, pages: int, gone: bool, late: bool) -> None:
        command = self._pick(self.commands, which)
        self._answer(command, _success(command, pages), gone, late)

    @precondition(lambda self: self.commands)
    @rule(pages=st.integers(2, 4), by=replica, room=st.booleans())
    def succeed_all(self, pages: int, by: int, room: bool) -> None:
        """A good moment: everything that is out succeeds, the newest first."""
        batch = [_success(command, pages) for command in reversed(self.commands)]
        self.commands.clear()
        self.run(self.shells[by].take(batch))
        self.delivered += batch
        if room:
            self.admit(False, by)

    @precondition(lambda self: self.commands)
    @rule(which=any_of, code=st.sampled_from(["CALL_LOST", "OBJECT_MISSING"]), gone=st.booleans(), late=late)
    def fail(self, which: int, code: str, gone: bool, late: bool) -> None:
        command = self._pick(self.commands, which)
        bad = PhaseFailed(**_about(command), code=code, detail="Grüße\x00", ended_at=now())
        self._answer(command, Arrived(command.job_id, Failed(bad, now()), f"{command.key}.outcome", None), gone, late)

    @precondition(lambda self: self.commands)
    @rule(which=any_of, seconds=st.sampled_from([0, 3, 60]), late=late)
    def defer(self, which: int, seconds: int, late: bool) -> None:
        command = self._pick(self.commands, which)
        about = {**_about(command), "provider": "modal", "code": "PROVIDER_RATE_LIMITED"}
        off = PhaseDeferred(**about, until=now() + timedelta(seconds=seconds), at=now())
        arrived = Arrived(command.job_id, Deferred(off, now()), f"{command.key}.deferred", None)
        self._answer(command, arrived, True, late)

    @precondition(lambda self: self.commands)
    @rule(which=any_of)
    def progress(self, which: int) -> None:
        command = self._pick(self.commands, which)
        hint = PhaseProgressed(**_about(command), fraction=0.5, at=now())
        self._answer(command, Arrived(command.job_id, Progressed(hint, now()), None, None), False, False)

    def _answer(self, command: RunPhase, arrived: Arrived, gone: bool, late: bool) -> None:
        """`gone`: the worker forgets the command; else it may answer once more, otherwise."""
        if gone:
            self.commands.remove(command)
        self._send(arrived, late)

    # -- time and room --------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(seconds=st.sampled_from([1, 3, 11, 31, 130, 1000]), by=replica)
    def time_passes(self, seconds: int, by: int) -> None:
        async def passes() -> None:
            for job in await self._unfinished():
                await earlier(self.engine, job, timedelta(seconds=seconds))
            await self.shells[by].wake()

        self.run(passes())

    @precondition(lambda self: self.jobs)
    @rule(both=st.booleans(), by=replica)
    def admit(self, both: bool, by: int) -> None:
        shells = self.shells if both else [self.shells[by]]
        self.run(_together(*(shell.admit() for shell in shells)))

    @rule(by=replica)
    def look(self, by: int) -> None:
        self.run(self.shells[by].look())

    # -- people ---------------------------------------------------------------------------------

    @precondition(lambda self: self.jobs)
    @rule(which=any_of, what=st.sampled_from(["cancel", "pause", "resume"]), by=replica)
    def steer(self, which: int, what: str, by: int) -> None:
        act = getattr(Operations(self.shells[by]), what)
        self._allowed_or_not(act(OPERATOR, self._pick(self.jobs, which)))

    @precondition(lambda self: self.ended)
    @rule(
        which=any_of,
        start=st.sampled_from([None, Retry.START, "find", "page", "make", "extra"]),
        version=st.sampled_from([PINNED, NEWEST]),
        by=replica,
    )
    def retry(self, which: int, start: str | None, version: str, by: int) -> None:
        job = self._pick(list(self.ended), which)
        self._allowed_or_not(Operations(self.shells[by]).retry(OPERATOR, job, Again(start, {}, version)))

    def _allowed_or_not(self, act: Coroutine[Any, Any, object]) -> None:
        try:
            self.run(act)
        except SafelightError as refused:
            if refused.code not in ("NOT_FOUND", "STATE_CONFLICT", "REQUEST_INVALID"):
                raise

    # -- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_rows_say_what_the_jobs_say(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        await self._collect()
        wrong = await broken_laws(self.engine, [self.name])
        assert not wrong, "\n".join(wrong)
        async with postgres.transaction(self.engine) as conn:
            running = await conn.fetch(
                "SELECT phase, tenant, count FROM orchestrator.running WHERE pipeline = $1", self.name
            )
            told = await conn.fetch(
                "SELECT json_array_elements_text(effects) AS id FROM orchestrator.history "
                "WHERE job_id = ANY($1::uuid[])",
                self.jobs,
            )
            rows = await conn.fetch(
                "SELECT id, revision, ended_at FROM orchestrator.jobs WHERE id = ANY($1::uuid[])", self.jobs
            )
            inputs = await conn.fetch(
                "SELECT job_id, revision, input FROM orchestrator.history WHERE job_id = ANY($1::uuid[])", self.jobs
            )
        for phase_, tenant, count in running:
            most = 2 if phase_ == "page" and tenant else LIMITS.get(phase_, 1000)
            assert 0 <= count <= most, f"{count} of {phase_} are out for {tenant or 'everybody'}"
        assert sorted(self.sent) == sorted(row["id"] for row in told), "each message left once, and no other"
        steps = {(row["job_id"], row["revision"]): row["input"] for row in inputs}
        for row in rows:
            before = self.ended.pop(row["id"], None)
            if before is not None and row["revision"] > before:
                assert steps[row["id"], before + 1] == "Retry", "an ended job changes no more"
            if row["ended_at"]:
                self.ended[row["id"]] = row["revision"]

    async def _unfinished(self) -> list[UUID]:
        async with postgres.transaction(self.engine) as conn:
            rows = await conn.fetch(
                "SELECT id FROM orchestrator.jobs WHERE ended_at IS NULL AND id = ANY($1::uuid[])", self.jobs
            )
        return [row["id"] for row in rows]

    def teardown(self) -> None:
        self.run(self._end())

    async def _end(self) -> None:
        """From here on nobody answers and nothing comes: time alone ends every job."""
        for n in range(300):
            left = await self._unfinished()
            if not left:
                break
            for job in left:
                await earlier(self.engine, job)
            await self.shells[n % 2].look()
            await self.shells[n % 2].wake()
            await self.shells[n % 2].admit()
        assert await self._unfinished() == []
        await self._check()
        await forget_rows(self.engine)


def _success(command: RunPhase, pages: int) -> Arrived:
    facts: dict[str, Any] = {"pages": [f"p{n}" for n in range(pages)]} if command.phase == "find" else {}
    return succeeds(command.job_id, command.phase, command.attempt, item=command.item, **facts)


def _about(command: RunPhase) -> dict[str, Any]:
    return {"job_id": command.job_id, "phase": command.phase, "item": command.item, "attempt": command.attempt}


async def _together(*works: Coroutine[Any, Any, object]) -> None:
    await asyncio.gather(*works)


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """One of its own: Hypothesis runs its machines outside of pytest's."""
    made = asyncio.new_event_loop()
    yield made
    made.close()


def test_the_rows_keep_their_laws_whatever_comes(
    prepared: object, settings_of: SettingsOf, loop: asyncio.AbstractEventLoop
) -> None:
    engine = engine_for(settings_of(Settings, "orchestrator"))
    loop.run_until_complete(forget_rows(engine))

    class Here(Deliveries):
        def __init__(self) -> None:
            super().__init__(loop, engine)

    bounded = settings(
        max_examples=12,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    try:
        with capture_logs():  # of what is ignored there is much
            run_state_machine_as_test(Here, settings=bounded)
    finally:
        loop.run_until_complete(forget_rows(engine))
        loop.run_until_complete(engine.dispose())
