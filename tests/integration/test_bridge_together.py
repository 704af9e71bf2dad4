"""Photos with the same style travel in one call, and go through the engine of a GPU together: on Modal, and on a box.

Torch takes the CPU where there is no card. What each provider is given, and how, is as in production.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from nats.aio.client import Client
from pydantic import SecretStr

from contracts.envelope import Result
from contracts.phases import RUN_STYLE, RunPhase
from gpu_bridge import terms
from gpu_bridge.app import build
from gpu_bridge.call import idempotency_key
from gpu_bridge.catalog import function_named
from gpu_bridge.providers import modal as ours
from gpu_bridge.settings import Settings
from gpu_functions.style.tensor import TensorLut
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf
from tests.integration.provider_conformance import INVERSE
from tests.integration.test_local_provider import driver
from tests.integration.wire import Site, command, outcome, picture, send, served, stored
from tests.servers.modal import ModalPlatform

OPS = "ops-key-0123456789"
STYLE = function_named("style.apply")
WIDTHS = (64, 80, 96)  # of the photos that can be read
OTHER = INVERSE.replace("LUT_3D_SIZE", "# another look\nLUT_3D_SIZE")


def patient(folder: Path) -> Path:
    """The terms as shipped, but that who travels together is waited for however busy the machine is."""
    text = terms.DEFAULT.read_text()
    shipped = terms.read().limits
    for name in ("modal", "box"):
        assert shipped[name].batch == 4
        waits = f"batch_wait_s = {shipped[name].batch_wait_s:g}"
        assert waits in text
        text = text.replace(waits, "batch_wait_s = 5")
    found = folder / "terms.toml"
    found.write_text(text)
    return found


@pytest.fixture(scope="module", params=["modal", "box"])
def provider(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A GPU, as far as anybody but torch can see."""
    if request.param == "box":
        with driver(tmp_path_factory.mktemp("driver"), "echo NVIDIA L4"):
            yield "box"
        return
    with pytest.MonkeyPatch.context() as patch, ModalPlatform(tmp_path_factory.mktemp("modal")) as platform:
        for name, value in ours.SETTINGS.items():
            patch.setenv(f"MODAL_{name.upper()}", value)
        for name, value in platform.environment().items():
            patch.setenv(name, value)
        platform.deploy("deploy.modal.app", SAFELIGHT_MODAL_GPUS="L4")
        yield "modal"


@pytest.fixture(scope="module")
def settings(
    provider: str, prepared: object, settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    found: Settings = settings_of(
        Settings,
        "gpu-bridge",
        modal_app="safelight-gpu" if provider == "modal" else None,
        box=provider == "box",
        operator_keys=SecretStr(f"ada:{OPS}"),
        gpu_terms=patient(tmp_path_factory.mktemp("terms")),
        local_workers=1,
    )
    return found


@pytest.fixture(scope="module")
async def site(settings: Settings) -> AsyncIterator[Site]:
    async with served(build(settings)) as made:
        yield made


async def test_photos_of_one_style_are_one_call_and_each_ends_for_itself(
    site: Site, provider: str, settings: Settings, nc: Client
) -> None:
    objects = Objects(settings)
    lut = await stored(objects, INVERSE.encode(), "application/x-cube-lut")
    other = await stored(objects, OTHER.encode(), "application/x-cube-lut")
    photos = [picture(width=width) for width in WIDTHS] + [b"\xff\xd8\xff no photo"]

    async def asked(photo: bytes, look: object) -> RunPhase:
        image = await stored(objects, photo, "image/jpeg")
        given = command("style", inputs={"image": image, "lut": look}, strength=0.75, providers=[provider])
        return await send(nc, RUN_STYLE, given)

    apart = await asked(photos[0], other)
    together = [await asked(photo, lut) for photo in photos]

    ends = [await outcome(nc, given, 60) for given in together]
    assert [end.subject.rsplit(".")[-1] for end in ends] == ["succeeded", "succeeded", "succeeded", "failed"]
    assert ends[-1].body["code"] == "IMAGE_CORRUPT"
    for photo, end in zip(photos, ends[:-1], strict=False):
        assert (end.body["engine"], end.body["degraded"]) == ("tensor-lut@1", False)
        [artifact] = end.body["artifacts"]
        outputs, facts = TensorLut().run({"image": photo, "lut": INVERSE.encode()}, {"strength": 0.75})
        assert await objects.get(artifact["key"]) == outputs["image"].data, "bit for bit what it gives alone"
        assert end.body["facts"] == facts
    await outcome(nc, apart, 60)

    results = [await result(objects, given) for given in together]
    calls = [next(span for span in one.spans if span.name == "gpu.call") for one in results]
    assert len({one.owner for one in results}) == 1, "one call"
    assert {span.attributes["items"] for span in calls} == {4}
    assert (await result(objects, apart)).owner not in {one.owner for one in results}, "another look, another call"
    engines = [span for one in results for span in one.spans if span.name == "gpu.engine"]
    assert max(span.start_ns for span in engines) < min(span.end_ns for span in engines), "all at once in the engine"

    usages = [one.usage for one in results]
    lasted = max(u.ended_at for u in usages) - min(u.started_at for u in usages)
    shares = [u.run_s or 0.0 for u in usages]
    assert 0 < sum(shares) <= lasted.total_seconds() + 0.01, "what is billed together is the time of the call"
    async with httpx.AsyncClient(base_url=site.url, headers={"Authorization": f"Bearer {OPS}"}) as http:
        lines = (await http.get("/v1/providers/costs", params={"days": 1})).json()["lines"]
    [line] = [line for line in lines if (line["function"], line["provider"]) == ("style.apply", provider)]
    own = (await result(objects, apart)).usage.run_s or 0.0
    assert (line["epochs"], line["failed"]) == (5, 1)
    assert line["run_s"] == pytest.approx(
        sum(shares) + own, abs=0.25
    )  # of a call alone its answer tells, with its ends
    objects.close()


async def result(objects: Objects, given: RunPhase) -> Result:
    """The result object of a command's only epoch."""
    key = idempotency_key(given, STYLE)
    return Result.model_validate_json(await objects.get(f"calls/{given.tenant}/{key}/1/result.json"))
