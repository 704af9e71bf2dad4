"""Skin gets smoother; everything that is not skin stays, bit for bit."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from gpu_functions import images
from gpu_functions.faces import smoothing as retouch
from gpu_functions.faces.facemesh import FaceMesh
from gpu_functions.faces.reported import Face
from tests.pixels.gpu_functions.pictures import deepen, encode

BOX = (0.33, 0.12, 0.22, 0.25)  # the astronaut's face
CHEEK = (slice(110, 130), slice(245, 262))  # skin without edges
EYE, MOUTH = (slice(98, 104), slice(199, 207)), (slice(142, 149), slice(206, 232))


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    return FaceMesh()


def face(box: tuple[float, float, float, float] = BOX, **more: Any) -> Face:
    return Face(box=box, **more)


def roughness(pixels: npt.NDArray[Any]) -> float:
    """The mean variance in 5×5 windows, in units of full white squared."""
    values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    return float((cv2.blur(values**2, (5, 5)) - cv2.blur(values, (5, 5)) ** 2)[3:-3, 3:-3].mean())


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
def test_skin_is_smoothed_and_nothing_else_is_touched(astronaut: Any, mesh: FaceMesh, deep: bool) -> None:
    pixels = deepen(astronaut) if deep else astronaut
    done = retouch.retouch(pixels, [face()], 1.0, mesh)
    changed = (done.pixels != pixels).any(axis=2)

    assert done.treated == [0]
    assert done.pixels.dtype == pixels.dtype
    assert roughness(done.pixels[CHEEK]) < 0.7 * roughness(pixels[CHEEK])  # measured: 0.59, shading included
    assert not changed[EYE].any()
    assert not changed[MOUTH].any()
    # Changed pixels lie within the face; the mask may cover more, for some pixels are already smooth.
    ys, xs = np.nonzero(changed)
    assert xs.min() > 165
    assert xs.max() < 285
    assert ys.min() > 60
    assert ys.max() < 200
    assert 0.5 * changed.mean() < done.mask_share
    assert 0.01 < changed.mean() <= done.mask_share < 0.05


def test_less_fidelity_is_more_smoothing(astronaut: Any, mesh: FaceMesh) -> None:
    rough = [roughness(retouch.retouch(astronaut, [face()], s, mesh).pixels[CHEEK]) for s in (0.0, 0.3, 0.6, 1.0)]
    assert rough == sorted(rough, reverse=True)
    assert rough[0] == roughness(astronaut[CHEEK])


def test_several_faces_are_treated_and_the_others_are_named_with_the_reason(astronaut: Any, mesh: FaceMesh) -> None:
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    x, y, w, h = BOX
    faces = [
        face((x / 2, y, w / 2, h)),
        face((0.1, 0.1, 0.01, 0.02)),
        face((1 - (x + w) / 2, y, w / 2, h)),
        face((0.4, 0.75, 0.1, 0.2)),
    ]
    done = retouch.retouch(pair, faces, 0.5, mesh)
    assert done.treated == [0, 2]
    assert done.skipped == {1: "too_small", 3: "no_face_mesh"}


@pytest.mark.parametrize("turns", [1, 3], ids=["lying on the left", "lying on the right"])
def test_a_lying_face_is_found_by_the_line_of_its_eyes(astronaut: Any, mesh: FaceMesh, turns: int) -> None:
    eyes = np.array([[0.398, 0.222], [0.479, 0.222]])
    corners = np.array([[BOX[0], BOX[1]], [BOX[0] + BOX[2], BOX[1] + BOX[3]]])
    for _ in range(turns):  # np.rot90 turns to the left: (x, y) -> (y, 1 - x)
        eyes, corners = (np.column_stack([p[:, 1], 1 - p[:, 0]]) for p in (eyes, corners))
    low, high = corners.min(axis=0), corners.max(axis=0)
    turned = np.ascontiguousarray(np.rot90(astronaut, turns))
    lying = face((*low, *(high - low)), landmarks=[tuple(p) for p in eyes])
    share = retouch.retouch(turned, [lying], 1.0, mesh).mask_share
    upright = retouch.retouch(astronaut, [face()], 1.0, mesh).mask_share
    assert share == pytest.approx(upright, rel=0.15)


def test_boxes_over_the_rim_and_outside_do_no_harm(astronaut: Any, mesh: FaceMesh) -> None:
    boxes = [(-0.5, -0.5, 0.6, 0.6), (0.9, 0.9, 0.5, 0.5), (1.5, 1.5, 0.3, 0.3), (0.0, 0.0, 1.0, 1.0)]
    done = retouch.retouch(astronaut, [face(box) for box in boxes], 0.5, mesh)
    assert sorted([*done.treated, *done.skipped]) == [0, 1, 2, 3]


def test_the_engine_states_what_it_did(astronaut: Any) -> None:
    parameters: Any = {"faces": [{"box": list(BOX), "score": 0.9, "landmarks": []}]}
    outputs, facts = retouch.SkinSmoothing().run({"image": encode(astronaut)}, parameters)
    assert facts["faces_treated"] == 1
    assert facts["faces_skipped"] == []
    assert facts["fidelity"] == 0.7
    assert (outputs["image"].width, outputs["image"].height) == (512, 512)
    assert not (images.read(outputs["image"].data).pixels == astronaut).all()
