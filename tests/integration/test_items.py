"""A phase that runs once per item: each item's outcome and artifacts are its own, in every room that works on phases.

The bridge's are proved with its calls, in `test_gpu_bridge.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nats.aio.client import Client

import ingest.handlers
import output.handlers
from contracts.phases import PhaseFailed, PhaseSucceeded
from ingest.settings import Settings
from runtime.objects import Objects
from runtime.sandbox import Sandbox
from tests.integration.conftest import PhasesOf, SettingsOf
from tests.integration.wire import command, gone, outcome, picture, sha256, stored

ITEMS = [None, "p-1", "p-2"]


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "ingest"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(workers=1, memory_bytes=4 * 2**30)
    yield made
    made.close()


async def test_a_rendered_item_has_a_place_and_an_outcome_of_its_own(
    nc: Client, objects: Objects, sandbox: Sandbox, phases_of: PhasesOf
) -> None:
    handlers = output.handlers.Handlers(phases_of("output", objects), objects, sandbox)
    image = await stored(objects, picture(), "image/jpeg")
    first = command("crop", inputs={"image": image, "original": image}, aspect="4:5", faces=[])
    for item in ITEMS:
        given = first.model_copy(update={"item": item})
        await handlers.answer("crop", given)
        done = PhaseSucceeded.model_validate((await outcome(nc, given)).body)
        assert (done.key, done.item) == (given.key, item)
        [artifact] = done.artifacts
        place = f"crop/{item}/1" if item else "crop/1"
        assert artifact.key == f"jobs/{given.job_id}/{place}/{artifact.name}"
        assert sha256(await objects.get(artifact.key)) == artifact.sha256


async def test_an_analysed_item_has_an_outcome_of_its_own(
    nc: Client, objects: Objects, sandbox: Sandbox, phases_of: PhasesOf
) -> None:
    handlers = ingest.handlers.Handlers(phases_of("ingest", objects), objects, sandbox)
    original = await stored(objects, picture(), "image/jpeg")
    first = command("analyze", inputs={"original": original})
    for item in ITEMS:
        given = first.model_copy(update={"item": item})
        await handlers.analyze(given)
        done = PhaseSucceeded.model_validate((await outcome(nc, given)).body)
        assert (done.key, done.item) == (given.key, item)


async def test_an_item_that_fails_says_which_it_is(
    nc: Client, objects: Objects, sandbox: Sandbox, phases_of: PhasesOf
) -> None:
    inputs = {"image": gone(), "original": gone()}
    rendered, analysed = (
        command(phase, inputs=inputs).model_copy(update={"item": "p-1"}) for phase in ("crop", "analyze")
    )
    await output.handlers.Handlers(phases_of("output", objects), objects, sandbox).answer("crop", rendered)
    await ingest.handlers.Handlers(phases_of("ingest", objects), objects, sandbox).analyze(analysed)
    for given in (rendered, analysed):
        failed = PhaseFailed.model_validate((await outcome(nc, given)).body)
        assert (failed.key, failed.item, failed.code) == (given.key, "p-1", "OBJECT_MISSING")
