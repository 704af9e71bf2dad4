"""The .ply says what the scene is, to a reader that does not know our code."""

from __future__ import annotations

import io

import numpy as np
import pytest
from plyfile import PlyData

from contracts.errors import SafelightError
from gpu_functions.splat.scene import Scene, ply, sound
from tests.pixels.gpu_functions.splat import viewer

NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
NAMES += ["rot_0", "rot_1", "rot_2", "rot_3"]


def any_scene(count: int = 1000, seed: int = 5) -> Scene:
    """Gaussians in front of the camera, of all shapes, turns and colours."""
    chance = np.random.default_rng(seed)
    positions = chance.uniform((-1, -1, 2), (1, 1, 4), (count, 3))
    return sound(
        Scene(
            positions=np.asarray(positions, np.float32),
            scales=np.asarray(chance.uniform(0.001, 0.2, (count, 3)), np.float32),
            rotations=np.asarray(chance.normal(size=(count, 4)), np.float32),
            colours=np.asarray(chance.uniform(size=(count, 3)), np.float32),
            opacities=np.asarray(chance.uniform(0.01, 0.99, count), np.float32),
        )
    )


def test_an_independent_reader_finds_the_scene_in_the_file() -> None:
    scene = any_scene()
    found = viewer.read(ply(scene).data)
    np.testing.assert_allclose(found.positions, scene.positions, rtol=1e-6)
    np.testing.assert_allclose(found.scales, scene.scales, rtol=1e-5)
    np.testing.assert_allclose(found.rotations, scene.rotations, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.rotations, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.colours, scene.colours, atol=1e-6)
    np.testing.assert_allclose(found.opacities, scene.opacities, atol=1e-6)


def test_the_file_holds_fourteen_floats_a_vertex_and_nothing_else() -> None:
    data = ply(any_scene(7)).data
    parsed = PlyData.read(io.BytesIO(data))
    assert (parsed.text, parsed.byte_order, parsed.comments) == (False, "<", [])
    assert [(element.name, element.count) for element in parsed.elements] == [("vertex", 7)]
    assert [(one.name, one.val_dtype) for one in parsed["vertex"].properties] == [(name, "f4") for name in NAMES]
    assert len(data) == data.index(b"end_header\n") + len(b"end_header\n") + 7 * 56


def test_every_colour_of_eight_bits_comes_back() -> None:
    levels = np.repeat(np.arange(256, dtype=np.float32)[:, None] / np.float32(255), 3, axis=1)
    scene = any_scene(256)
    shown = viewer.read(ply(Scene(scene.positions, scene.scales, scene.rotations, levels, scene.opacities)).data)
    assert (np.rint(shown.colours * 255) == levels * 255).all()


def test_what_cannot_be_encoded_is_brought_to_the_nearest_that_can() -> None:
    scene = any_scene(2)
    opacities, colours = np.array([0, 1], np.float32), np.array([[-1, 0, 2]] * 2, np.float32)
    scales = np.full((2, 3), 1e-30, np.float32)
    found = viewer.read(ply(Scene(scene.positions, scales, scene.rotations, colours, opacities)).data)
    np.testing.assert_allclose(found.opacities, [1e-4, 1 - 1e-4], rtol=1e-3)
    np.testing.assert_allclose(found.colours, [[0, 0, 1]] * 2, atol=1e-6)
    assert np.isfinite(found.scales).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("positions", np.nan, id="nowhere"),
        pytest.param("positions", -1.0, id="behind the camera"),
        pytest.param("scales", 0.0, id="of no size"),
        pytest.param("scales", np.inf, id="of all sizes"),
        pytest.param("rotations", 0.0, id="turned by no quaternion"),
        pytest.param("colours", np.nan, id="of no colour"),
        pytest.param("opacities", np.nan, id="of no opacity"),
    ],
)
def test_gaussians_that_mean_nothing_are_left_out_and_a_scene_of_them_is_refused(field: str, value: float) -> None:
    def broken(share: float) -> Scene:
        scene = any_scene(100)
        getattr(scene, field)[: int(100 * share)] = value
        return scene

    kept = sound(broken(0.2))
    assert len(kept) == 80
    assert all(np.isfinite(array).all() for array in (kept.positions, kept.scales, kept.rotations, kept.colours))
    with pytest.raises(SafelightError) as refused:
        sound(broken(0.6))
    assert refused.value.code == "SPLAT_IMPOSSIBLE"


def test_a_scene_of_nothing_is_refused() -> None:
    with pytest.raises(SafelightError, match="SPLAT_IMPOSSIBLE"):
        sound(any_scene(1).where(np.array([False])))
