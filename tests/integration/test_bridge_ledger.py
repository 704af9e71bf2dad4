"""The bridge on a real ledger, real storage and a real broker: each work is bought once, and ends once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.envelope import CallRequest, CallResponse, ItemError, ItemResult
from contracts.erasures import ErasureRequested
from contracts.errors import SafelightError, error
from contracts.phases import PhaseDeferred, RunPhase, StopPhase
from contracts.uploads import UploadReceived
from gpu_bridge import policy, store, watcher
from gpu_bridge.call import Call, State
from gpu_bridge.erasing import Erasing
from gpu_bridge.providers.port import Available, Broken, Pending, Unavailable
from gpu_bridge.settings import Settings
from gpu_bridge.submission import request
from gpu_bridge.terms import Limits
from gpu_bridge.vendors import Mode, set_mode
from runtime import postgres
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf, until
from tests.integration.ledger_desk import (
    QUICK,
    ROOMY,
    Bridge,
    Brought,
    Desk,
    Scripted,
    done,
    function,
    on_cpu,
    result,
    succeeded,
    tells,
    with_item,
    write,
    wrote,
)
from tests.integration.provider_conformance import INVERSE
from tests.integration.wire import acts, outcome, picture, stored, told

LATER = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "gpu-bridge"))
    yield made
    made.close()


@pytest.fixture(scope="module")
async def engine(prepared: object, settings_of: SettingsOf) -> AsyncIterator[AsyncEngine]:
    known = settings_of(Settings, "gpu-bridge")
    made = postgres.create_engine(known.postgres_url.get_secret_value(), service="test", connections_max=20)
    yield made
    await made.dispose()


@pytest.fixture
async def desk(engine: AsyncEngine, nc: Client, objects: Objects) -> AsyncIterator[Desk]:
    image = await stored(objects, picture(), "image/jpeg")
    lut = await stored(objects, INVERSE.encode(), "application/x-cube-lut")
    made = Desk(engine, nc, objects, image, lut)
    await made.clean()
    yield made
    for bridge in made.bridges:
        await bridge.stop()
    await made.clean()


async def submitted(provider: Scripted, number: int = 1) -> CallRequest:
    await until(lambda: len(provider.submitted) >= number)
    return provider.submitted[number - 1]


async def ends(desk: Desk, given: RunPhase) -> list[Any]:
    """What was told of a command, but for progress."""
    return [one for one in await told(desk.nc, given.key) if not one.subject.endswith(".progressed")]


# -- the same work is bought once -----------------------------------------------------------------


async def test_a_command_is_one_call_one_epoch_and_one_outcome(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    told_so = await outcome(desk.nc, given)
    assert (told_so.subject, told_so.body["degraded"]) == ("evt.phase.v1.succeeded", False)
    row = await desk.over(given)
    assert (row.state, row.epoch, row.provider) == ("succeeded", 1, "near")
    [artifact] = told_so.body["artifacts"]
    assert artifact["key"] == f"calls/demo/{row.key}/1/image.png"
    assert near.bodies == [row.key]


async def test_sensitive_work_passes_by_whom_its_policy_bars_and_its_outcome_says_so(desk: Desk) -> None:
    strict = policy.read()
    own = strict.providers["local"]
    obeyed = strict.model_copy(update={"providers": {"home": own, "near": strict.providers["modal"]}})
    near, home = Scripted(answer=succeeded), Scripted("home", "cpu", answer=on_cpu)
    bridge = await desk.runs(near, home, limits={"near": ROOMY.model_copy(update={"batch": 4})}, obeyed=obeyed)
    open_work = await desk.written(bridge)
    await desk.over(open_work)
    kept_in = open_work.model_copy(update={"job_id": uuid4(), "sensitive": True})  # the same work, but for that
    await desk.follows(bridge, kept_in)
    told_so = await outcome(desk.nc, kept_in)
    assert (told_so.subject, told_so.body["degraded"]) == ("evt.phase.v1.succeeded", True)
    assert "no FERPA is in force" in told_so.body["facts"]["providers_barred"]["near"]
    assert (len(near.submitted), (await desk.over(kept_in)).provider) == (1, "home")


async def test_the_books_tell_queue_start_and_run_apart_and_what_it_cost(desk: Desk) -> None:
    bridge = await desk.runs(Scripted(answer=succeeded))
    given = await desk.written(bridge)
    await desk.over(given)
    [epoch] = await desk.epochs(given)
    assert epoch.queued_at <= epoch.spawned_at <= epoch.ended_at
    assert (epoch.device, epoch.cold, epoch.code, epoch.currency) == ("L4", True, None, "EUR")
    assert epoch.run_s == pytest.approx(2.0, abs=0.01)
    assert epoch.billed_s == pytest.approx(7.0, abs=0.01)  # with the 5 s of its cold start
    assert epoch.cost == pytest.approx(7.0 * 0.000222, rel=0.01)


async def costs_of(desk: Desk, *given: RunPhase) -> list[Any]:
    """What was told of what these commands' jobs cost."""
    told_so = [one for each in given for one in await told(desk.nc, str(each.job_id))]
    return [one for one in told_so if one.subject == "evt.cost.v1.noted"]


