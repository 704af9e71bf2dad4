"""The bridge on a real ledger: each command is one call, each call ends once, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.channel import Channel
from contracts.envelope import CallRequest, CallResponse, ItemError, ItemResult
from contracts.errors import SafelightError
from contracts.phases import RUN_STYLE, RunPhase
from gpu_bridge import store
from gpu_bridge.app import build
from gpu_bridge.call import TRANSITIONS, Move, State, after
from gpu_bridge.providers.local import LocalProvider
from gpu_bridge.providers.port import Pending, Provider
from gpu_bridge.runner import Runner
from gpu_bridge.settings import Settings
from gpu_bridge.tables import OUTBOX
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import Outbox
from tests.integration.conftest import SettingsOf, until
from tests.integration.provider_conformance import (
    INVERSE,
    ProviderConformance,
    Stall,
    code_of,
    ended,
    request,
    stalling,
    styled,
)
from tests.integration.wire import Told, command, gone, outcome, picture, send, served, settled, sha256, stored, told
from tests.servers.models import NatsServer

GIB = 2**30


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "gpu-bridge"))
    yield made
    made.close()


@pytest.fixture(scope="module")
async def engine(prepared: object, settings_of: SettingsOf) -> AsyncIterator[AsyncEngine]:
    known = settings_of(Settings, "gpu-bridge")
    made = postgres.create_engine(known.postgres_url.get_secret_value(), service="test")
    yield made
    await made.dispose()


@pytest.fixture
async def stall() -> AsyncIterator[Stall]:
    async with stalling() as made:
        yield made


# -- the own CPU as a provider --------------------------------------------------------------


@asynccontextmanager
async def local(workers: int = 2, idle_s: float = 30) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(workers=workers, memory_bytes=2 * GIB, idle_s=idle_s)
    try:
        yield provider
    finally:
        await provider.close()


class TestLocal(ProviderConformance):
    @pytest.fixture(scope="class")
    @classmethod
    async def provider(cls) -> AsyncIterator[Provider]:
        async with local() as made:
            yield made


def children() -> list[psutil.Process]:
    """The worker processes that this process has now."""

    def works(one: psutil.Process) -> bool:
        try:
            return one.status() != psutil.STATUS_ZOMBIE and "gpu_functions" in one.cmdline()
        except psutil.NoSuchProcess:
            return False

    return [one for one in psutil.Process().children() if works(one)]


async def test_a_worker_is_kept_warm_for_the_next_call(objects: Objects) -> None:
    async with local(workers=1) as provider:
        pids = []
        for _ in range(2):
            await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))
            pids += [one.pid for one in children()]
    assert len(pids) == 2
    assert len(set(pids)) == 1
    assert children() == []


async def test_a_worker_that_has_nothing_to_do_is_retired(objects: Objects) -> None:
    async with local(workers=1, idle_s=0.2) as provider:
        await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))
        assert len(children()) == 1
        await until(lambda: not children(), 5)
        await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))


async def test_a_killed_worker_loses_its_call_and_the_next_gets_a_new_one(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        handle = await provider.submit(request(await styled(objects, picture(), inputs={"image": stall.link()})))
        await stall.asked.wait()
        [child] = children()
        child.send_signal(signal.SIGKILL)
        assert await code_of(provider, handle) == "CALL_LOST"
        answer = await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))
        assert answer.items[0].error is None


async def test_a_worker_past_its_deadline_does_not_live_on(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item, deadline_s=1.5))
        await stall.asked.wait()
        [child] = children()
        assert await code_of(provider, handle) == "CALL_DEADLINE"
        await until(lambda: child not in children(), 5)


async def test_a_cancelled_worker_is_killed(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        handle = await provider.submit(request(await styled(objects, picture(), inputs={"image": stall.link()})))
        await stall.asked.wait()
        await provider.cancel(handle)
        assert children() == []


async def test_a_call_that_waits_for_a_worker_runs_out_of_time_too(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        busy = await provider.submit(request(item))
        await stall.asked.wait()
        late = await provider.submit(request(await styled(objects, picture()), deadline_s=0.3))
        assert await code_of(provider, late) == "CALL_DEADLINE"
        assert isinstance(await provider.poll(busy, 0.01), Pending)


async def test_a_worker_is_given_no_variable_of_ours(
    objects: Objects, stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_S3_SECRET_KEY", "a-secret-of-ours")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-ours")
    async with local(workers=1) as provider:
        await provider.submit(request(await styled(objects, picture(), inputs={"image": stall.link()})))
        await stall.asked.wait()
        [child] = children()
        given = await asyncio.to_thread(Path(f"/proc/{child.pid}/environ").read_bytes)
    assert b"PATH=" in given
    assert b"SAFELIGHT" not in given
    assert b"a-secret-of-ours" not in given


# -- the law --------------------------------------------------------------------------------

LEGAL = {
    (State.QUEUED, Move.LEASE): State.RUNNING,
    (State.RUNNING, Move.LEASE): State.RUNNING,
    (State.RUNNING, Move.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Move.FAIL): State.FAILED,
}


@pytest.mark.parametrize(("state", "move"), list(product(State, Move)), ids=lambda word: str(word))
def test_a_call_moves_as_the_law_says_and_not_otherwise(state: State, move: Move) -> None:
    if (state, move) in LEGAL:
        assert after(state, move) is LEGAL[state, move]
    else:
        with pytest.raises(KeyError):
            after(state, move)


def test_an_ended_call_moves_no_more() -> None:
    assert not [state for state, _ in TRANSITIONS if state.is_terminal]


SOME_TIME = "TIMESTAMP WITH TIME ZONE '2026-01-01 00:00:00Z'"


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"state": "'lost'"}, "state_known", id="a state that is none"),
        pytest.param({"state": "'succeeded'"}, "ended_when_terminal", id="ended without a time"),
        pytest.param({"state": "'queued'", "ended_at": SOME_TIME}, "ended_when_terminal", id="a time without an end"),
        pytest.param({"state": "'running'"}, "running_has_a_lease", id="running without a lease"),
        pytest.param({"state": "'queued'", "lease_until": SOME_TIME}, "running_has_a_lease", id="a lease of nothing"),
        pytest.param({"state": "'failed'", "ended_at": SOME_TIME}, "failed_has_a_code", id="failed without a code"),
        pytest.param(
            {"state": "'succeeded'", "ended_at": SOME_TIME, "code": "'X'"}, "failed_has_a_code", id="a success's code"
        ),
    ],
)
async def test_the_database_refuses_nonsense(engine: AsyncEngine, columns: dict[str, str], constraint: str) -> None:
    names = ", ".join(["key", "function", "tenant", "command", *columns])
    values = ", ".join([f"'{uuid4()}.style.1'", "'style.apply'", "'t'", "'{}'", *columns.values()])
    async with engine.connect() as conn:
        with pytest.raises(DBAPIError, match=constraint):
            await conn.execute(text(f"INSERT INTO gpu_bridge.calls ({names}) VALUES ({values})"))


# -- runners on a ledger --------------------------------------------------------------------


@dataclass
class Scripted:
    """A provider that ends each call when the test says so: `say(handle, answer or error)`."""

    name: str = "local"
    submitted: list[CallRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    _said: dict[str, Any] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    answer: Callable[[CallRequest], Any] | None = None  # says it at once

    async def submit(self, request: CallRequest) -> str:
        self.submitted.append(request)
        if self.answer:
            self._said[request.call_id] = self.answer(request)
        return request.call_id

    async def say(self, handle: str, what: Any) -> None:
        async with self._news:
            self._said[handle] = what
            self._news.notify_all()

    async def poll(self, handle: str, wait_s: float) -> Pending | CallResponse:
        async with self._news:
            await self._news.wait_for(lambda: handle in self._said)
        said = self._said.pop(handle)
        if isinstance(said, Exception):
            raise said
        assert isinstance(said, Pending | CallResponse)
        return said

    async def cancel(self, handle: str) -> None:
        self.cancelled.append(handle)

    async def healthy(self) -> bool:
        return True

    async def close(self) -> None: ...


def succeeded(asked: CallRequest, engine: str = "scripted@1", **facts: Any) -> CallResponse:
    results = [ItemResult(id=item.id, facts=facts) for item in asked.items]
    return CallResponse(call_id=asked.call_id, function=asked.function, engine=engine, device="test", items=results)


@dataclass
class Bench:
    """A ledger of its own: nothing else runs on it."""

    engine: AsyncEngine
    nc: Client
    objects: Objects
    image: ObjectRef
    lut: ObjectRef
    running: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.engine, OUTBOX, self.nc.jetstream())

    def runs(self, provider: Provider, slots: int = 1) -> asyncio.Task[None]:
        """Start a runner; it is stopped when the test ends."""
        runner = Runner(
            self.engine, self.outbox, self.nc.jetstream(), self.objects, [provider], asyncio.Event(), slots=slots
        )
        self.running.append(task := asyncio.create_task(runner.run_forever()))
        return task

    async def written(self, **changes: Any) -> RunPhase:
        """A call in the ledger."""
        given = command("style", inputs={"image": self.image, "lut": self.lut}, **changes)
        async with self.engine.begin() as conn:
            assert await store.insert_if_new(conn, "style.apply", given, None)
        return given

    async def row(self, given: RunPhase) -> Any:
        async with self.engine.connect() as conn:
            found = await conn.execute(text("SELECT * FROM gpu_bridge.calls WHERE key = :key"), {"key": given.key})
            return found.one()

    async def over(self, given: RunPhase) -> Any:
        """The row of a call as soon as it has ended."""

        async def has_ended() -> Any:
            row = await self.row(given)
            return row if State(row.state).is_terminal else None

        return await until(has_ended)

    async def do(self, statement: str, **values: Any) -> None:
        async with self.engine.begin() as conn:
            await conn.execute(text(statement), values)

    async def run_out(self, given: RunPhase) -> None:
        """Let the lease of a call be over."""
        statement = "UPDATE gpu_bridge.calls SET lease_until = now() - interval '1 s' WHERE key = :key"
        await self.do(statement, key=given.key)


@pytest.fixture
async def bench(engine: AsyncEngine, nc: Client, objects: Objects) -> AsyncIterator[Bench]:
    image = await stored(objects, picture(), "image/jpeg")
    lut = await stored(objects, INVERSE.encode(), "application/x-cube-lut")
    made = Bench(engine, nc, objects, image, lut)
    await made.do("DELETE FROM gpu_bridge.calls")
    yield made
    for task in made.running:
        task.cancel()
    await asyncio.gather(*made.running, return_exceptions=True)
    await made.do("DELETE FROM gpu_bridge.calls")
    await made.do("DELETE FROM gpu_bridge.outbox")


async def submitted(provider: Scripted, number: int = 1) -> CallRequest:
    """The provider's newest call, once it has so many."""
    await until(lambda: len(provider.submitted) >= number)
    return provider.submitted[-1]


