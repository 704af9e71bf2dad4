"""A style whose LUTs a network weighs: learnt by its pipeline, kept as a version, applied on a CPU and on a GPU.

Torch takes the CPU where there is no card. Mosaics are edited otherwise than fog, which no one LUT can follow.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import onnx
import PyOpenColorIO
import pytest
from PIL import Image

from gpu_bridge.app import build
from gpu_bridge.settings import Settings
from gpu_functions.style import bundle
from runtime.objects import Objects
from runtime.settings import S3Settings
from tests.integration import small_course
from tests.integration.conftest import SettingsOf, until
from tests.integration.provider_conformance import INVERSE
from tests.integration.rooms import Rooms, opened
from tests.integration.test_local_provider import driver
from tests.integration.wire import served
from tests.pixels.gpu_functions.pictures import encode
from tests.pixels.gpu_functions.style.archives import archive, paired
from tests.pixels.gpu_functions.style.test_network import edited, scene
from tests.servers.models import NatsServer

NAME = "two-minds"
PAIRS = 30
UNSEEN = (101, 100)  # a mosaic and fog that were not among the pairs
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # what an image without it finds
from gpu_functions.style.apply import CubeLut
style, photo, target = sys.argv[1:]
outputs, _ = CubeLut().run({"image": open(photo, "rb").read(), "lut": open(style, "rb").read()}, {})
open(target, "wb").write(outputs["image"].data)
"""


def graded(provider: str) -> str:
    """A pipeline that does nothing to a photo but to grade it there."""
    return f"""\
name: graded-on-{provider}
version: 1
accepts: [image/png]
deadline_s: 600
phases:
  analyze: {{command: analyze, deadline_s: 60}}
  style: {{command: style, deadline_s: 120, needs: [analyze], attachments: [lut], providers: [{provider}]}}
"""


@dataclass
class House:
    rooms: Rooms
    objects: Objects

    async def made(self, job: dict[str, Any], phase: str, name: str) -> bytes:
        """What a phase of a job made."""
        answer = await self.rooms.output.get(f"/v1/jobs/{job['id']}/artifacts/{phase}.{name}", follow_redirects=True)
        assert answer.status_code == 200, answer.text
        return answer.content

    async def part(self, reference: str, part: str) -> bytes:
        """A part of a style, by its link."""
        link = await self.rooms.ingest.get(f"/v1/styles/{reference}/{part}", params={"redirect": "false"})
        async with httpx.AsyncClient() as stranger:
            return (await stranger.get(link.json()["url"])).content

    async def ended(self, path: str, content: bytes) -> dict[str, Any]:
        """The job of a style that is made of this file."""
        answer = await self.rooms.ingest.post(path, data={"name": NAME}, files={"file": ("f", content)})
        return await self.rooms.ended(answer)

    async def version(self, reference: str) -> dict[str, Any]:
        """A version of the style, as soon as it is there: it is registered once its job has ended."""

        async def there() -> dict[str, Any] | None:
            answer = await self.rooms.ingest.get(f"/v1/styles/{reference}")
            return answer.json()["versions"][0] if answer.status_code == 200 else None

        found: dict[str, Any] = await until(there)
        return found


