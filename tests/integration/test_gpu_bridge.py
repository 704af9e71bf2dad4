"""The bridge on a real ledger: each command is one call, each call ends once, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts import topology
from contracts.artifacts import ObjectRef
from contracts.channel import Channel
from contracts.envelope import CallRequest, CallResponse, ItemError, ItemResult, StoredOutput
from contracts.errors import SafelightError
from contracts.phases import RUN_STYLE, STOP_GPU, PhaseDeferred, PhaseFailed, PhaseSucceeded, RunPhase, StopPhase
from gpu_bridge import store
from gpu_bridge.app import build
from gpu_bridge.call import TRANSITIONS, Move, State, Submission, after
from gpu_bridge.catalog import Function
from gpu_bridge.handlers import Handlers
from gpu_bridge.providers.port import Available, Pending, Provider, Unavailable
from gpu_bridge.runner import Runner
from gpu_bridge.settings import Settings
from gpu_bridge.submit import chosen
from gpu_bridge.tables import OUTBOX
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import Outbox, outgoing, publish
from runtime.settle import consume_batches
from tests.integration.conftest import SettingsOf, until
from tests.integration.provider_conformance import INVERSE
from tests.integration.test_local_provider import children
from tests.integration.wire import Told, command, gone, outcome, picture, send, served, settled, sha256, stored, told
from tests.servers.models import NatsServer


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


# -- the law --------------------------------------------------------------------------------

LEGAL = {
    (State.QUEUED, Move.LEASE): State.RUNNING,
    (State.RUNNING, Move.LEASE): State.RUNNING,
    (State.STOPPING, Move.LEASE): State.STOPPING,
    (State.RUNNING, Move.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Move.FAIL): State.FAILED,
    (State.RUNNING, Move.DEFER): State.DEFERRED,
    (State.QUEUED, Move.STOP): State.CANCELLED,
    (State.RUNNING, Move.STOP): State.STOPPING,
    (State.STOPPING, Move.CANCEL): State.CANCELLED,
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
        pytest.param({"state": "'stopping'"}, "running_has_a_lease", id="stopped by nobody"),
        pytest.param({"state": "'queued'", "lease_until": SOME_TIME}, "running_has_a_lease", id="a lease of nothing"),
        pytest.param({"state": "'failed'", "ended_at": SOME_TIME}, "failed_has_a_code", id="failed without a code"),
        pytest.param({"state": "'deferred'", "ended_at": SOME_TIME}, "failed_has_a_code", id="deferred without a code"),
        pytest.param({"state": "'cancelled'"}, "ended_when_terminal", id="cancelled without a time"),
        pytest.param(
            {"state": "'queued'", "command": "NULL"}, "only_cancelled_without_command", id="nothing to be done"
        ),
        pytest.param(
            {"state": "'succeeded'", "ended_at": SOME_TIME, "code": "'X'"}, "failed_has_a_code", id="a success's code"
        ),
    ],
)
async def test_the_database_refuses_nonsense(engine: AsyncEngine, columns: dict[str, str], constraint: str) -> None:
    row = {"key": f"'{uuid4()}.style.1'", "function": "'style.apply'", "tenant": "'t'", "command": "'{}'"} | columns
    names, values = ", ".join(row), ", ".join(row.values())
    async with engine.connect() as conn:
        with pytest.raises(DBAPIError, match=constraint):
            await conn.execute(text(f"INSERT INTO gpu_bridge.calls ({names}) VALUES ({values})"))


# -- runners on a ledger --------------------------------------------------------------------


@dataclass
class Scripted:
    """A provider that ends each call when the test says so: `say(handle, answer or error)`."""

    name: str = "local"
    able: Available | Unavailable = field(default_factory=Available)
    submitted: list[CallRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    _said: dict[str, Any] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    answer: Callable[[CallRequest], Any] | None = None  # says it at once
    on_cancel: Callable[[], Awaitable[None]] | None = None

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
        if self.on_cancel:
            await self.on_cancel()

    async def availability(self) -> Available | Unavailable:
        return self.able

    async def close(self) -> None: ...


def wrote(key: str) -> StoredOutput:
    return StoredOutput(key=key, sha256="0" * 64, size=1, media_type="image/png")


def succeeded(asked: CallRequest, engine: str = "scripted@1", **facts: Any) -> CallResponse:
    results = [
        ItemResult(id=item.id, facts=facts, outputs={role: wrote(target.key) for role, target in item.outputs.items()})
        for item in asked.items
    ]
    return CallResponse(call_id=asked.call_id, function=asked.function, engine=engine, device="test", items=results)


def with_item(asked: CallRequest, **changes: Any) -> CallResponse:
    """A success whose one item says something else."""
    [item] = succeeded(asked).items
    return succeeded(asked).model_copy(update={"items": [item.model_copy(update=changes)]})


@dataclass
class Bench:
    """A ledger of its own: nothing else runs on it."""

    engine: AsyncEngine
    nc: Client
    objects: Objects
    image: ObjectRef
    lut: ObjectRef
    running: list[asyncio.Task[None]] = field(default_factory=list)
    here: list[Runner] = field(default_factory=list)  # those of the process that takes the stops

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.engine, OUTBOX, self.nc.jetstream())

    def runs(self, provider: Provider, slots: int = 1, elsewhere: bool = False) -> asyncio.Task[None]:
        """Start a runner; it is stopped when the test ends. `elsewhere`: no stop is taken in its process."""
        runner = Runner(
            self.engine, self.outbox, self.nc.jetstream(), self.objects, [provider], asyncio.Event(), slots=slots
        )
        if not elsewhere:
            self.here.append(runner)
        self.running.append(task := asyncio.create_task(runner.run_forever()))
        return task

    def takes_stops(self) -> None:
        """Start to take stops from the broker, as the bridge does."""

        def stop_here(key: str) -> None:
            for runner in self.here:
                runner.stop_here(key)

        handlers = Handlers(self.engine, asyncio.Event(), stop_here)
        stops = consume_batches(self.nc, topology.consumer("gpu-bridge-stops"), handlers.stops)
        self.running.append(asyncio.create_task(stops))

    async def asks_to_stop(self, given: RunPhase) -> None:
        """Put a stop on its stream; another time, what a redelivery is."""
        stop = StopPhase(job_id=given.job_id, phase=given.phase, item=given.item, attempt=given.attempt)
        message_id = f"{given.key}.stop.{uuid4()}"
        await publish(
            self.nc.jetstream(), [outgoing(STOP_GPU, stop, message_id=message_id, key=given.key, source="test")]
        )

    async def stops(self, given: RunPhase) -> None:
        """Ask a call to stop, and wait until the bridge has settled that."""
        await self.asks_to_stop(given)

        async def taken() -> bool:
            info = await self.nc.jetstream().stream_info("COMMANDS", subjects_filter=STOP_GPU.subject)
            return not info.state.subjects

        await until(taken)

    async def written(self, **changes: Any) -> RunPhase:
        """A call in the ledger."""
        given = self.given(**changes)
        async with self.engine.begin() as conn:
            assert await store.insert_if_new(conn, "style.apply", given, None)
        for runner in self.here:
            runner.arrived.set()
        return given

    def given(self, deadline_s: float = 60, **changes: Any) -> RunPhase:
        """A command to style the bench's picture."""
        inputs = {"image": self.image, "lut": self.lut}
        return command("style", inputs=inputs, deadline_s=deadline_s).model_copy(update=changes)

    async def row(self, given: RunPhase) -> Any:
        async with self.engine.connect() as conn:
            found = await conn.execute(text("SELECT * FROM gpu_bridge.calls WHERE key = :key"), {"key": given.key})
            return found.one()

    async def has_row(self, given: RunPhase) -> bool:
        async with self.engine.connect() as conn:
            found = await conn.execute(text("SELECT 1 FROM gpu_bridge.calls WHERE key = :key"), {"key": given.key})
            return found.first() is not None

    async def over(self, given: RunPhase) -> Any:
        """The row of a call as soon as it has ended."""

        async def has_ended() -> Any:
            row = await self.row(given)
            return row if State(row.state).is_terminal else None

        return await until(has_ended)

    async def do(self, statement: str, **values: Any) -> None:
        async with self.engine.begin() as conn:
            await conn.execute(text(statement), values)

    async def left_behind(self, given: RunPhase, submission: Submission | None) -> None:
        """The call is leased and submitted by a process that is never heard of again."""
        now = datetime.now(UTC)
        until = now + timedelta(seconds=60)
        async with self.engine.begin() as conn:
            call = await store.lease_if_free(conn, uuid4(), now, until)
            assert call
            assert call.key == given.key
            assert await store.extend_if_mine(conn, call, until, submission) is State.RUNNING

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
    await bench.left_behind(given, Submission("local", "an-old-handle"))
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


