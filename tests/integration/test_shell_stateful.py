"""The real shell on the real database, while deliveries are duplicated, reordered, delayed and dropped.

Hypothesis plays the world: uploads, workers that answer as they like, a broker that forgets and repeats,
time, operators, two replicas in turn, and processes that die in mid-transaction. After each step the rows
are what the jobs say; at the end every job ends, even when only time passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.phases import PhaseFailed, PhaseProgressed, PhaseSucceeded, RunPhase
from orchestrator import store
from orchestrator.machine.inputs import Cancel, Failed, Input, Pause, Progressed, Resume, Retry, Succeeded
from orchestrator.shell import Arrived, Shell
from runtime import postgres
from stack.setup import SetupSettings
from tests.integration.orchestra import Kept, begins, broken_laws, earlier, now, phase, pipeline
from tests.servers.fixtures import EnvironmentOf

T = TypeVar("T")
ROUNDS_MAX = 80
RUNS = "cmd.bench.v1.run"
ANSWERS = st.sampled_from(["well", "badly", "for good", "too late", "progress"])
WHICH = st.integers(0, 1)


class Died(Exception):
    """A process, in mid-transaction."""


class World(RuleBasedStateMachine):
    """Everything that can happen to jobs of one small pipeline that has a bit of everything."""

    runner: asyncio.Runner
    engine: AsyncEngine

    jobs = Bundle("jobs")
    mail = Bundle("mail")

    def __init__(self) -> None:
        super().__init__()
        self.pipeline = pipeline(
            phase("a", retry={"*": (1.0,)}, running_max=3),
            phase("b", needs=("a",), retry={"*": (1.0,)}, fallback="cpu", running_max=2, running_max_per_tenant=1),
            phase("c", needs=("a",), when="a.go", on_failure="skip", stall_s=5.0),
            phase("d", needs=("a",), each="a.pages", on_failure="degrade", running_max=2),
            phase("e", needs=("b", "c", "d")),
            deadline_s=60.0,
            expires_s=120.0,
        )
        self.outboxes = [Kept(self.engine), Kept(self.engine)]
        self.shells = self.run(self._open())
        self.answered: set[str] = set()
        self.all: list[UUID] = []

    async def _open(self) -> list[Shell]:
        async with self.engine.begin() as conn:
            await store.declare_pipelines(conn, [self.pipeline])
        mine = {(self.pipeline.name, self.pipeline.version): self.pipeline}
        return [Shell(self.engine, outbox, mine, [self.pipeline]) for outbox in self.outboxes]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def commands(self) -> list[RunPhase]:
        sent = [one for outbox in self.outboxes for one in outbox.sent if one.subject == RUNS]
        return [RunPhase.model_validate_json(one.body) for one in sent]

    # -- what the world does ----------------------------------------------------------------------

    @rule(target=jobs, who=WHICH, tenant=st.sampled_from(["x", "y"]), times=st.integers(1, 2))
    def begin(self, who: int, tenant: str, times: int) -> UUID:
        one = begins(self.pipeline, tenant)
        self.run(self.shells[who].take([one] * times))
        self.all.append(one.job_id)
        return one.job_id

    @rule(target=mail, number=st.integers(0, 30), how=ANSWERS, go=st.booleans(), pages=st.integers(0, 3))
    def answer(self, number: int, how: str, go: bool, pages: int) -> Any:
        given = self.commands()
        if not given:
            return multiple()
        command = given[number % len(given)]
        about: dict[str, Any] = {"job_id": command.job_id, "phase": command.phase, "item": command.item}
        about["attempt"] = command.attempt
        at, facts = now(), {"go": go, "pages": [f"p{n}" for n in range(pages)]}
        heard: Input
        match how:
            case "well":
                done = PhaseSucceeded(**about, facts=facts, engine="test@1", started_at=at, ended_at=at)
                heard = Succeeded(done, at)
            case "progress":
                heard = Progressed(PhaseProgressed(**about, fraction=0.5, at=at), at)
            case _:
                code = {"badly": "STORAGE_UNAVAILABLE", "for good": "IMAGE_CORRUPT", "too late": "CALL_DEADLINE"}[how]
                heard = Failed(PhaseFailed(**about, code=code, ended_at=at), at)
        id_ = None if isinstance(heard, Progressed) else f"{command.key}.outcome"
        return Arrived(command.job_id, heard, id_, None)

    @rule(letters=st.lists(mail, min_size=1, max_size=6), who=WHICH)
    def deliver(self, letters: list[Arrived], who: int) -> None:
        """In any order, any number of times, or never: what is drawn is not taken out of the bundle."""
        self.run(self.shells[who].take(letters))

    @rule(letters=st.lists(mail, min_size=1, max_size=4))
    def deliver_to_both(self, letters: list[Arrived]) -> None:
        async def both() -> None:
            await asyncio.gather(*(shell.take(letters) for shell in self.shells))

        self.run(both())

    @rule(one=mail, who=WHICH)
    def die(self, one: Arrived, who: int) -> None:
        async def dies(_conn: Any, _answers: Any) -> None:
            raise Died

        with pytest.raises(Died):
            self.run(self.shells[who].take([one], dies))

    @rule(job=jobs, who=WHICH)
    def let_time_pass(self, job: UUID, who: int) -> None:
        found = self.run(self.shells[who].read(job))
        if found and not found[0].job.is_over:
            self.run(earlier(self.engine, job))
            self.run(self.shells[who].wake())

    @rule(who=WHICH)
    def admit(self, who: int) -> None:
        self.run(self.shells[who].look())
        self.run(self.shells[who].admit())

    @rule(job=jobs, who=WHICH, what=st.sampled_from(["cancel", "pause", "resume", "retry", "again", "from b"]))
    def operate(self, job: UUID, who: int, what: str) -> None:
        at = now()
        starts = {"retry": None, "again": Retry.START, "from b": "b"}
        given: Input
        match what:
            case "cancel":
                given = Cancel(at)
            case "pause":
                given = Pause("operator:test", at + timedelta(hours=1), at)
            case "resume":
                given = Resume(at)
            case _:
                given = Retry(starts[what], self.pipeline, at)
        self.run(self.shells[who].take([Arrived(job, given, None, None)]))

    # -- what always holds ------------------------------------------------------------------------

    @invariant()
    def rows_say_what_jobs_say(self) -> None:
        wrong = self.run(broken_laws(self.engine, [self.pipeline.name]))
        assert not wrong, "\n".join(wrong)

    @invariant()
    def limits_hold(self) -> None:
        out: dict[tuple[str, str], int] = {}
        for job in self.run(self._jobs()):
            for name, count in job.out().items():
                for place in ((name, ""), (name, job.tenant)):
                    out[place] = out.get(place, 0) + count
        for row in self.pipeline.phases:
            for (name, tenant), count in out.items():
                limit = row.running_max_per_tenant if tenant else row.running_max
                assert name != row.name or limit is None or count <= limit, f"{count} of {name} are out for {tenant!r}"

    async def _jobs(self) -> list[Any]:
        async with postgres.transaction(self.engine) as conn:
            found = await store.read_many(conn, self.all)
        return [stored.job for stored in found.values()]

    def teardown(self) -> None:
        """Nobody answers any more: time alone ends every job."""
        for _ in range(ROUNDS_MAX):
            left = [job.id for job in self.run(self._jobs()) if not job.is_over]
            if not left:
                return
            for job in left:
                self.run(earlier(self.engine, job))
            self.run(self.shells[0].wake())
            self.rows_say_what_jobs_say()
        raise AssertionError(f"{len(left)} jobs wait for ever")


@pytest.fixture
def runner() -> Any:
    with asyncio.Runner() as runner:
        yield runner


def test_whatever_the_world_does_the_rows_keep_the_law(
    prepared: SetupSettings, environment_of: EnvironmentOf, runner: asyncio.Runner
) -> None:
    url = environment_of("orchestrator")["SAFELIGHT_POSTGRES_URL"]
    engine = postgres.create_engine(url, service="stateful")

    class Here(World):
        pass

    Here.runner, Here.engine = runner, engine
    quick = settings(
        max_examples=20,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(Here, settings=quick)
    runner.run(engine.dispose())