@pytest.fixture(scope="module")
async def house(
    prepared: object, settings_of: SettingsOf, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("pipelines")
    for provider in ("local", "box"):
        (folder / f"{provider}.yaml").write_text(graded(provider))
    objects = Objects(settings_of(S3Settings, "setup"))
    with small_course.worker(), driver(tmp_path_factory.mktemp("driver"), "echo NVIDIA L4"):
        async with (
            opened(settings_of, nats_server, folder) as rooms,
            served(build(settings_of(Settings, "gpu-bridge", local_workers=1, box=True))),
        ):
            yield House(rooms, objects)
    objects.close()


@pytest.fixture(scope="module")
async def learnt(house: House) -> dict[str, Any]:
    """The second version of a style: the first is a look from another tool."""
    imported = await house.ended("/v1/styles/import", INVERSE.encode())
    assert imported["status"] == "succeeded", imported
    assert (await house.version(f"{NAME}@1"))["kind"] == "imported"
    edits = iter(range(PAIRS))
    pairs = archive(paired([scene(seed) for seed in range(PAIRS)], lambda before: edited(before, next(edits))))
    trained = await house.ended("/v1/styles", pairs)
    assert trained["status"] == "succeeded", trained
    return await house.version(f"{NAME}@2")


async def test_a_large_set_is_taught_to_a_network_by_its_pipeline(house: House, learnt: dict[str, Any]) -> None:
    assert (learnt["version"], learnt["kind"], learnt["engine"]) == (2, "learnt", "pairs-lut-torch@2")
    facts = learnt["facts"]
    assert facts["kind"] == "network"
    assert facts["psnr"] > facts["psnr_histogram"] + 6
    ways = json.loads(await house.part(f"{NAME}@2", "report"))["metrics"]["ways"]
    assert ways["network"] >= max(ways[name] for name in ("closed", "stiff", "free")) + 3, "it has earned it"
    style = bundle.read(await house.part(f"{NAME}@2", "style"))
    assert len(style.bases) == 3
    assert style.predictor is not None
    onnx.checker.check_model(onnx.load_from_string(style.predictor), full_check=True)
    assert Image.open(io.BytesIO(await house.part(f"{NAME}@2", "preview"))).format == "JPEG"


async def test_it_grades_what_it_has_not_seen_on_a_cpu_without_torch_as_on_a_gpu(
    house: House, learnt: dict[str, Any], tmp_path: Path
) -> None:
    engines = {"local": "cube-lut@3", "box": "tensor-lut@1"}
    before = {seed: scene(seed) for seed in UNSEEN}
    graded_ = {
        (seed, provider): await _graded(house, provider, encode(photo), engine)
        for seed, photo in before.items()
        for provider, engine in engines.items()
    }
    for seed, photo in before.items():
        wanted = edited(photo, seed)
        cpu, gpu = (_pixels(graded_[seed, provider]) for provider in engines)
        assert np.abs(cpu - gpu).max() <= 1, "half a code may be rounded to either side"
        assert _psnr(cpu, wanted) > _psnr(photo, wanted) + 6, "nearer to the edit than the photo was"
        assert _psnr(cpu, wanted) > _psnr(cpu, edited(photo, seed + 1)) + 6, "and of the two edits it is this kind's"

    files = [tmp_path / name for name in ("style", "photo", "alone")]
    files[0].write_bytes(await house.part(f"{NAME}@2", "style"))
    files[1].write_bytes(encode(before[UNSEEN[0]]))
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", WITHOUT_TORCH, *map(str, files))
    assert await child.wait() == 0
    assert files[2].read_bytes() == graded_[UNSEEN[0], "local"]


async def test_its_cube_is_one_look_that_another_tool_reads(
    house: House, learnt: dict[str, Any], tmp_path: Path
) -> None:
    """By OpenColorIO's own reader. It is the mean of what the pairs' photos are given: between the two edits."""
    target = tmp_path / "style.cube"
    target.write_bytes(await house.part(f"{NAME}@2", "cube"))
    assert b"LUT_3D_SIZE 33" in target.read_bytes()
    read = PyOpenColorIO.FileTransform(str(target), interpolation=PyOpenColorIO.INTERP_TETRAHEDRAL)
    processor = PyOpenColorIO.Config.CreateRaw().getProcessor(read).getDefaultCPUProcessor()
    for seed in UNSEEN:
        pixels = (scene(seed) / np.float32(255)).astype(np.float32)
        processor.applyRGB(pixels)
        assert _psnr(pixels * 255, edited(scene(seed), seed)) > _psnr(scene(seed), edited(scene(seed), seed)) + 3


async def _graded(house: House, provider: str, photo: bytes, engine: str) -> bytes:
    reference = f"{NAME}@2" if provider == "local" else NAME  # the newest is the same
    job = await house.rooms.ended(
        await house.rooms.upload(photo, pipeline=f"graded-on-{provider}", style=reference, lane="interactive")
    )
    assert job["status"] == "succeeded", job
    assert job["options"]["style"] == f"{NAME}@2"
    [phase] = [phase for phase in job["phases"] if phase["name"] == "style"]
    assert (phase["engine"], phase["degraded"]) == (engine, provider == "local")
    return await house.made(job, "style", "image.png")


def _pixels(content: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int16)


def _psnr(found: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    return float(10 * np.log10(255**2 / np.mean((found.astype(float) - truth) ** 2)))