async def test_an_old_lease_of_the_same_process_does_not_end_the_call(bench: Bench) -> None:
    provider = Scripted()
    given = await bench.written()
    bench.runs(provider, slots=2)
    asked = await submitted(provider)
    await bench.run_out(given)
    asked_again = await submitted(provider, 2)
    await provider.say(asked.call_id, succeeded(asked, "old@1"))
    another = await bench.written()  # which the slot takes once it has let go of the first
    await until(lambda: another.key in [item.id for one in provider.submitted for item in one.items])
    await provider.say(asked_again.call_id, succeeded(asked_again, "new@1"))
    assert (await bench.over(given)).engine == "new@1"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(lambda _: RuntimeError("secret text"), "INTERNAL", id="a provider with a defect"),
        pytest.param(lambda asked: succeeded(asked, facts="x" * 600_000), "MESSAGE_INVALID", id="facts without end"),
        pytest.param(
            lambda asked: CallResponse(call_id=asked.call_id, function=asked.function), "CALL_LOST", id="no item"
        ),
        pytest.param(lambda asked: with_item(asked, id="another"), "CALL_LOST", id="another item"),
        pytest.param(
            lambda asked: with_item(asked, outputs={"image": wrote("secret/object")}),
            "MESSAGE_INVALID",
            id="an object that it was not asked for",
        ),
        pytest.param(
            lambda asked: with_item(
                asked, outputs=succeeded(asked).items[0].outputs | {"more": wrote("secret/object")}
            ),
            "MESSAGE_INVALID",
            id="one object more",
        ),
        pytest.param(lambda asked: with_item(asked, outputs={}), "MESSAGE_INVALID", id="no object"),
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


