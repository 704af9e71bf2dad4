"""Faces are found where they are, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import pyvips

from ingest.analysis import analyze
from ingest.analysis.decode import shrunk
from ingest.analysis.eyes import judge
from ingest.analysis.faces import find_faces
from tests.pixels.ingest.pictures import image, iou, photo

# Read off the photos by eye: brow to chin, ear to ear; x, y, width, height as shares of the picture.
TRUTH = {
    "astronaut.png": (0.34, 0.13, 0.20, 0.20),
    "grace_hopper.jpg": (0.32, 0.20, 0.38, 0.34),
    "camera.png": (0.37, 0.22, 0.16, 0.17),  # in profile, behind a camera
}
FACELESS = ("coffee.png", "china.jpg", "chelsea.png", "rocket.jpg", "flower.jpg", "hubble_deep_field.jpg", "brick.png")


@pytest.mark.parametrize("name", TRUTH)
def test_a_face_is_found_where_a_person_sees_it(name: str) -> None:
    (face,) = find_faces(photo(name))
    assert iou(face["box"], TRUTH[name]) >= 0.6
    assert face["score"] >= 0.6


@pytest.mark.parametrize("name", FACELESS)
def test_no_face_is_found_where_there_is_none(name: str) -> None:
    assert find_faces(photo(name)) == []


@pytest.mark.parametrize("name", ["astronaut.png", "grace_hopper.jpg"])
def test_landmarks_are_named_from_the_person_s_side(name: str) -> None:
    (face,) = find_faces(photo(name))
    right_eye, left_eye, nose, mouth, right_ear, left_ear = face["landmarks"]
    assert right_ear[0] < right_eye[0] < nose[0] < left_eye[0] < left_ear[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < mouth[1]
    x, y, width, height = face["box"]
    assert all(x <= u <= x + width and y <= v <= y + height for u, v in (right_eye, left_eye, nose, mouth))


@pytest.mark.parametrize("width", [pytest.param(w, id=f"faces of {w} pixels") for w in (40, 80)])
def test_every_face_of_a_group_is_found_once(width: int) -> None:
    person = photo("astronaut.png")[5:235, 120:350]  # the face in it is 107 of 230 pixels wide
    side = round(width * 230 / 107)
    group = np.full((1000, 1500, 3), 128, np.uint8)
    places = [(40 + 290 * column, 40 + 320 * row) for row in range(3) for column in range(5)]
    for x, y in places:
        group[y : y + side, x : x + side] = cv2.resize(person, (side, side), interpolation=cv2.INTER_AREA)
    boxes = [face["box"] for face in find_faces(group)]
    expected = [((x + 0.24 * side) / 1500, (y + 0.28 * side) / 1000, width / 1500, width / 1000) for x, y in places]
    assert len(boxes) == len(places)
    assert all(max(iou(box, truth) for box in boxes) > 0.6 for truth in expected)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((192, 128), id="by a whole number and a rest"),
        pytest.param((500, 250), id="by whole numbers that differ"),
        pytest.param((1499, 999), id="hardly"),
    ],
)
def test_what_is_made_smaller_in_two_steps_is_what_one_step_makes(size: tuple[int, int]) -> None:
    large = np.asarray(cv2.resize(photo("china.jpg"), (1500, 1000), interpolation=cv2.INTER_CUBIC), np.uint8)
    found, wanted = shrunk(large, *size), cv2.resize(large, size, interpolation=cv2.INTER_AREA)
    assert found.shape == wanted.shape
    assert cv2.PSNR(found, wanted) > 35  # single pixels in place of means: 20


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_do_not_depend_on_how_the_pixels_lie_in_the_file(orientation: int) -> None:
    upright = photo("grace_hopper.jpg")
    # The stored pixels are what the tag, applied to them, turns into the upright picture.
    turns = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    stored = image(np.ascontiguousarray(turns[orientation](upright))).copy()  # type: ignore[no-untyped-call]
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    facts = analyze(stored.pngsave_buffer(compression=1))
    assert (facts["width"], facts["height"], facts["orientation"]) == (512, 600, orientation)
    assert facts["faces"] == judge(upright, find_faces(upright))