async def test_a_call_says_how_far_it_is(bench: Bench) -> None:
    provider = Scripted()
    given = await bench.written()
    bench.runs(provider)
    asked = await submitted(provider)
    for fraction in (0.25, 0.5):
        await provider.say(asked.call_id, Pending(fraction))

        async def heard(fraction: float = fraction) -> bool:
            return fraction in [one.body.get("fraction") for one in await told(bench.nc, given.key)]

        await until(heard)
    await provider.say(asked.call_id, succeeded(asked))
    assert (await outcome(bench.nc, given)).body["engine"] == "scripted@1"


async def test_two_runners_on_one_ledger_run_each_call_once(bench: Bench) -> None:
    one, other = Scripted(answer=succeeded), Scripted(answer=succeeded)
    calls = [await bench.written() for _ in range(20)]
    bench.runs(one, slots=3)
    bench.runs(other, slots=3)
    rows = [await bench.over(given) for given in calls]
    assert {row.tries for row in rows} == {1}
    items = sorted(item.id for asked in (*one.submitted, *other.submitted) for item in asked.items)
    assert items == sorted(given.key for given in calls)
    for given in calls[:3]:
        await outcome(bench.nc, given)


async def test_the_call_of_a_runner_that_died_is_taken_over_and_ends_once(bench: Bench) -> None:
    given = await bench.written()
    now = datetime.now(UTC)
    async with bench.engine.begin() as conn:  # by a process that is never heard of again
        assert await store.lease_if_free(conn, uuid4(), now, now + timedelta(seconds=60))
    provider = Scripted(answer=succeeded)
    bench.runs(provider)
    await bench.run_out(given)
    row = await bench.over(given)
    assert (row.state, row.tries, len(provider.submitted)) == ("succeeded", 2, 1)
    await outcome(bench.nc, given)