async def test_each_epoch_that_was_billed_is_told_to_be_the_first_askers_cost(desk: Desk) -> None:
    near, own = Scripted(), Scripted("local", "cpu", answer=on_cpu)
    bridge = await desk.runs(near, own)
    one = await desk.written(bridge)
    asked = await submitted(near)
    other = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, other)
    row = await desk.stands(one, State.RUNNING)
    near.say(row.handle, with_item(asked, error=ItemError(code="INTERNAL"), outputs={}))  # billed all the same
    assert (await outcome(desk.nc, other)).subject == "evt.phase.v1.failed"
    [cost] = await until(lambda: costs_of(desk, one, other))
    [epoch] = await desk.epochs(one)
    assert (cost.body["job_id"], cost.body["phase"], cost.body["tenant"]) == (str(one.job_id), "style", "demo")
    assert (cost.body["call"], cost.body["epoch"], cost.headers["Nats-Msg-Id"]) == (row.key, 1, f"{row.key}.1.cost")
    assert (cost.body["billed_s"], cost.body["cost"], cost.body["currency"]) == (epoch.billed_s, epoch.cost, "EUR")
    assert (cost.body["device"], cost.body["priced_on"]) == ("L4", "2026-05-07")
    free = await desk.written(bridge, engine="cpu")
    await outcome(desk.nc, free)
    [epoch] = await desk.epochs(free)
    assert (epoch.provider, epoch.cost) == ("local", 0)
    assert await costs_of(desk, free) == []


async def test_work_that_is_under_way_is_followed_and_not_bought_again(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    asked = await submitted(near)
    others = [one.model_copy(update={"job_id": uuid4()}) for _ in range(3)]
    await desk.follows(bridge, *others)
    row = await desk.stands(one, State.RUNNING)
    near.say(row.handle, succeeded(asked))
    keys = {(await outcome(desk.nc, each)).body["artifacts"][0]["key"] for each in (one, *others)}
    assert len(keys) == 1
    assert len(near.submitted) == len(near.bodies) == 1


async def test_work_that_was_done_answers_at_once(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    await outcome(desk.nc, one)
    again = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, again)
    told_so = await outcome(desk.nc, again)
    assert told_so.body["engine"] == "scripted@1"
    assert len(near.bodies) == 1


async def test_a_result_whose_objects_were_deleted_answers_nobody(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    [artifact] = (await outcome(desk.nc, one)).body["artifacts"]
    await desk.objects.remove(artifact["key"])
    again = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, again)
    await outcome(desk.nc, again)
    assert [epoch.epoch for epoch in await desk.epochs(again)] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"parameters": {"strength": 0.123}}, id="other parameters"),
        pytest.param({"tenant": "other"}, id="another tenant"),
        pytest.param({"providers": ["near"]}, id="other rules of who may"),
    ],
)
async def test_other_work_is_bought(desk: Desk, change: dict[str, Any]) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    await outcome(desk.nc, one)
    other = one.model_copy(update={"job_id": uuid4()} | change)
    await desk.follows(bridge, other)
    await outcome(desk.nc, other)
    assert len(set(near.bodies)) == 2


async def test_force_makes_a_new_epoch(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    await outcome(desk.nc, one)
    again = one.model_copy(update={"job_id": uuid4(), "force": True})
    await desk.follows(bridge, again)
    await outcome(desk.nc, again)
    assert [epoch.epoch for epoch in await desk.epochs(again)] == [1, 2]


async def test_a_degraded_result_is_not_reused_since_it_cost_no_gpu(desk: Desk) -> None:
    near = Scripted(answer=on_cpu)
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    assert (await outcome(desk.nc, one)).body["degraded"]
    near.answer = succeeded
    again = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, again)
    assert not (await outcome(desk.nc, again)).body["degraded"]


