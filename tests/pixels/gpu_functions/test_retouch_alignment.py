"""A face is brought into the square of a network and what was changed there comes back to its pixels alone."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gpu_functions.faces import alignment
from gpu_functions.faces.alignment import SIDE, Aligned
from gpu_functions.faces.facemesh import FaceMesh
from gpu_functions.faces.reported import Around, Face
from tests.pixels.gpu_functions.pictures import deepen, psnr

PART = (slice(0, 230), slice(110, 340))  # of the astronaut: head and shoulders
BOX = (0.257, 0.267, 0.49, 0.557)  # the face in it


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


@pytest.fixture(scope="module")
def portrait(astronaut: Any) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(astronaut[PART])


def aligned(pixels: npt.NDArray[Any], mesh: FaceMesh, face: Face | None = None) -> Aligned:
    around = (face or Face(box=BOX)).around(pixels.shape[1], pixels.shape[0], 40)
    assert isinstance(around, Around)
    found = alignment.align(pixels, around, mesh)
    assert isinstance(found, Aligned)
    return found


def enlarged(pixels: npt.NDArray[Any], times: float) -> npt.NDArray[Any]:
    return np.asarray(
        cv2.resize(pixels, None, fx=times, fy=times, interpolation=cv2.INTER_AREA if times < 1 else cv2.INTER_CUBIC)
    )


def given_back(pixels: npt.NDArray[Any], face: Aligned, restored: npt.NDArray[Any]) -> tuple[Any, Any]:
    result, written = pixels.copy(), np.zeros(pixels.shape[:2], bool)
    alignment.paste(result, written, pixels, face, alignment.change(face, restored))
    assert (result[~written] == pixels[~written]).all()
    return result, written


def test_a_known_similarity_is_found_again() -> None:
    truth = np.array([[0.8, -0.6, 30.0], [0.6, 0.8, -7.0]]) * [[1.7], [1.7]]
    points = np.random.default_rng(1).uniform(0, 500, (5, 2))
    assert alignment.similarity(points, points @ truth[:, :2].T + truth[:, 2]) == pytest.approx(truth)


def test_eyes_nose_and_mouth_come_to_lie_where_the_networks_learnt_them(portrait: Any, mesh: FaceMesh) -> None:
    square = np.rint(aligned(portrait, mesh).square * 255).astype(np.uint8)
    again = mesh.points(square, (110, 130, 290, 340), 0.0)
    assert again is not None
    off = np.linalg.norm(alignment.five(again) - alignment.TEMPLATE, axis=1)
    assert off.max() < 20  # of 512 pixels: nobody's face is the mean face
    assert np.abs((alignment.five(again) - alignment.TEMPLATE).mean(axis=0)).max() < 4


@pytest.mark.parametrize("turns", [1, 3], ids=["lying on the left", "lying on the right"])
def test_a_lying_face_stands_in_its_square(portrait: Any, mesh: FaceMesh, turns: int) -> None:
    eyes = np.array([[0.408, 0.494], [0.589, 0.494]])
    corners = np.array([[BOX[0], BOX[1]], [BOX[0] + BOX[2], BOX[1] + BOX[3]]])
    for _ in range(turns):  # np.rot90 turns to the left: (x, y) -> (y, 1 - x)
        eyes, corners = (np.column_stack([p[:, 1], 1 - p[:, 0]]) for p in (eyes, corners))
    low, high = corners.min(axis=0), corners.max(axis=0)
    lying = Face(box=(*low, *(high - low)), landmarks=[tuple(p) for p in eyes])
    turned = aligned(np.ascontiguousarray(np.rot90(portrait, turns)), mesh, lying)
    upright = aligned(portrait, mesh)
    inside = np.repeat(upright.mask[..., None] > 0.5, 3, axis=2)
    assert np.abs(turned.square - upright.square)[inside].mean() < 0.03


@pytest.mark.parametrize("times", [1, 5], ids=["a small face", "a large face"])
@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
def test_a_network_that_changes_nothing_changes_no_bit(portrait: Any, mesh: FaceMesh, deep: bool, times: int) -> None:
    pixels = enlarged(deepen(portrait) if deep else portrait, times)
    face = aligned(pixels, mesh)
    assert (face.shrunk < 0.5) == (times == 1)
    result, written = given_back(pixels, face, face.square)
    assert (result == pixels).all()
    assert 0.1 < written.mean() < 0.4


@pytest.mark.parametrize("times", [0.6, 1, 3, 6], ids=["a fifth", "a third", "the square", "twice the square"])
def test_what_a_network_restores_arrives_in_place_at_each_size(portrait: Any, mesh: FaceMesh, times: float) -> None:
    sharp = enlarged(portrait, times)
    blurred = cv2.GaussianBlur(sharp, (0, 0), 3 * times)
    face = aligned(blurred, mesh)
    ideal = alignment.cut(sharp, face.to_square)  # what a perfect network would answer
    result, _ = given_back(blurred, face, ideal)
    ys, xs = np.indices(sharp.shape[:2])
    x, y = np.einsum("ij,jhw->ihw", face.to_square, np.stack([xs, ys, np.ones_like(xs)]))
    core = cv2.remap(face.mask, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR) > 0.99
    assert psnr(blurred, sharp, core) < 24
    assert psnr(result, sharp, core) > 38  # measured: 41 to 45


def test_detail_that_the_square_cannot_hold_stays(portrait: Any, mesh: FaceMesh) -> None:
    large = enlarged(portrait, 6)
    pores = np.random.default_rng(2).integers(-12, 13, large.shape)
    large = np.clip(large.astype(int) + pores, 0, 255).astype(np.uint8)
    face = aligned(large, mesh)
    assert face.shrunk > 2
    painted, written = given_back(large, face, cv2.GaussianBlur(face.square, (0, 0), 2.0))
    rough = [np.var(p[written].astype(float) - cv2.blur(p, (3, 3))[written]) for p in (large, painted)]
    assert rough[1] > 0.9 * rough[0]


def test_a_cast_that_a_network_adds_does_not_arrive(portrait: Any, mesh: FaceMesh) -> None:
    face = aligned(portrait, mesh)
    warm = face.square + np.array([0.06, 0.0, -0.06], np.float32)
    result, _ = given_back(portrait, face, warm)
    assert np.abs(result.astype(int) - portrait).max() <= 1


def test_the_mask_ends_before_the_square_does(portrait: Any, mesh: FaceMesh) -> None:
    face = aligned(portrait, mesh)
    assert face.mask.max() == 1.0
    assert not face.mask[[0, 7, -8, -1]].any()
    assert not face.mask[:, [0, 7, -8, -1]].any()
    ramp = np.linspace(0, 511, SIDE)
    everywhere = np.stack(np.meshgrid(ramp, ramp), axis=-1).reshape(-1, 2)[:: SIDE * SIDE // 468][:468]
    assert not alignment.face_mask(everywhere)[[0, -1]].any(), "not even of a face that fills it"


def test_the_same_face_reported_twice_is_changed_once(portrait: Any, mesh: FaceMesh) -> None:
    face = aligned(portrait, mesh)
    change = alignment.change(face, np.asarray(cv2.GaussianBlur(face.square, (0, 0), 6.0), np.float32))
    once, twice = portrait.copy(), portrait.copy()
    for result in (once, twice, twice):
        alignment.paste(result, np.zeros(portrait.shape[:2], bool), portrait, face, change)
    full = np.abs(once.astype(int) - portrait).max()
    assert np.abs(twice.astype(int) - portrait).max() <= full + 1


def test_a_face_over_the_rim_is_seen_whole_and_written_inside(portrait: Any, mesh: FaceMesh) -> None:
    cut = np.ascontiguousarray(portrait[:160, 70:])  # through the chin and the hair
    x, y, w, h = BOX
    box = ((x * 230 - 70) / 160, y * 230 / 160, w * 230 / 160, h * 230 / 160)
    face = aligned(cut, mesh, Face(box=box))
    result, written = given_back(cut, face, cv2.GaussianBlur(face.square, (0, 0), 6.0))
    assert written.any()
    assert (result != cut).any()


@pytest.mark.parametrize(
    ("enlarged_by", "believed"),
    [
        pytest.param(2.86, True, id="the face of the box"),
        pytest.param(0.2, False, id="a square larger than the picture"),
        pytest.param(20.0, False, id="a square within an eye"),
        pytest.param(0.0, False, id="all points are one"),
    ],
)
def test_a_mesh_of_another_size_than_the_detectors_box_is_not_believed(enlarged_by: float, believed: bool) -> None:
    around = Face(box=BOX).around(230, 230, 40)
    assert isinstance(around, Around)
    assert alignment.agree(np.array([[enlarged_by, 0.0, 5.0], [0.0, enlarged_by, 5.0]]), around) is believed