async def test_a_lease_that_is_held_is_not_taken(bench: Bench) -> None:
    given = await bench.written()
    now = datetime.now(UTC)
    async with bench.engine.begin() as conn:
        assert await store.lease_if_free(conn, uuid4(), now, now + timedelta(seconds=60))
        assert await store.lease_if_free(conn, uuid4(), now + timedelta(seconds=59), now) is None
    assert (await bench.row(given)).tries == 1


@pytest.mark.parametrize(
    "late",
    [
        pytest.param(lambda asked: succeeded(asked, "loser@1"), id="with its result"),
        pytest.param(lambda _: Pending(None), id="while it works on"),
        pytest.param(lambda _: RuntimeError("x"), id="by an error"),
    ],
)
async def test_whoever_lost_the_lease_does_not_end_the_call(bench: Bench, late: Callable[[CallRequest], Any]) -> None:
    loser, winner = Scripted(), Scripted()
    given = await bench.written()
    losing = bench.runs(loser)
    asked = await submitted(loser)
    await bench.run_out(given)
    bench.runs(winner)
    asked_again = await submitted(winner)
    assert asked_again.call_id != asked.call_id
    another = await bench.written()  # which the loser takes once it has let go of the first
    await loser.say(asked.call_id, late(asked))
    await submitted(loser, 2)
    assert (await bench.row(given)).state == "running"
    assert [one for one in await told(bench.nc, given.key) if not one.subject.endswith("progressed")] == []
    await winner.say(asked_again.call_id, succeeded(asked_again, "winner@1"))
    assert (await bench.over(given)).engine == "winner@1"
    assert (await outcome(bench.nc, given)).body["engine"] == "winner@1"
    losing.cancel()
    assert (await bench.row(another)).state == "running"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(lambda _: RuntimeError("secret text"), "INTERNAL", id="a provider with a defect"),
        pytest.param(lambda asked: succeeded(asked, facts="x" * 600_000), "MESSAGE_INVALID", id="facts without end"),
        pytest.param(
            lambda asked: CallResponse(call_id=asked.call_id, function=asked.function), "CALL_LOST", id="no item"
        ),
        pytest.param(
            lambda asked: succeeded(asked).model_copy(update={"error": ItemError(code="FUNCTION_UNKNOWN")}),
            "FUNCTION_UNKNOWN",
            id="an error of the whole call",
        ),
    ],
)
async def test_whatever_a_provider_says_the_call_ends(
    bench: Bench, answer: Callable[[CallRequest], Any], code: str
) -> None:
    given = await bench.written()
    bench.runs(Scripted(answer=answer))
    row = await bench.over(given)
    assert (row.state, row.code, row.tries) == ("failed", code, 1)
    failed = await outcome(bench.nc, given)
    assert failed.body["code"] == code
    assert "secret" not in str(failed.body)