async def test_a_redelivered_command_changes_nothing(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    await desk.follows(bridge, given, given)
    await outcome(desk.nc, given)
    assert len(near.bodies) == 1


async def test_after_a_failure_the_next_attempt_is_the_next_epoch(desk: Desk) -> None:
    near = Scripted(answer=lambda asked: with_item(asked, error=ItemError(code="INTERNAL"), outputs={}))
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    assert (await outcome(desk.nc, one)).body["code"] == "INTERNAL"
    near.answer = succeeded
    second = one.model_copy(update={"attempt": 2})
    await desk.follows(bridge, second)
    assert (await outcome(desk.nc, second)).subject == "evt.phase.v1.succeeded"
    assert [epoch.code for epoch in await desk.epochs(second)] == ["INTERNAL", None]


# -- an answer that was lost ----------------------------------------------------------------------


async def test_a_submission_whose_answer_was_lost_is_found_by_its_claim(desk: Desk) -> None:
    near = Scripted(answer=succeeded, fails=[ConnectionError()], after=True)
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    assert (len(near.submitted), len(near.bodies)) == (1, 1)


async def test_a_submission_that_never_arrived_is_sent_again_under_the_same_epoch(desk: Desk) -> None:
    near = Scripted(answer=succeeded, fails=[ConnectionError()])
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    assert [epoch.epoch for epoch in await desk.epochs(given)] == [1]
    assert len(near.bodies) == 1


async def test_two_submissions_of_one_epoch_do_the_work_once(desk: Desk) -> None:
    near = Scripted(claims=False, fails=[ConnectionError()], after=True)
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    first = await submitted(near)
    second = await submitted(near, 2)  # nobody had claimed it in time
    row = await desk.stands(given, State.RUNNING)
    near.answer = succeeded
    await near.begin("the-first", first)  # it starts after all, and before the second
    await near.begin(row.handle, second)
    assert (await desk.over(given)).handle == "the-first"
    await outcome(desk.nc, given)
    assert len(near.bodies) == 1


async def test_a_provider_that_never_answers_is_left_and_the_next_one_has_it(desk: Desk) -> None:
    near = Scripted("near", fails=[ConnectionError()] * 5)
    far = Scripted("far", answer=succeeded)
    bridge = await desk.runs(near, far)
    given = await desk.written(bridge)
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"
    epochs = await desk.epochs(given)
    assert [(epoch.provider, epoch.code) for epoch in epochs] == [("near", "CALL_START_DEADLINE"), ("far", None)]
    assert (len(near.bodies), len(far.bodies)) == (0, 1)
    lines = await acts(desk.nc, epochs[0].call)
    assert [line[:2] for line in lines] == [("provider:near", "data.moved"), ("provider:far", "data.moved")], (
        "the links were with the first too, whatever became of them"
    )
    objects = {tuple(line[2]["objects"]) for line in lines}
    assert objects == {(given.inputs["image"].key, given.inputs["lut"].key)}


async def test_a_hanging_provider_holds_nobody_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_bridge.submission.SUBMIT_S", 2.0)
    near, far = Scripted("near", hangs=True), Scripted("far", answer=succeeded)
    bridge = await desk.runs(near, far)
    held = await desk.written(bridge, providers=["near"])
    free = [await desk.written(bridge, providers=["far"]) for _ in range(5)]
    for given in free:
        await outcome(desk.nc, given)
    assert (await outcome(desk.nc, held)).body["code"] == "CALL_START_DEADLINE"


# -- refusals -------------------------------------------------------------------------------------


async def test_a_provider_that_refuses_for_certain_is_not_asked_again_and_the_next_one_is(desk: Desk) -> None:
    near, far = Scripted("near", fails=[error("PROVIDER_REJECTED")]), Scripted("far", answer=succeeded)
    bridge = await desk.runs(near, far)
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    assert (near.submitted, len(far.bodies)) == ([], 1)


async def test_when_everybody_refuses_the_call_fails_and_says_why(desk: Desk) -> None:
    bridge = await desk.runs(Scripted(fails=[error("PROVIDER_REJECTED")]))
    given = await desk.written(bridge)
    assert (await outcome(desk.nc, given)).body["code"] == "PROVIDER_REJECTED"


async def test_refused_credentials_pause_the_provider_and_fail_no_job(desk: Desk) -> None:
    near = Scripted(fails=[error("PROVIDER_UNAUTHORIZED")], answer=succeeded)
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    put_off = await outcome(desk.nc, given)
    assert (put_off.subject, put_off.body["code"]) == ("evt.phase.v1.deferred", "PROVIDER_UNAUTHORIZED")
    async with desk.engine.connect() as conn:
        [row] = await conn.execute(text("SELECT * FROM gpu_bridge.providers"))
    assert (row.name, row.mode, row.by) == ("near", "paused", "safelight")
    assert near.submitted == []


async def test_credentials_that_are_refused_before_anything_is_bought_pause_the_provider_too(desk: Desk) -> None:
    near = Scripted("near", able=Unavailable("PROVIDER_UNAUTHORIZED", LATER))
    far = Scripted("far", answer=succeeded)
    bridge = await desk.runs(near, far)
    await outcome(desk.nc, await desk.written(bridge))
    async with desk.engine.connect() as conn:
        [row] = await conn.execute(text("SELECT * FROM gpu_bridge.providers"))
    assert (row.name, row.mode, row.by) == ("near", "paused", "safelight")
    near.able, near.answer = Available(), succeeded
    await bridge.vendors.feel()
    await outcome(desk.nc, await desk.written(bridge))
    assert (len(near.bodies), len(far.bodies)) == (0, 2), "an operator has to say so"
    async with desk.engine.begin() as conn:
        await set_mode(conn, "near", Mode("working", "new keys", "operator:ops", datetime.now(UTC)))
    await outcome(desk.nc, await desk.written(bridge))
    assert (len(near.bodies), len(far.bodies)) == (1, 2)


async def test_a_provider_whose_health_cannot_be_asked_holds_nobody_up(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_bridge.vendors.HEALTH_S", 3600.0)
    silent, far = Scripted("near", health_hangs=True), Scripted("far", answer=succeeded)
    bridge = await desk.runs(silent, far)
    await outcome(desk.nc, await desk.written(bridge, providers=["far"]))


async def test_a_provider_that_is_asked_too_much_is_left_alone_for_a_while(desk: Desk) -> None:
    near = Scripted("near", fails=[error("PROVIDER_RATE_LIMITED")])
    far = Scripted("far", answer=succeeded)
    bridge = await desk.runs(near, far)
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    assert (near.submitted, len(far.bodies)) == ([], 1)


@pytest.mark.parametrize("code", ["PROVIDER_UNAVAILABLE", "PROVIDER_RATE_LIMITED"])
async def test_a_call_that_nobody_takes_now_is_deferred_and_nothing_is_bought(desk: Desk, code: str) -> None:
    near = Scripted(able=Unavailable(code, LATER))
    bridge = await desk.runs(near)
    given = await desk.written(bridge, item="p-1")
    put_off = PhaseDeferred.model_validate((await outcome(desk.nc, given)).body)
    assert (put_off.provider, put_off.code, put_off.until, put_off.item) == ("near", code, LATER, "p-1")
    assert ((await desk.over(given)).state, near.submitted) == ("deferred", [])


async def test_without_a_provider_that_may_do_it_the_call_fails(desk: Desk) -> None:
    bridge = await desk.runs(Scripted())
    given = await desk.written(bridge, engine="cpu")
    assert (await outcome(desk.nc, given)).body["code"] == "NO_PROVIDER"


async def test_three_failures_open_the_circuit_and_the_work_goes_elsewhere(desk: Desk) -> None:
    near = Scripted("near", answer=lambda _: Broken("CALL_LOST"))
    far = Scripted("far", answer=succeeded)
    bridge = await desk.runs(near, far)
    for _ in range(3):
        given = await desk.written(bridge)
        assert (await outcome(desk.nc, given)).body["code"] == "CALL_LOST"
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    assert ([len(near.bodies), len(far.bodies)]) == [3, 1]


# -- how much at once -----------------------------------------------------------------------------


async def test_a_full_provider_is_waited_for(desk: Desk) -> None:
    near, far = Scripted("near"), Scripted("far")
    bridge = await desk.runs(near, far, limits={"near": ROOMY.model_copy(update={"in_flight": 2})})
    given = [await desk.written(bridge) for _ in range(4)]
    await until(lambda: len(near.submitted) == 2)
    row = await desk.stands(given[0], State.RUNNING)
    near.say(row.handle, succeeded(near.submitted[0]))
    await until(lambda: len(near.submitted) == 3)
    assert far.submitted == []


async def test_two_bridges_keep_to_one_limit(desk: Desk) -> None:
    near = Scripted()
    limits = {"near": ROOMY.model_copy(update={"in_flight": 3})}
    bridges = [await desk.runs(near, limits=limits) for _ in range(2)]
    for number in range(10):
        await desk.written(bridges[number % 2])
    await until(lambda: len(near.submitted) == 3)
    async with desk.engine.connect() as conn:
        assert await store.in_flight(conn) == {"near": 3}


async def test_calls_that_are_alike_travel_together_and_each_keeps_its_own_end(desk: Desk) -> None:
    def one_is_bad(asked: CallRequest) -> CallResponse:
        items = [done(item) for item in asked.items]
        items[1] = ItemResult(id=items[1].id, error=ItemError(code="IMAGE_CORRUPT"))
        return succeeded(asked).model_copy(update={"items": items})

    near = Scripted(answer=one_is_bad)
    bridge = desk.made(
        near, limits={"near": Limits(in_flight=9, per_s=99, batch=3, batch_wait_s=5, bills_cold_start=False)}
    )
    given = [await desk.written(bridge) for _ in range(3)]
    await bridge.ledger.stay_alive()
    bridge.start()
    subjects = sorted([(await outcome(desk.nc, one)).subject for one in given])
    assert subjects == ["evt.phase.v1.failed", "evt.phase.v1.succeeded", "evt.phase.v1.succeeded"]
    assert [len(asked.items) for asked in near.submitted] == [3]


async def test_a_lonely_call_waits_for_company_no_longer_than_it_may(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    limits = {"near": Limits(in_flight=9, per_s=99, batch=4, batch_wait_s=0.3, bills_cold_start=False)}
    bridge = await desk.runs(near, limits=limits)
    given = await desk.written(bridge)
    await outcome(desk.nc, given)
    [epoch] = await desk.epochs(given)
    assert epoch.spawned_at - epoch.queued_at >= timedelta(seconds=0.3)


# -- clocks ---------------------------------------------------------------------------------------


async def test_a_call_that_waits_too_long_for_room_says_so(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near, limits={"near": ROOMY.model_copy(update={"in_flight": 1})}, queue_s=0.3)
    await desk.written(bridge)
    await submitted(near)
    late = await desk.written(bridge)
    assert (await outcome(desk.nc, late)).body["code"] == "CALL_QUEUE_DEADLINE"


async def test_a_call_that_never_starts_is_voided_and_a_late_start_does_no_work(desk: Desk) -> None:
    near = Scripted(claims=False)
    bridge = await desk.runs(near, start_s=0.3)
    given = await desk.written(bridge)
    assert (await outcome(desk.nc, given)).body["code"] == "CALL_START_DEADLINE"
    await near.begin("too-late", near.submitted[0])
    assert near.bodies == []
    assert near.cancelled


@pytest.mark.parametrize("owner", ["its own submission", "another of the same epoch"])
async def test_a_call_that_starts_just_before_it_would_be_voided_goes_on(desk: Desk, owner: str) -> None:
    near = Scripted(claims=False)
    pace = replace(QUICK, marks_s=60)  # its claim is looked for once, and not found yet
    bridge = await desk.runs(near, start_s=2, pace=pace)
    given = await desk.written(bridge)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    await until(lambda: near.polls > 2)
    handle = row.handle if owner == "its own submission" else "the-other"
    await near.begin(handle, asked)

    await until(lambda: datetime.now(UTC) > row.queued_at + timedelta(seconds=2))
    near.say(handle, succeeded(asked))
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"
    assert ([epoch.epoch for epoch in await desk.epochs(given)], near.cancelled) == (
        [1],
        [] if handle == row.handle else [row.handle],
    )
    assert (await desk.call(given)).handle == handle


@pytest.mark.parametrize(
    ("clocks", "deadline_s", "code"),
    [
        pytest.param({"stall_s": 0.4}, 60, "CALL_STALLED", id="no progress"),
        pytest.param({"run_s": 0.4}, 60, "CALL_RUN_DEADLINE", id="too long at work"),
        pytest.param({}, 0.6, "CALL_DEADLINE", id="nobody waits any longer"),
    ],
)
async def test_a_clock_that_runs_out_stops_the_call_and_says_which(
    desk: Desk, clocks: dict[str, float], deadline_s: float, code: str
) -> None:
    near = Scripted()
    bridge = await desk.runs(near, **clocks)
    given = await desk.written(bridge, deadline_s=deadline_s)
    assert (await outcome(desk.nc, given)).body["code"] == code
    row = await desk.over(given)
    assert (row.state, row.code) == ("failed", code)
    assert len(near.cancelled) == 1


async def test_progress_keeps_a_call_alive_and_is_told(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near, stall_s=0.5)
    given = await desk.written(bridge)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    for fraction in (0.2, 0.4, 0.6, 0.8):
        near.say(row.handle, Pending(fraction))

        async def heard(fraction: float = fraction) -> bool:
            return fraction in [one.body.get("fraction") for one in await told(desk.nc, given.key)]

        await until(heard)
    near.say(row.handle, succeeded(asked))
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"


async def test_long_work_tells_its_numbers_and_what_it_has_shown(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near, long=True)
    given = await desk.written(bridge)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    near.say(row.handle, Pending(0.3))  # what the platform says counts for nothing: the function says more
    [item] = asked.items
    shown = {"image": wrote(item.outputs["image"].key), "lut": wrote("uploads/somebody-else")}
    await tells(item, 0.25, facts={"loss": 0.5, "step": 7, "name": "a person"}, outputs=shown)

    async def heard() -> list[dict[str, Any]]:
        return [one.body for one in await told(desk.nc, given.key) if one.body.get("fraction") == 0.25]

    await until(heard)
    [body] = await heard()
    assert body["facts"] == {"loss": 0.5, "step": 7}
    assert [(one["name"], one["key"]) for one in body["artifacts"]] == [("image.png", item.outputs["image"].key)]
    near.say(row.handle, succeeded(asked))
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"


async def test_the_checkpoint_of_long_work_outlives_its_epoch(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near, long=True)
    given = await desk.written(bridge)
    first = (await submitted(near)).items[0]
    assert first.checkpoint
    async with httpx.AsyncClient() as http:
        (await http.put(first.checkpoint.write, content=b"half way")).raise_for_status()
    row = await desk.stands(given, State.RUNNING)
    near.say(row.handle, Broken("CALL_KILLED"))
    assert (await outcome(desk.nc, given)).body["code"] == "CALL_KILLED"
    near.answer = succeeded
    again = given.model_copy(update={"attempt": 2})
    await desk.follows(bridge, again)
    assert (await outcome(desk.nc, again)).subject == "evt.phase.v1.succeeded"
    second = near.submitted[1].items[0]
    assert second.outputs["image"].key != first.outputs["image"].key
    assert second.checkpoint
    async with httpx.AsyncClient() as http:
        assert (await http.get(second.checkpoint.read)).content == b"half way"


async def test_a_call_that_does_not_hear_its_stop_is_let_go_and_the_next_epoch_waits_for_that(desk: Desk) -> None:
    near = Scripted(cancel_fails=RuntimeError("x"))
    bridge = await desk.runs(near, run_s=0.3)
    one = await desk.written(bridge)
    assert (await outcome(desk.nc, one)).body["code"] == "CALL_RUN_DEADLINE"
    near.answer = succeeded
    second = one.model_copy(update={"attempt": 2})
    await desk.follows(bridge, second)
    assert (await desk.call(second)).state == "stopping"
    assert (await outcome(desk.nc, second)).subject == "evt.phase.v1.succeeded"
    first, next_ = await desk.epochs(second)
    assert first.ended_at <= next_.spawned_at


# -- the result object is the truth ---------------------------------------------------------------


@pytest.mark.parametrize("code", ["CALL_LOST", "CALL_KILLED", "CALL_EXPIRED", "CALL_RUN_DEADLINE"])
async def test_a_call_that_ended_without_an_answer_but_left_a_result_succeeded(desk: Desk, code: str) -> None:
    near = Scripted()
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    await result(asked.items[0], row.handle, done(asked.items[0]))
    near.say(row.handle, Broken(code))
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"


async def test_a_call_that_ended_without_an_answer_or_a_result_failed_by_name(desk: Desk) -> None:
    near = Scripted(answer=lambda _: Broken("CALL_EXPIRED"))
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    assert (await outcome(desk.nc, given)).body["code"] == "CALL_EXPIRED"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(lambda asked: succeeded(asked, facts="x" * 600_000), "MESSAGE_INVALID", id="facts without end"),
        pytest.param(
            lambda asked: CallResponse(call_id=asked.call_id, function=asked.function), "CALL_LOST", id="no item"
        ),
        pytest.param(lambda asked: with_item(asked, id="another"), "CALL_LOST", id="another item"),
        pytest.param(
            lambda asked: with_item(asked, outputs={"image": wrote("secret/object")}),
            "ANSWER_INVALID",
            id="an object that it was not asked for",
        ),
        pytest.param(lambda asked: with_item(asked, outputs={}), "ANSWER_INVALID", id="no object"),
        pytest.param(
            lambda asked: succeeded(asked).model_copy(update={"error": ItemError(code="FUNCTION_UNKNOWN")}),
            "FUNCTION_UNKNOWN",
            id="an error of the whole call",
        ),
    ],
)
async def test_whatever_a_provider_says_the_call_ends(
    desk: Desk, answer: Callable[[CallRequest], Any], code: str
) -> None:
    bridge = await desk.runs(Scripted(answer=answer))
    given = await desk.written(bridge)
    failed = await outcome(desk.nc, given)
    assert failed.body["code"] == code
    assert "secret" not in str(failed.body)


# -- processes that end ---------------------------------------------------------------------------


async def test_the_calls_of_a_bridge_that_ended_are_taken_over_at_once_and_bought_once(desk: Desk) -> None:
    near = Scripted()
    first = await desk.runs(near)
    given = await desk.written(first)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    await first.stop()
    await desk.runs(near)
    near.say(row.handle, succeeded(asked))
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"
    assert (len(near.submitted), [epoch.epoch for epoch in await desk.epochs(given)]) == (1, [1])


@pytest.mark.parametrize("claims", [True, False], ids=["the provider has it", "the provider never heard of it"])
async def test_a_bridge_that_died_while_it_submitted_leaves_a_call_that_ends(desk: Desk, claims: bool) -> None:
    near = Scripted(answer=succeeded)
    dead = desk.made(near)
    given = await desk.written(dead)
    async with desk.engine.begin() as conn:
        row = await desk.call(given)
        [call] = await store.begin(conn, dead.ledger.me, [row.key], "near", datetime.now(UTC))
    if claims:
        async with desk.engine.connect() as conn:
            commands = await store.commands_of(conn, [call.key])
        await near.begin("of-the-dead", await request(function(["near"]), [call], commands, dead.submitter.marks))
    await desk.runs(near)
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"
    assert (len(near.bodies), [epoch.epoch for epoch in await desk.epochs(given)]) == (1, [1])


async def test_what_ran_in_a_process_that_died_is_done_again_elsewhere(desk: Desk) -> None:
    own = Scripted("near", shared=False)
    first = await desk.runs(own)
    given = await desk.written(first)
    await desk.stands(given, State.RUNNING)
    await first.stop()
    other = Scripted("near", shared=False, answer=succeeded)
    other.say((await desk.call(given)).handle, Broken("CALL_LOST"))
    await desk.runs(other)
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"
    assert [epoch.code for epoch in await desk.epochs(given)] == ["CALL_LOST", None]


async def test_who_lost_the_lease_does_not_end_the_call(desk: Desk) -> None:
    near = Scripted()
    loser = await desk.runs(near)
    given = await desk.written(loser)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    async with desk.engine.begin() as conn:
        other = uuid4()
        await store.stay_alive(conn, other, LATER, datetime.now(UTC) - timedelta(days=1))
        await conn.execute(text("UPDATE gpu_bridge.calls SET leased_by = :other"), {"other": other})
    near.say(row.handle, succeeded(asked))
    await until(lambda: loser.watcher.calls == 0)
    assert (await desk.call(given)).state == "running"
    assert await ends(desk, given) == []


# -- stops ----------------------------------------------------------------------------------------


async def stops(desk: Desk, given: RunPhase) -> str | None:
    async with desk.engine.begin() as conn:
        return await store.stop(conn, given.key, datetime.now(UTC))


async def test_a_queued_call_that_is_stopped_is_cancelled_and_never_bought(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = desk.made(near)
    given = await desk.written(bridge)
    assert await stops(desk, given) is None
    await bridge.ledger.stay_alive()
    bridge.start()
    other = await desk.written(bridge)
    await outcome(desk.nc, other)
    assert ((await desk.call(given)).state, len(near.submitted)) == ("cancelled", 1)


@pytest.mark.parametrize("here", [True, False], ids=["here", "in another process"])
async def test_a_running_call_that_is_stopped_is_cancelled_at_its_provider(desk: Desk, here: bool) -> None:
    near = Scripted()
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    row = await desk.stands(given, State.RUNNING)
    key = await stops(desk, given)
    assert key == row.key
    if here:
        bridge.watcher.stop(row.key)
    assert (await desk.over(given)).state == "cancelled"
    assert near.cancelled == [row.handle]
    assert await ends(desk, given) == []


async def test_a_call_that_somebody_else_follows_is_not_stopped(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    other = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, other)
    asked = await submitted(near)
    row = await desk.stands(one, State.RUNNING)
    assert await stops(desk, one) is None
    near.say(row.handle, succeeded(asked))
    await outcome(desk.nc, other)
    assert (await ends(desk, one), near.cancelled) == ([], [])


async def test_one_of_a_batch_that_is_stopped_costs_its_neighbours_nothing(desk: Desk) -> None:
    near = Scripted()
    bridge = desk.made(near, limits={"near": ROOMY.model_copy(update={"batch": 2, "batch_wait_s": 9})})
    one, other = [await desk.written(bridge) for _ in range(2)]
    await bridge.ledger.stay_alive()
    bridge.start()
    asked = await submitted(near)
    row = await desk.stands(one, State.RUNNING)
    key = await stops(desk, one)
    assert key
    bridge.watcher.stop(key)
    near.say(row.handle, succeeded(asked))
    assert (await outcome(desk.nc, other)).subject == "evt.phase.v1.succeeded"
    assert (await ends(desk, one), near.cancelled) == ([], [])


async def test_a_stop_that_overtook_its_command_is_found_by_it(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    given = desk.given()
    assert await stops(desk, given) is None
    assert await stops(desk, given) is None
    await desk.follows(bridge, given)
    other = await desk.written(bridge)
    await outcome(desk.nc, other)
    assert len(near.bodies) == 1
    assert await ends(desk, given) == []


async def test_a_stop_that_comes_with_its_command_has_nothing_bought_for_nobody(desk: Desk) -> None:
    bridge = desk.made(Scripted())
    given = desk.given()
    async with desk.engine.begin() as conn:
        await store.stop(conn, given.key, datetime.now(UTC))
        following = asyncio.create_task(desk.follows(bridge, given))
        await until(lambda: waits_for_a_lock(desk))
    await following
    async with desk.engine.connect() as conn:
        assert (await conn.execute(text("SELECT state FROM gpu_bridge.calls"))).scalars().all() == ["cancelled"]


@pytest.mark.parametrize("refused", [True, False], ids=["it is refused", "it died with its bridge"])
async def test_a_call_that_comes_back_and_was_stopped_meanwhile_is_not_bought_again(desk: Desk, refused: bool) -> None:
    bridge = desk.made(Scripted())
    given = await desk.written(bridge)
    [call] = await begun(desk, bridge, given)
    async with desk.engine.begin() as conn:
        await store.stop(conn, given.key, datetime.now(UTC))  # by another process: it is not heard here yet
    assert await bridge.ledger.give_back(call, store.Run(code="PROVIDER_REJECTED"), refused=refused)
    assert (await desk.call(given)).state == "cancelled"


async def test_a_clock_that_runs_out_after_a_stop_leaves_the_call_to_be_stopped(desk: Desk) -> None:
    bridge = desk.made(Scripted())
    given = await desk.written(bridge)
    [call] = await begun(desk, bridge, given)
    async with desk.engine.begin() as conn:
        await store.stop(conn, given.key, datetime.now(UTC))
    assert await bridge.ledger.stop(call, "CALL_STALLED"), "it is still watched"
    assert call.state is State.STOPPING
    assert await ends(desk, given) == []


async def test_a_call_that_its_own_bridge_has_lost_track_of_is_found(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "FORGOTTEN_S", 0.2)
    near = Scripted(answer=succeeded)
    bridge = desk.made(near)
    given = await desk.written(bridge)
    await begun(desk, bridge, given)  # and the answer to the commit was lost
    await bridge.ledger.stay_alive()
    bridge.start()
    assert (await outcome(desk.nc, given)).subject == "evt.phase.v1.succeeded"
    assert (len(near.bodies), [epoch.epoch for epoch in await desk.epochs(given)]) == (1, [1])


async def begun(desk: Desk, bridge: Bridge, given: RunPhase) -> list[Call]:
    """The call of a command as its bridge has begun it, and no more."""
    async with desk.engine.begin() as conn:
        row = await desk.call(given)
        return await store.begin(conn, bridge.ledger.me, [row.key], "near", datetime.now(UTC))


async def waits_for_a_lock(desk: Desk) -> bool:
    async with desk.engine.connect() as conn:
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'safelight-test'"
        )
        return (await conn.execute(text(waiting))).first() is not None


async def test_a_success_that_comes_before_its_stop_is_heard_is_kept_for_who_asks_next(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near, pace=replace(QUICK, keep_s=5))  # stops that others took are heard of later
    given = await desk.written(bridge)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    assert await stops(desk, given) == row.key
    await desk.objects.put(asked.items[0].outputs["image"].key, b"x", "image/png")
    near.say(row.handle, succeeded(asked))
    assert (await desk.over(given)).state == "succeeded"
    again = given.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, again)
    assert (await outcome(desk.nc, again)).subject == "evt.phase.v1.succeeded"
    assert (await ends(desk, given), near.cancelled, len(near.bodies)) == ([], [], 1)


# -- the table ------------------------------------------------------------------------------------

SOME_TIME = "TIMESTAMP WITH TIME ZONE '2026-01-01 00:00:00Z'"


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        pytest.param({"state": "'lost'"}, "state_known", id="a state that is none"),
        pytest.param({"state": "'failed'", "code": "'X'"}, "ended_when_terminal", id="ended without a time"),
        pytest.param({"state": "'queued'", "ended_at": SOME_TIME}, "ended_when_terminal", id="a time without an end"),
        pytest.param(
            {"state": "'running'", "handle": "'h'", "epoch": "1", "provider": "'near'"},
            "leased_when_out",
            id="running by nobody",
        ),
        pytest.param({"state": "'failed'", "ended_at": SOME_TIME}, "failed_has_a_code", id="failed without a code"),
        pytest.param({"state": "'succeeded'", "ended_at": SOME_TIME}, "success_is_kept", id="a success without result"),
        pytest.param({"state": "'submitting'", "leased_by": "gen_random_uuid()"}, "leased_has_an_epoch", id="no epoch"),
        pytest.param(
            {"state": "'running'", "leased_by": "gen_random_uuid()", "epoch": "1", "provider": "'near'"},
            "running_has_a_handle",
            id="running without a handle",
        ),
    ],
)
async def test_the_database_refuses_nonsense(engine: AsyncEngine, columns: dict[str, str], constraint: str) -> None:
    row = {
        "key": f"'{uuid4()}'",
        "function": "'style.apply'",
        "function_version": "1",
        "tenant": "'t'",
        "command": "'{}'",
        "alike": "''",
        "deadline": SOME_TIME,
    } | columns
    names, values = ", ".join(row), ", ".join(row.values())
    async with engine.connect() as conn:
        with pytest.raises(DBAPIError, match=constraint):
            await conn.execute(text(f"INSERT INTO gpu_bridge.calls ({names}) VALUES ({values})"))


