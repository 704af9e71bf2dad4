"""Closed eyes are told from open ones on the two portraits there are, with lids drawn over the eyes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.analysis.eyes import judge
from ingest.analysis.faces import find_faces
from tests.pixels.ingest.pictures import Pixels, enlarged, photo

PORTRAITS = ("astronaut.png", "grace_hopper.jpg")

# Read off the photos by eye: the corners and the lids of both eyes, in pixels; centre x, y, half width, half height.
EYES = {
    "astronaut.png": ((203, 101, 11, 5), (247, 104, 11, 5)),
    "grace_hopper.jpg": ((224, 193, 20, 9), (303, 191, 20, 9)),
}


def blinking(name: str) -> Pixels:
    """Each eye under skin of the cheek below it, which ends in lashes that hang down."""
    picture = photo(name).astype(np.float32)
    for x, y, w, h in EYES[name]:
        cheek = np.median(photo(name)[y + 3 * h : y + 4 * h, x - w // 2 : x + w // 2].reshape(-1, 3), axis=0)
        lid = np.zeros(picture.shape[:2], np.float32)
        cv2.ellipse(lid, (x, y), (round(1.25 * w), round(1.5 * h)), 0, 0, 360, 1.0, -1, cv2.LINE_AA)
        lid = np.asarray(cv2.GaussianBlur(lid, (0, 0), 0.15 * w))
        lashes = np.zeros_like(lid)
        cv2.ellipse(lashes, (x, y + h // 3), (w, round(0.5 * h)), 0, 10, 170, 1.0, max(1, w // 8), cv2.LINE_AA)
        picture = picture * (1 - lid[..., None]) + cheek * lid[..., None]
        picture = picture * (1 - lashes[..., None]) + np.array([60, 40, 35]) * lashes[..., None]
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def eyes_of(picture: Pixels) -> dict[str, Any]:
    (face,) = judge(picture, find_faces(picture))
    eyes: dict[str, Any] = face["eyes"]
    return eyes


@pytest.mark.parametrize("factor", [0.5, 1, 2])
@pytest.mark.parametrize("name", PORTRAITS)
def test_open_eyes_are_open(name: str, factor: float) -> None:
    eyes = eyes_of(scaled(photo(name), factor))
    assert not eyes["closed"]
    assert min(eyes["open"]) > 0.19


@pytest.mark.parametrize("factor", [0.5, 1, 2])
@pytest.mark.parametrize("name", PORTRAITS)
def test_closed_eyes_are_closed(name: str, factor: float) -> None:
    eyes = eyes_of(scaled(blinking(name), factor))
    assert eyes["closed"]


@pytest.mark.parametrize("degrees", [-25, 25])
@pytest.mark.parametrize("name", PORTRAITS)
def test_a_tilted_head_changes_nothing(name: str, degrees: float) -> None:
    for picture, closed in ((photo(name), False), (blinking(name), True)):
        height, width = picture.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 3), degrees, 1)
        turned = np.asarray(cv2.warpAffine(picture, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)
        assert eyes_of(turned)["closed"] is closed


def test_nothing_is_said_of_eyes_that_cannot_be_seen() -> None:
    (profile,) = judge(photo("camera.png"), find_faces(photo("camera.png")))
    assert profile["eyes"] is None, "in profile, behind a camera"
    small = scaled(photo("astronaut.png"), 0.35)
    (face,) = judge(small, find_faces(small))
    assert face["eyes"] is None, "16 pixels between the eyes"


def scaled(picture: NDArray[np.uint8], factor: float) -> Pixels:
    if factor >= 1:
        return enlarged(picture, factor)
    return np.asarray(cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