async def test_a_provider_that_says_nothing_does_not_hold_a_call_past_its_deadline(bench: Bench) -> None:
    provider = Scripted()
    given = await bench.written(deadline_s=0.5)
    bench.runs(provider)
    asked = await submitted(provider)
    await until(lambda: datetime.now(UTC) > given.deadline)
    await provider.say(asked.call_id, Pending())
    assert (await outcome(bench.nc, given)).body["code"] == "CALL_DEADLINE"
    assert provider.cancelled == [asked.call_id]


async def test_a_command_whose_deadline_has_passed_is_not_submitted(bench: Bench) -> None:
    provider = Scripted()
    given = await bench.written(deadline_s=-1)
    bench.runs(provider)
    assert (await outcome(bench.nc, given)).body["code"] == "CALL_DEADLINE"
    assert provider.submitted == []


async def test_without_a_healthy_provider_the_call_fails_and_says_so(bench: Bench) -> None:
    class Ill(Scripted):
        async def healthy(self) -> bool:
            return False

    given = await bench.written()
    bench.runs(Ill())
    assert (await outcome(bench.nc, given)).body["code"] == "NO_PROVIDER"


async def test_a_runner_that_is_stopped_cancels_its_call_and_leaves_it_to_its_lease(bench: Bench) -> None:
    provider = Scripted()
    given = await bench.written()
    task = bench.runs(provider)
    asked = await submitted(provider)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert provider.cancelled == [asked.call_id]
    row = await bench.row(given)
    assert (row.state, row.tries) == ("running", 1)