# -- who may do it --------------------------------------------------------------------------

LATER = datetime(2099, 1, 1, tzinfo=UTC)
EVEN_LATER = LATER + timedelta(hours=1)
NEAR_AND_FAR = Function("style.apply", "style", ("image",), {"image": "image.png"}, ("near", "far", "local"))


@pytest.mark.parametrize("code", ["PROVIDER_UNAVAILABLE", "PROVIDER_RATE_LIMITED"])
async def test_a_call_that_nobody_takes_now_is_deferred_and_nothing_is_bought(bench: Bench, code: str) -> None:
    provider = Scripted(able=Unavailable(code, LATER))
    given = await bench.written(item="p-1")
    bench.runs(provider)
    told_so = await outcome(bench.nc, given)
    assert told_so.subject == "evt.phase.v1.deferred"
    deferred = PhaseDeferred.model_validate(told_so.body)
    assert (deferred.provider, deferred.code, deferred.until) == ("local", code, LATER)
    assert (deferred.key, deferred.item) == (given.key, "p-1")
    row = await bench.over(given)
    assert (row.state, row.code, row.provider, row.handle) == ("deferred", code, "local", None)
    assert provider.submitted == []


async def test_a_call_that_its_dead_process_had_bought_is_lost_when_nobody_takes_it_over(bench: Bench) -> None:
    given = await bench.written()
    await bench.left_behind(given, Submission("local", "an-old-handle"))
    bench.runs(Scripted(able=Unavailable("PROVIDER_UNAVAILABLE", LATER)))
    await bench.run_out(given)
    assert (await outcome(bench.nc, given)).body["code"] == "CALL_LOST"


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({}, id="anybody may"),
        pytest.param({"engine": "cpu"}, id="the fallback is asked for"),
        pytest.param({"providers": ["modal", "local"]}, id="it is among those that may"),
        pytest.param({"engine": "cpu", "providers": ["local"]}, id="both"),
    ],
)
async def test_the_own_cpu_does_what_it_may(bench: Bench, policy: dict[str, Any]) -> None:
    given = await bench.written(**policy)
    bench.runs(Scripted(answer=succeeded))
    assert (await bench.over(given)).state == "succeeded"


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({"engine": "gpu"}, id="no CPU may stand in"),
        pytest.param({"providers": ["modal"]}, id="only a provider that is not there may"),
        pytest.param({"engine": "cpu", "providers": ["modal"]}, id="nobody may who has a CPU"),
    ],
)
async def test_without_a_provider_that_may_do_it_the_call_fails_and_says_so(
    bench: Bench, policy: dict[str, Any]
) -> None:
    provider = Scripted(able=Unavailable("PROVIDER_UNAVAILABLE", LATER))
    given = await bench.written(**policy)
    bench.runs(provider)
    failed = await outcome(bench.nc, given)
    assert (failed.subject, failed.body["code"]) == ("evt.phase.v1.failed", "NO_PROVIDER")
    assert provider.submitted == []


