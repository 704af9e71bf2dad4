"""The whole bridge: commands come from the broker, work is done by the own CPU, outcomes go back to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.channel import Channel
from contracts.errors import SafelightError
from contracts.phases import RUN_STYLE, STOP_GPU, PhaseFailed, PhaseSucceeded, RunPhase, StopPhase
from gpu_bridge.app import build
from gpu_bridge.call import State
from gpu_bridge.settings import Settings
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import outgoing, publish
from tests.integration.conftest import SettingsOf, until
from tests.integration.ledger_desk import Desk, Scripted, succeeded
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
    made = postgres.create_engine(known.postgres_url.get_secret_value(), service="test", connections_max=20)
    yield made
    await made.dispose()


@dataclass
class Site(Desk):
    """The app on a ledger of its own."""

    async def stops(self, given: RunPhase) -> None:
        """Ask a call to stop, and wait until the bridge has settled that."""
        stop = StopPhase(job_id=given.job_id, phase=given.phase, item=given.item, attempt=given.attempt)
        message_id = f"{given.key}.stop.{uuid4()}"
        asked = outgoing(STOP_GPU, stop, message_id=message_id, key=given.key, source="test")
        await publish(self.nc.jetstream(), [asked])

        async def taken() -> bool:
            info = await self.nc.jetstream().stream_info("COMMANDS", subjects_filter=STOP_GPU.subject)
            return not info.state.subjects

        await until(taken)

    async def state(self, given: RunPhase) -> str:
        async with self.engine.connect() as conn:
            found = await conn.execute(
                text("SELECT state FROM gpu_bridge.commands WHERE key = :key"), {"key": given.key}
            )
            return str(found.scalar_one())

    async def count(self, table: str) -> int:
        async with self.engine.connect() as conn:
            return int((await conn.execute(text(f"SELECT count(*) FROM gpu_bridge.{table}"))).scalar_one())


@pytest.fixture
async def bridge(engine: AsyncEngine, nc: Client, objects: Objects, settings_of: SettingsOf) -> AsyncIterator[Site]:
    image: ObjectRef = await stored(objects, picture(), "image/jpeg")
    lut: ObjectRef = await stored(objects, INVERSE.encode(), "application/x-cube-lut")
    made = Site(engine, nc, objects, image, lut)
    await made.clean()
    async with served(build(settings_of(Settings, "gpu-bridge", local_workers=1))):
        yield made
    for other in made.bridges:
        await other.stop()
    await made.clean()


async def test_a_command_becomes_a_result_with_the_hash_that_it_says(bridge: Site) -> None:
    given = bridge.given()
    done = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, given))
    assert done.subject == "evt.phase.v1.succeeded"
    assert (done.body["engine"], done.body["degraded"]) == ("cube-lut@3", True)
    [artifact] = done.body["artifacts"]
    content = await bridge.objects.get(artifact["key"])
    row = await bridge.call(given)
    assert artifact["key"] == f"calls/demo/{row.key}/1/image.png"
    assert (artifact["name"], artifact["sha256"], artifact["size"]) == ("image.png", sha256(content), len(content))
    assert (artifact["width"], artifact["height"], artifact["media_type"]) == (256, 256, "image/png")
    assert (row.state, row.function, row.provider, row.epoch) == ("succeeded", "style.apply", "local", 1)
    [epoch] = await bridge.epochs(given)
    assert (epoch.device, epoch.cost, epoch.code) == ("cpu", 0, None)
    assert epoch.queued_at <= epoch.spawned_at <= epoch.started_at <= epoch.ended_at

    async def forgotten() -> bool:  # once the broker has confirmed the message
        return await bridge.count("outbox") == 0

    await until(forgotten)


async def test_a_redelivered_command_is_one_call_and_one_outcome(bridge: Site) -> None:
    given = bridge.given()
    await send(bridge.nc, RUN_STYLE, given)
    await send(bridge.nc, RUN_STYLE, given, f"{given.key} again")
    await outcome(bridge.nc, given)
    await send(bridge.nc, RUN_STYLE, given, f"{given.key} and again")
    await settled(bridge.nc, RUN_STYLE)
    last = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, command("style", inputs={"image": gone()})))
    assert last.body["code"] == "OBJECT_MISSING"  # so whatever the third would have caused has happened by now
    await outcome(bridge.nc, given)
    assert len(await bridge.epochs(given)) == 1
    assert await bridge.count("calls") == 1


@pytest.mark.parametrize(
    ("image", "code"),
    [
        pytest.param(b"no picture", "IMAGE_CORRUPT", id="no picture"),
        pytest.param(None, "OBJECT_MISSING", id="an object that is gone"),
    ],
)
async def test_a_bad_input_is_a_failed_phase(bridge: Site, image: bytes | None, code: str) -> None:
    ref = await stored(bridge.objects, image, "image/jpeg") if image else gone()
    given = command("style", inputs={"image": ref, "lut": bridge.lut})
    failed = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, given))
    assert (failed.subject, failed.body["code"]) == ("evt.phase.v1.failed", code)
    assert (await bridge.call(given)).code == code


async def test_a_lane_that_nothing_serves_becomes_a_dead_letter_and_its_neighbours_run(bridge: Site) -> None:
    unserved = Channel("cmd.gpu.v1.run.nothing", RunPhase, "COMMANDS")
    lost, given = bridge.given(), bridge.given()
    await asyncio.gather(send(bridge.nc, unserved, lost), send(bridge.nc, RUN_STYLE, given))
    await outcome(bridge.nc, given)

    async def dead() -> list[Told]:
        return await told(bridge.nc, lost.key, "DEAD")

    letters: list[Told] = await until(dead)
    [letter] = letters
    assert letter.headers["safelight-error-code"] == "FUNCTION_UNKNOWN"
    assert RunPhase.model_validate(letter.body) == lost


async def test_items_with_the_same_work_have_outcomes_of_their_own_and_share_what_was_made(bridge: Site) -> None:
    first = bridge.given()
    ones = [first, *(first.model_copy(update={"item": item, "job_id": uuid4()}) for item in ("p-1", "p-2"))]
    keys = set()
    for given in ones:
        done = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, given))
        assert PhaseSucceeded.model_validate(done.body).item == given.item
        [artifact] = done.body["artifacts"]
        keys.add(artifact["key"].rsplit("/", 2)[0])
        assert sha256(await bridge.objects.get(artifact["key"])) == artifact["sha256"]
    assert len(keys) == 1
    lost = bridge.given(item="p-1").model_copy(update={"inputs": {"image": gone(), "lut": bridge.lut}})
    failed = await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, lost))
    assert PhaseFailed.model_validate(failed.body).item == "p-1"


async def test_a_stop_kills_the_worker_that_is_at_the_call(bridge: Site) -> None:
    await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, bridge.given()))
    [child] = children()
    child.suspend()  # so that the call is there when the stop comes
    given = await send(bridge.nc, RUN_STYLE, bridge.given())

    async def running() -> bool:
        async with bridge.engine.connect() as conn:
            found = await conn.execute(text("SELECT 1 FROM gpu_bridge.calls WHERE state = 'running'"))
            return found.first() is not None

    await until(running)
    await bridge.stops(given)
    assert (await bridge.over(given)).state == "cancelled"
    assert child not in children()
    await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, bridge.given()))
    assert [one for one in await told(bridge.nc, given.key) if not one.subject.endswith(".progressed")] == []


async def test_a_command_that_comes_after_its_stop_does_nothing(bridge: Site) -> None:
    given = bridge.given()
    await bridge.stops(given)
    await send(bridge.nc, RUN_STYLE, given)
    await settled(bridge.nc, RUN_STYLE)
    await outcome(bridge.nc, await send(bridge.nc, RUN_STYLE, bridge.given()))
    assert await told(bridge.nc, given.key) == []
    assert await bridge.state(given) == "stopped"


async def test_an_outcome_that_the_broker_could_not_take_is_published_later(
    engine: AsyncEngine, nc: Client, objects: Objects, nats_server: NatsServer
) -> None:
    image = await stored(objects, picture(), "image/jpeg")
    desk = Site(engine, nc, objects, image, await stored(objects, INVERSE.encode(), "application/x-cube-lut"))
    await desk.clean()
    near = Scripted()
    bridge = await desk.runs(near)
    given = await desk.written(bridge)
    row: Any = await desk.stands(given, State.RUNNING)
    await asyncio.to_thread(nats_server.kill)
    try:
        near.say(row.handle, succeeded(near.submitted[0]))
        assert (await desk.over(given)).state == "succeeded"
    finally:
        await asyncio.to_thread(nats_server.restart)

    async def swept() -> bool:
        try:
            return await bridge.ledger.outbox.sweep(0) == 0 and bool(await told(nc, given.key))
        except SafelightError:
            return False

    await until(lambda: nc.is_connected)
    await until(swept)
    await outcome(nc, given)
    await bridge.stop()
    await desk.clean()