async def test_an_outcome_that_the_broker_could_not_take_is_published_later(
    bench: Bench, nats_server: NatsServer
) -> None:
    provider = Scripted()
    given = await bench.written()
    bench.runs(provider)
    asked = await submitted(provider)
    await asyncio.to_thread(nats_server.kill)
    try:
        await provider.say(asked.call_id, succeeded(asked))
        assert (await bench.over(given)).state == "succeeded"
    finally:
        await asyncio.to_thread(nats_server.restart)

    async def swept() -> bool:
        try:
            return await bench.outbox.sweep(0) == 0 and bool(await told(bench.nc, given.key))
        except SafelightError:
            return False

    await until(lambda: bench.nc.is_connected)
    await until(swept)
    await outcome(bench.nc, given)


# -- the whole bridge -----------------------------------------------------------------------


@pytest.fixture
async def bridge(bench: Bench, settings_of: SettingsOf) -> AsyncIterator[Bench]:
    """The app on the same ledger."""
    async with served(build(settings_of(Settings, "gpu-bridge", local_workers=1))):
        yield bench


async def test_a_command_becomes_a_result_with_the_hash_that_it_says(bridge: Bench) -> None:
    given = command("style", inputs={"image": bridge.image, "lut": bridge.lut})
    done = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, given))
    assert done.subject == "evt.phase.v1.succeeded"
    assert (done.body["engine"], done.body["degraded"]) == ("cube-lut@1", True)
    [artifact] = done.body["artifacts"]
    content = await bridge.objects.get(artifact["key"])
    assert artifact["key"] == f"jobs/{given.job_id}/style/1/image.png"
    assert (artifact["name"], artifact["sha256"], artifact["size"]) == ("image.png", sha256(content), len(content))
    assert (artifact["width"], artifact["height"], artifact["media_type"]) == (256, 256, "image/png")
    row = await bridge.row(given)
    assert (row.state, row.function, row.provider, row.tries) == ("succeeded", "style.apply", "local", 1)
    assert await _count(bridge, "outbox") == 0


async def test_a_redelivered_command_is_one_call_and_one_outcome(bridge: Bench) -> None:
    given = command("style", inputs={"image": bridge.image, "lut": bridge.lut})
    await send(bridge.nc, RUN_STYLE, given)
    await send(bridge.nc, RUN_STYLE, given, f"{given.key} again")
    await outcome(bridge.nc, given)
    await send(bridge.nc, RUN_STYLE, given, f"{given.key} and again")
    await settled(bridge.nc, RUN_STYLE)
    last = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, command("style", inputs={"image": gone()})))
    assert last.body["code"] == "OBJECT_MISSING"  # so whatever the third would have caused has happened by now
    await outcome(bridge.nc, given)
    assert (await bridge.row(given)).tries == 1
    assert await _count(bridge, "calls") == 2


@pytest.mark.parametrize(
    ("image", "code"),
    [
        pytest.param(b"no picture", "IMAGE_CORRUPT", id="no picture"),
        pytest.param(None, "OBJECT_MISSING", id="an object that is gone"),
    ],
)
async def test_a_bad_input_is_a_failed_phase(bridge: Bench, image: bytes | None, code: str) -> None:
    ref = await stored(bridge.objects, image, "image/jpeg") if image else gone()
    given = command("style", inputs={"image": ref, "lut": bridge.lut})
    failed = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, given))
    assert (failed.subject, failed.body["code"]) == ("evt.phase.v1.failed", code)
    assert (await bridge.row(given)).code == code


async def test_a_lane_that_nothing_serves_becomes_a_dead_letter_and_its_neighbours_run(bridge: Bench) -> None:
    unserved = Channel("cmd.gpu.v1.run.nothing", RunPhase, "COMMANDS")
    lost = command("style", inputs={"image": bridge.image, "lut": bridge.lut})
    given = lost.model_copy(update={"job_id": uuid4()})
    await asyncio.gather(send(bridge.nc, unserved, lost), send(bridge.nc, RUN_STYLE, given))
    await outcome(bridge.nc, given)

    async def dead() -> list[Told]:
        return await told(bridge.nc, lost.key, "DEAD")

    letters: list[Told] = await until(dead)
    [letter] = letters
    assert letter.headers["safelight-error-code"] == "FUNCTION_UNKNOWN"
    assert RunPhase.model_validate(letter.body) == lost


async def _count(bench: Bench, table: str) -> int:
    async with bench.engine.connect() as conn:
        return int((await conn.execute(text(f"SELECT count(*) FROM gpu_bridge.{table}"))).scalar_one())