async def test_the_first_of_the_functions_order_that_takes_work_gets_the_call() -> None:
    near, far, local = Scripted("near"), Scripted("far"), Scripted("local")
    everybody, given = [local, far, near], command("style")
    assert await chosen(everybody, given, NEAR_AND_FAR) is near
    near.able = Unavailable("PROVIDER_RATE_LIMITED", LATER)
    assert await chosen(everybody, given, NEAR_AND_FAR) is far
    assert await chosen(everybody, given.model_copy(update={"engine": "cpu"}), NEAR_AND_FAR) is local
    assert await chosen(everybody, given.model_copy(update={"providers": ["local", "near"]}), NEAR_AND_FAR) is local


async def test_whoever_takes_work_again_first_is_waited_for() -> None:
    near = Scripted("near", able=Unavailable("PROVIDER_UNAVAILABLE", EVEN_LATER))
    far = Scripted("far", able=Unavailable("PROVIDER_RATE_LIMITED", LATER))
    wait = await chosen([near, far], command("style"), NEAR_AND_FAR)
    assert isinstance(wait, PhaseDeferred)
    assert (wait.provider, wait.code, wait.until) == ("far", "PROVIDER_RATE_LIMITED", LATER)


# -- runners that end -----------------------------------------------------------------------


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


# -- stops ----------------------------------------------------------------------------------


async def silent(bench: Bench, given: RunPhase) -> bool:
    """No outcome of the call was published. Once another call's is there, this one's would be, too."""
    last = await bench.written()
    await bench.over(last)
    await outcome(bench.nc, last)
    return [one for one in await told(bench.nc, given.key) if not one.subject.endswith(".progressed")] == []


async def test_a_queued_call_that_is_stopped_is_cancelled_at_once_and_never_runs(bench: Bench) -> None:
    provider = Scripted(answer=succeeded)
    given = await bench.written()
    bench.takes_stops()
    await bench.stops(given)
    row = await bench.row(given)
    assert (row.state, row.tries, row.lease_until) == ("cancelled", 0, None)
    bench.runs(provider)
    assert await silent(bench, given)
    assert given.key not in [item.id for asked in provider.submitted for item in asked.items]


async def test_a_running_call_that_is_stopped_is_cancelled_at_its_provider_once_and_tells_nothing(
    bench: Bench,
) -> None:
    provider = Scripted()
    given = await bench.written(item="p-1")
    bench.runs(provider)
    bench.takes_stops()
    asked = await submitted(provider)
    await asyncio.gather(bench.stops(given), bench.stops(given))
    row = await bench.over(given)  # the provider says nothing, so it was not a poll that brought the news
    assert (row.state, row.tries, row.lease_until, row.handle) == ("cancelled", 1, None, asked.call_id)
    await bench.stops(given)
    provider.answer = succeeded
    assert await silent(bench, given)
    assert provider.cancelled == [asked.call_id]


async def test_a_stop_that_another_process_took_is_noticed_with_the_next_poll(bench: Bench) -> None:
    provider = Scripted()
    given = await bench.written()
    bench.runs(provider, elsewhere=True)
    bench.takes_stops()
    asked = await submitted(provider)
    await bench.stops(given)
    assert (await bench.row(given)).state == "stopping"
    assert provider.cancelled == []
    await provider.say(asked.call_id, Pending())
    assert (await bench.over(given)).state == "cancelled"
    assert provider.cancelled == [asked.call_id]
    provider.answer = succeeded
    assert await silent(bench, given)


