"""After calls that went well and badly on Modal, nothing that anybody but storage keeps holds a byte of the input."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import pyvips
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.phases import RUN_STYLE, RunPhase
from contracts.sealed import is_sealed
from gpu_bridge.app import build
from gpu_bridge.settings import Settings
from gpu_bridge.tables import METADATA
from runtime import postgres
from runtime.objects import Objects
from runtime.vault import sealing
from tests.integration.conftest import SettingsOf
from tests.integration.ledger_desk import Desk
from tests.integration.provider_conformance import INVERSE
from tests.integration.wire import outcome, picture, send, served, stored
from tests.servers.modal import ModalPlatform

CANARY = f"Erika-Mustermann-{uuid4().hex}"
WINDOW = 24  # bytes in a row that no other file has by chance


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalPlatform]:
    with ModalPlatform(tmp_path_factory.mktemp("modal")) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            patch.setenv(name, value)
        made.deploy("deploy.modal.app", SAFELIGHT_MODAL_GPUS="")
        yield made


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
def spans() -> Iterator[InMemorySpanExporter]:
    """Every span of this process."""
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    yield exporter
    processor.shutdown()


def signed() -> bytes:
    """A photo whose metadata name a person."""
    image = pyvips.Image.new_from_buffer(picture(width=200), "").copy()
    image.set_type(pyvips.GValue.gstr_type, "exif-ifd0-ImageDescription", CANARY)
    data = bytes(image.write_to_buffer(".jpg", keep="exif"))
    assert CANARY.encode() in data
    return data


def needles(data: bytes) -> list[bytes]:
    """Pieces of the middle of a file, where no format's fixed words are."""
    return [data[at : at + WINDOW] for at in range(len(data) // 4, len(data) - WINDOW, max(1, len(data) // 40))]


async def everything(engine: AsyncEngine, nc: Client, modal: ModalPlatform, since: dict[str, int]) -> dict[str, bytes]:
    """What each store holds, by name; of the broker what came `since`, by stream."""
    found = {f"modal {number} {name}": data for number, (name, data) in enumerate(modal.stored())}
    async with engine.connect() as conn:
        for table in METADATA.sorted_tables:
            rows = await conn.execute(text(f"SELECT row_to_json(t)::text FROM {table.fullname} t"))
            found[f"table {table.name}"] = "\n".join(row[0] for row in rows).encode()
    for stream, first in since.items():
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first
        )
        reader = await nc.jetstream().pull_subscribe("", stream=stream, config=config)
        left = (await nc.jetstream().stream_info(stream)).state.last_seq - first + 1
        while left > 0:
            for one in await reader.fetch(min(left, 500), timeout=5):
                found[f"broker {stream} {one.metadata.sequence.stream}"] = str(one.headers).encode() + one.data
                left -= 1
        await reader.unsubscribe()
    return found


async def ends_of_streams(nc: Client) -> dict[str, int]:
    """The next place in each stream that keeps what was read."""
    js = nc.jetstream()
    return {stream: (await js.stream_info(stream)).state.last_seq + 1 for stream in ("EVENTS", "DEAD")}


async def test_no_store_but_the_bucket_holds_a_byte_of_the_input_or_of_the_output(
    platform: ModalPlatform,
    objects: Objects,
    engine: AsyncEngine,
    nc: Client,
    settings_of: SettingsOf,
    spans: InMemorySpanExporter,
    capfd: pytest.CaptureFixture[str],
) -> None:
    image, broken = signed(), (CANARY * 50).encode()
    lut = await stored(objects, INVERSE.encode(), "application/x-cube-lut")
    desk = Desk(engine, nc, objects, await stored(objects, image, "image/jpeg"), lut)
    await desk.clean()
    since = await ends_of_streams(nc)
    bad = {"image": await stored(objects, broken, "image/jpeg"), "lut": lut}
    async with served(build(settings_of(Settings, "gpu-bridge", modal_app="safelight-gpu"))):
        good: RunPhase = desk.given()
        done = await outcome(nc, await send(nc, RUN_STYLE, good), 60)
        failed = await outcome(nc, await send(nc, RUN_STYLE, desk.given(inputs=bad)), 60)
        lost = desk.given()
        platform.faults.ends = ["oom"]
        killed = await outcome(nc, await send(nc, RUN_STYLE, lost), 60)
    assert (done.subject, failed.body["code"]) == ("evt.phase.v1.succeeded", "IMAGE_CORRUPT")
    assert killed.body["code"] == "CALL_KILLED"
    assert (await desk.call(good)).provider == "modal"
    made = await objects.get(done.body["artifacts"][0]["key"])

    kept = await everything(engine, nc, platform, since)
    kept["spans"] = "\n".join(span.to_json() for span in spans.get_finished_spans()).encode()
    kept["log"] = "".join(capfd.readouterr()).encode()
    assert any(name.startswith("modal") for name in kept)
    assert any(name.startswith("broker") for name in kept)
    assert b"call style.apply" in kept["spans"]
    assert b"gpu.engine" in kept["spans"]  # they came home
    assert b"style.apply" in kept["table calls"]
    sought = [CANARY.encode(), *needles(image), *needles(broken), *needles(made)]
    sought += [json.dumps(CANARY).encode()]
    leaks = [(name, needle) for name, data in kept.items() for needle in sought if needle in data]
    assert leaks == []
    secrets = [name for name, data in kept.items() if not name.startswith("modal") and b"X-Amz-Signature" in data]
    assert secrets == []  # links are for the provider only
    await desk.clean()


async def test_a_sealed_call_s_key_is_in_the_call_and_nowhere_else(
    platform: ModalPlatform, objects: Objects, engine: AsyncEngine, nc: Client, settings_of: SettingsOf
) -> None:
    """The deployed app opens and seals in memory; what the platform keeps of it are a key, and links that die."""
    key_id = str(uuid4())
    await objects.vault.make(key_id, "demo")
    with sealing(key_id):
        image = (await stored(objects, signed(), "image/jpeg")).model_copy(update={"sealed": key_id})
    lut = await stored(objects, INVERSE.encode(), "application/x-cube-lut")
    desk = Desk(engine, nc, objects, image, lut)
    await desk.clean()
    since = await ends_of_streams(nc)
    async with served(build(settings_of(Settings, "gpu-bridge", modal_app="safelight-gpu"))):
        given = desk.given(inputs={"original": image, "image": image, "lut": lut})
        done = await outcome(nc, await send(nc, RUN_STYLE, given), 60)
    assert done.subject == "evt.phase.v1.succeeded"
    assert (await desk.call(given)).provider == "modal"
    [artifact] = done.body["artifacts"]
    assert artifact["sealed"] == key_id
    assert is_sealed(await objects.get_as_it_lies(artifact["key"]))
    assert len(await objects.get_checked(artifact["key"], artifact["sha256"])) == artifact["size"]

    key = await objects.vault.open(key_id)
    kept = await everything(engine, nc, platform, since)
    kept["bucket"] = await objects.get_as_it_lies(f"keys/{key_id}")
    holders = {name.split()[0] for name, data in kept.items() if key in data or b64encode(key) in data}
    assert holders == {"modal"}
    await desk.clean()