# -- more is about to come ------------------------------------------------------------------------


async def test_providers_are_asked_for_capacity_once_a_batch(desk: Desk) -> None:
    near = Scripted()
    bridge = desk.made(near)

    def upload(batch: Any) -> Any:
        received = UploadReceived(
            upload_id=uuid4(),
            job_id=uuid4(),
            tenant="demo",
            pipeline="photo",
            original=desk.image,
            received_at=datetime.now(UTC),
            batch_id=batch,
        )

        class Brought:
            body = received.model_dump_json().encode()

        return Brought()

    batch = uuid4()
    await bridge.handlers.uploads([upload(None)])
    assert near.prewarmed == []
    await asyncio.gather(*(bridge.handlers.uploads([upload(batch)]) for _ in range(4)))
    assert near.prewarmed == ["style.apply"]
    await bridge.handlers.uploads([upload(uuid4())])
    assert len(near.prewarmed) == 2


# -- erasure --------------------------------------------------------------------------------------


def erasing(desk: Desk) -> Erasing:
    return Erasing(desk.nc.jetstream(), desk.engine, desk.objects)


def erasure(*given: RunPhase) -> ErasureRequested:
    jobs = [one.job_id for one in given]
    return ErasureRequested(erasure_id=uuid4(), part=1, tenant="demo", jobs=jobs, uploads=[])


