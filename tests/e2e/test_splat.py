"""A photo becomes a scene through every process, and the file at the end is one that viewers read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from plyfile import PlyData

from tests.e2e.conftest import Stack, phase, phases


@pytest.fixture(scope="session")
async def scene(stack: Stack, samples: dict[str, Path]) -> dict[str, Any]:
    """A portrait through the pipeline `splat`, on a machine without a GPU."""
    return await stack.ended(await stack.upload(samples["astronaut.jpg"], pipeline="splat"))


async def test_without_a_gpu_the_scene_is_a_preview_and_says_so(scene: dict[str, Any]) -> None:
    assert scene["status"] == "succeeded", scene
    assert phases(scene) == {"analyze": "succeeded", "splat": "succeeded"}
    made = phase(scene, "splat")
    assert (made["engine"], made["degraded"], scene["degraded"]) == ("relief@1", True, True)
    assert made["facts"]["preview"] is True
    assert "not SHARP" in made["facts"]["note"]


async def test_the_scene_is_a_file_that_an_independent_reader_reads(
    stack: Stack, scene: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "splat.ply"
    file.write_bytes(await stack.artifact(scene, "splat.splat.ply"))
    vertices = PlyData.read(file)["vertex"]
    assert vertices.count == phase(scene, "splat")["facts"]["gaussians"] == 512 * 512
    assert len(vertices.properties) == 14
    assert all(np.isfinite(vertices[one.name]).all() for one in vertices.properties)


async def test_the_turntable_is_the_photo_that_moves(
    stack: Stack, scene: dict[str, Any], samples: dict[str, Path]
) -> None:
    moving: Any = Image.open(io.BytesIO(await stack.artifact(scene, "splat.turntable.webp")))
    assert (moving.format, moving.size, moving.n_frames) == ("WEBP", (480, 480), 24)
    photo = np.asarray(Image.open(samples["astronaut.jpg"]).convert("RGB").resize((480, 480)), float)
    first = np.asarray(moving.convert("RGB"), float)
    moving.seek(6)
    aside = np.asarray(moving.convert("RGB"), float)
    assert np.abs(first - photo).mean() < 8
    assert np.abs(aside - photo).mean() > 1.5 * np.abs(first - photo).mean()
