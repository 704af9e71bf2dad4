"""The small renderer agrees with the definition, and with what a pinhole camera sees."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpu_functions.splat.render import LOW_PASS, Pose, affordable, covariances, projected, render
from gpu_functions.splat.scene import Floats, Scene, ply, sound
from tests.pixels.gpu_functions.splat import viewer
from tests.pixels.gpu_functions.splat.test_scene import any_scene

FOCAL, SIDE, PIVOT = 100.0, 96, 3.0


def dots(positions: list[tuple[float, float, float]], colours: list[tuple[float, float, float]]) -> Scene:
    """Small opaque balls."""
    count = len(positions)
    return sound(
        Scene(
            positions=np.array(positions, np.float32),
            scales=np.full((count, 3), 0.05, np.float32),
            rotations=np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1)),
            colours=np.array(colours, np.float32),
            opacities=np.full(count, 0.99, np.float32),
        )
    )


def seen(scene: Scene, degrees: float = 0.0) -> Floats:
    return render(scene, covariances(scene), Pose(PIVOT, math.radians(degrees)), FOCAL, SIDE, SIDE).colours


def middle(frame: Floats, band: int) -> tuple[float, float]:
    """Where a colour is, in pixels from the centre of the picture."""
    rows, columns = np.nonzero(frame[..., band] > 0.5)
    return float(columns.mean() + 0.5 - SIDE / 2), float(rows.mean() + 0.5 - SIDE / 2)


def test_covariances_are_those_of_the_turned_axes() -> None:
    scene = any_scene(50)
    half = Rotation.from_quat(scene.rotations, scalar_first=True).as_matrix() * scene.scales[:, None, :]
    whole = half @ half.transpose(0, 2, 1)
    wanted = [whole[:, i, j] for i in range(3) for j in range(i, 3)]
    np.testing.assert_allclose(covariances(scene), wanted, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("degrees", [0.0, -8.0], ids=["from the front", "from beside"])
def test_a_gaussian_has_the_shape_on_the_picture_that_it_has_in_a_viewer(degrees: float) -> None:
    scene, pose = any_scene(200), Pose(PIVOT, math.radians(degrees))
    x, y, z = pose.seen(scene.positions).T
    a, b, c = projected(x / z, y / z, FOCAL / z, covariances(scene), pose.rotation())

    splats, turn = viewer.read(ply(scene).data), Rotation.from_euler("y", degrees, degrees=True)
    centre = np.array([0, 0, PIVOT])
    splats.positions = turn.apply(splats.positions - centre) + centre
    splats.rotations = (turn * Rotation.from_quat(splats.rotations, scalar_first=True)).as_quat(scalar_first=True)
    wanted = viewer.footprints(splats, FOCAL) + LOW_PASS * np.eye(2)
    np.testing.assert_allclose(np.array([[a, b], [b, c]]).transpose(2, 0, 1), wanted, rtol=2e-3, atol=2e-3)


def test_what_is_in_front_hides_what_is_behind() -> None:
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    for depths, wanted in (((2.0, 4.0), red), ((4.0, 2.0), blue)):
        frame = seen(dots([(0.0, 0.0, z) for z in depths], [red, blue]))
        np.testing.assert_allclose(frame[SIDE // 2, SIDE // 2], wanted, atol=0.01)


def test_the_camera_goes_around_the_pivot_as_a_pinhole_camera_does() -> None:
    places = [(0.2, -0.3, 2.0), (-0.4, 0.2, PIVOT), (0.3, 0.5, 5.0)]
    frame = seen(dots(places, [(1, 0, 0), (0, 1, 0), (0, 0, 1)]), degrees=6.0)
    turn = Rotation.from_euler("y", 6.0, degrees=True).as_matrix()
    for band, place in enumerate(places):
        x, y, z = turn @ (np.array(place) - [0, 0, PIVOT]) + [0, 0, PIVOT]
        assert middle(frame, band) == pytest.approx((FOCAL * x / z, FOCAL * y / z), abs=0.5)


def test_what_is_nearer_to_the_camera_than_the_pivot_moves_more_the_nearer_it_is() -> None:
    scene = dots([(0, -0.8, 3.0), (0, 0.0, 2.4), (0, 0.5, 1.6)], [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    left, right = seen(scene, -5.0), seen(scene, 5.0)
    moved = [middle(right, band)[0] - middle(left, band)[0] for band in range(3)]
    assert abs(moved[0]) < 0.5, "the pivot stands still"
    assert moved[1] < -3
    assert moved[2] < 2 * moved[1], "against the camera's way, and further"


def test_the_same_scene_gives_the_same_pixels() -> None:
    scene = any_scene(500)
    assert (seen(scene, 3.0) == seen(scene, 3.0)).all()


def test_a_scene_of_giants_takes_no_more_memory_than_any_other() -> None:
    assert affordable(np.full(1_200_000, 12, np.float32)) == 2, "25 pixels each are 30 million"
    assert affordable(np.full(100, 12, np.float32)) == 12
    assert affordable(np.full(10_000_000, 3, np.float32)) == 1, "each is seen, whatever there is"


def test_what_is_behind_the_camera_or_beside_the_picture_is_not_seen() -> None:
    white = (1.0, 1.0, 1.0)
    frame = seen(dots([(0, 0, 0.001), (50, 0, 3), (0, -50, 3), (4.0, 4.0, 3.0)], [white] * 4))
    assert not frame[8:-8, 8:-8].any()