async def named(desk: Desk, given: RunPhase) -> set[str]:
    """The tables that name a command's job; the outbox may, while a message is on its way."""
    found = set()
    async with desk.engine.connect() as conn:
        for table in ("calls", "commands", "epochs", "batches"):
            rows = text(f"SELECT count(*) FROM gpu_bridge.{table} AS t WHERE t::text LIKE :job")
            if (await conn.execute(rows, {"job": f"%{given.job_id}%"})).scalar_one():
                found.add(table)
    return found


async def test_a_call_that_others_follow_stays_and_names_those_who_are_gone_no_more(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    one = await desk.written(bridge)
    [artifact] = (await outcome(desk.nc, one)).body["artifacts"]
    other = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, other)
    await outcome(desk.nc, other)
    assert await named(desk, one) == {"calls", "commands"}, "it was the first to ask"
    await erasing(desk).erase(erasure(one))
    assert (await named(desk, one), await named(desk, other)) == (set(), {"calls", "commands"})
    assert await desk.objects.size(artifact["key"])
    third = one.model_copy(update={"job_id": uuid4()})
    await desk.follows(bridge, third)
    assert (await outcome(desk.nc, third)).body["artifacts"] == [artifact]
    await erasing(desk).erase(erasure(other, third))
    assert (await named(desk, other), await named(desk, third)) == (set(), set())
    assert await desk.objects.size(artifact["key"]) is None
    assert len(near.bodies) == 1