async def test_a_stop_while_the_call_is_being_submitted_reaches_its_provider(bench: Bench) -> None:
    @dataclass
    class Slow(Scripted):
        go_on: asyncio.Event = field(default_factory=asyncio.Event)

        async def submit(self, request: CallRequest) -> str:
            handle = await super().submit(request)
            await self.go_on.wait()
            return handle

    provider = Slow()
    given = await bench.written()
    bench.runs(provider)
    bench.takes_stops()
    asked = await submitted(provider)
    await bench.stops(given)
    provider.go_on.set()
    assert (await bench.over(given)).state == "cancelled"
    assert provider.cancelled == [asked.call_id]


async def refuses() -> None:
    raise RuntimeError("x")


async def hangs() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("on_cancel", [pytest.param(refuses, id="refuses"), pytest.param(hangs, id="does not answer")])
async def test_a_provider_that_does_not_hear_a_stop_holds_nobody(
    bench: Bench, on_cancel: Callable[[], Awaitable[None]]
) -> None:
    provider = Scripted(on_cancel=on_cancel)
    given = await bench.written()
    bench.runs(provider)
    bench.takes_stops()
    asked = await submitted(provider)
    await bench.stops(given)
    assert (await bench.over(given)).state == "cancelled"
    assert provider.cancelled == [asked.call_id]


async def test_a_stop_that_overtook_its_command_is_found_by_it(bench: Bench) -> None:
    provider = Scripted(answer=succeeded)
    given = bench.given()
    bench.takes_stops()
    await bench.stops(given)
    await bench.stops(given)
    row = await bench.row(given)
    assert (row.state, row.command, row.tries) == ("cancelled", None, 0)
    async with bench.engine.begin() as conn:
        assert not await store.insert_if_new(conn, "style.apply", given, None)
    bench.runs(provider)
    assert await silent(bench, given)
    assert (await bench.row(given)).state == "cancelled"
    assert given.key not in [item.id for asked in provider.submitted for item in asked.items]


@pytest.mark.parametrize(
    ("provider", "state"),
    [
        pytest.param(Scripted(answer=succeeded), "succeeded", id="well"),
        pytest.param(Scripted(answer=lambda _: RuntimeError("x")), "failed", id="badly"),
        pytest.param(Scripted(able=Unavailable("PROVIDER_UNAVAILABLE", LATER)), "deferred", id="deferred"),
    ],
)
async def test_a_stop_after_the_end_changes_nothing(bench: Bench, provider: Scripted, state: str) -> None:
    given = await bench.written()
    bench.runs(provider)
    bench.takes_stops()
    before = await bench.over(given)
    provider.cancelled.clear()
    await bench.stops(given)
    assert await bench.row(given) == before
    assert before.state == state
    await outcome(bench.nc, given)
    assert provider.cancelled == []


@pytest.mark.parametrize("stop_first", [True, False], ids=["the stop is first", "the success is first"])
async def test_of_a_stop_and_a_success_at_once_the_first_to_commit_wins(bench: Bench, stop_first: bool) -> None:
    provider = Scripted()
    given = await bench.written()
    bench.runs(provider)
    bench.takes_stops()
    asked = await submitted(provider)
    await until(lambda: _has_handle(bench, given))

    async def stop() -> None:
        await bench.asks_to_stop(given)

    async def succeed() -> None:
        await provider.say(asked.call_id, succeeded(asked))

    async with bench.engine.begin() as conn:  # whoever wants to change the row stands in line for it
        await conn.execute(text("SELECT 1 FROM gpu_bridge.calls WHERE key = :key FOR UPDATE"), {"key": given.key})
        for number, step in enumerate((stop, succeed) if stop_first else (succeed, stop), 1):
            await step()
            await until(partial(_in_line, bench, number))
    row = await bench.over(given)
    assert row.state == ("cancelled" if stop_first else "succeeded")
    if stop_first:
        provider.answer = succeeded
        assert await silent(bench, given)
    else:
        assert (await outcome(bench.nc, given)).subject == "evt.phase.v1.succeeded"
    assert provider.cancelled == []  # it had ended there


@pytest.mark.parametrize(
    ("submission", "cancelled"),
    [
        pytest.param(Submission("local", "an-old-handle"), ["an-old-handle"], id="after it had submitted"),
        pytest.param(None, [], id="before it had submitted"),
    ],
)
@pytest.mark.parametrize("stop_first", [True, False], ids=["the stop came before its death", "after its lease"])
async def test_a_stopped_call_of_a_process_that_died_is_stopped_by_another_and_not_run_again(
    bench: Bench, submission: Submission | None, cancelled: list[str], stop_first: bool
) -> None:
    given = await bench.written()
    await bench.left_behind(given, submission)
    bench.takes_stops()
    if stop_first:
        await bench.stops(given)
        assert (await bench.row(given)).state == "stopping"
    await bench.run_out(given)
    if not stop_first:
        await bench.stops(given)
    provider = Scripted(answer=succeeded)
    bench.runs(provider)
    assert (await bench.over(given)).state == "cancelled"
    assert provider.cancelled == cancelled
    assert await silent(bench, given)
    assert given.key not in [item.id for asked in provider.submitted for item in asked.items]


async def test_a_runner_that_lost_a_stopped_call_does_not_end_it(bench: Bench) -> None:
    heard = asyncio.Event()

    async def hears() -> None:
        await heard.wait()

    loser, winner = Scripted(), Scripted(on_cancel=hears)
    given = await bench.written()
    bench.runs(loser, elsewhere=True)
    bench.takes_stops()
    asked = await submitted(loser)
    await until(lambda: _has_handle(bench, given))
    await bench.stops(given)
    await bench.run_out(given)
    bench.runs(winner)
    await until(lambda: winner.cancelled)  # it tells the provider, and is not through with that
    another = await bench.written()
    await loser.say(asked.call_id, succeeded(asked))
    await submitted(loser, 2)
    assert (await bench.row(another)).state == "running"
    assert (await bench.row(given)).state == "stopping"
    heard.set()
    assert (await bench.over(given)).state == "cancelled"


async def _has_handle(bench: Bench, given: RunPhase) -> bool:
    return (await bench.row(given)).handle is not None


async def _in_line(bench: Bench, number: int) -> bool:
    """Whether so many sessions wait for a lock."""
    async with bench.engine.connect() as conn:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = current_user"
        return bool((await conn.execute(text(waiting))).scalar_one() == number)


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

    async def forgotten() -> bool:  # once the broker has confirmed the message
        return await _count(bridge, "outbox") == 0

    await until(forgotten)


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


async def test_an_item_has_a_place_and_an_outcome_of_its_own(bridge: Bench) -> None:
    ones = [bridge.given(item=item) for item in (None, "p-1", "p-2")]
    ones += [one.model_copy(update={"job_id": ones[0].job_id}) for one in (ones[1], ones[2])]
    for given in ones:
        done = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, given))
        assert PhaseSucceeded.model_validate(done.body).item == given.item
        [artifact] = done.body["artifacts"]
        place = "style/1" if given.item is None else f"style/{given.item}/1"
        assert artifact["key"] == f"jobs/{given.job_id}/{place}/image.png"
        assert sha256(await bridge.objects.get(artifact["key"])) == artifact["sha256"]
        progress = [one.body for one in await told(bridge.nc, given.key) if one.subject.endswith(".progressed")]
        assert {one["item"] for one in progress} <= {given.item}
    lost = bridge.given(item="p-1").model_copy(update={"inputs": {"image": gone(), "lut": bridge.lut}})
    failed = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, lost))
    assert PhaseFailed.model_validate(failed.body).item == "p-1"


async def test_a_stop_kills_the_worker_that_is_at_the_call(bridge: Bench) -> None:
    await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, bridge.given()))
    [child] = children()
    child.suspend()  # so that the call is there when the stop comes
    given = await send(bridge.nc, RUN_STYLE, bridge.given())
    await until(lambda: bridge.has_row(given))
    await until(lambda: _has_handle(bridge, given))
    await bridge.stops(given)
    assert (await bridge.over(given)).state == "cancelled"
    assert child not in children()
    await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, bridge.given()))
    assert [one for one in await told(bridge.nc, given.key) if not one.subject.endswith(".progressed")] == []


async def test_a_command_that_comes_after_its_stop_does_nothing(bridge: Bench) -> None:
    given = bridge.given()
    await bridge.stops(given)
    await send(bridge.nc, RUN_STYLE, given)
    await settled(bridge.nc, RUN_STYLE)
    await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, bridge.given()))
    assert await told(bridge.nc, given.key) == []
    assert (await bridge.row(given)).state == "cancelled"


async def _count(bench: Bench, table: str) -> int:
    async with bench.engine.connect() as conn:
        return int((await conn.execute(text(f"SELECT count(*) FROM gpu_bridge.{table}"))).scalar_one())