async def test_what_comes_after_an_erasure_is_neither_written_down_nor_bought(desk: Desk) -> None:
    near = Scripted(answer=succeeded)
    bridge = await desk.runs(near)
    late, spared = desk.given(), desk.given()
    await erasing(desk).erase(erasure(late))
    await desk.follows(bridge, late, spared)
    stop = StopPhase(job_id=late.job_id, phase=late.phase, attempt=late.attempt)
    await bridge.handlers.stops([Brought(stop, "cmd.gpu.v1.stop")])  # type: ignore[list-item]
    await outcome(desk.nc, spared)
    assert (await named(desk, late), await ends(desk, late), len(near.bodies)) == (set(), [], 1)


async def test_a_call_that_is_still_out_is_waited_for(desk: Desk) -> None:
    near = Scripted()
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    asked = await submitted(near)
    row = await desk.stands(given, State.RUNNING)
    with pytest.raises(SafelightError, match="PROVIDER_UNAVAILABLE"):
        await erasing(desk).erase(erasure(given))
    near.say(row.handle, succeeded(asked))
    await desk.over(given)
    await erasing(desk).erase(erasure(given))
    assert await named(desk, given) == set()


async def test_a_call_that_made_a_style_stays_with_it_and_is_told_as_kept(desk: Desk) -> None:
    bridge = await desk.runs(Scripted(answer=succeeded))
    given = await desk.written(bridge)
    [artifact] = (await outcome(desk.nc, given)).body["artifacts"]
    await desk.do("UPDATE gpu_bridge.calls SET function = 'style.train'")
    asked = erasure(given)
    await erasing(desk).erase(asked)
    [answer] = [one for one in await told(desk.nc, str(asked.erasure_id)) if one.subject == "evt.erasure.v1.done"]
    assert (answer.body["kept"], answer.body["erased"]["rows.commands"]) == ({"calls": 1}, 1)
    assert await desk.objects.size(artifact["key"])


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "asked for anew"])
async def test_what_a_provider_that_hung_writes_late_is_deleted_once_its_links_are_dead(desk: Desk, anew: bool) -> None:
    near = Scripted()
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    [item] = (await submitted(near)).items
    row = await desk.stands(given, State.RUNNING)
    near.cancel_fails = error("PROVIDER_UNAVAILABLE")  # whether it has stopped, it does not say
    await stops(desk, given)
    bridge.watcher.stop(row.key)
    await desk.over(given)
    await erasing(desk).erase(erasure(given))
    near.answer = succeeded
    if anew:
        other = given.model_copy(update={"job_id": uuid4()})
        await desk.follows(bridge, other)
        await outcome(desk.nc, other)
    await write(item)  # it was never over
    [key] = [target.key for target in item.outputs.values()]
    assert await erasing(desk).sweep() == 0
    assert await desk.objects.size(key)
    await desk.do("UPDATE gpu_bridge.leftovers SET after = now()")
    assert await erasing(desk).sweep() == 1
    assert (await desk.objects.size(key) is not None) == anew
    assert await erasing(desk).sweep() == 0
