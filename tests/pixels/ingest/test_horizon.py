"""The horizon's angle follows the camera, and nothing is claimed where there is no horizon."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.analysis.horizon import horizon
from tests.bench.detection import meadow, noisy
from tests.pixels.ingest.pictures import Pixels, enlarged, photo

TURNS = (-6.0, -2.5, 0.0, 1.0, 4.0)
CONFIDENT = 0.6  # as the crop asks


def tilted(pixels: Pixels, degrees: float) -> Pixels:
    """Grey, turned clockwise about the middle, without the corners that this leaves empty."""
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, 1)
    turned = cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_CUBIC)
    slope = np.tan(np.radians(abs(degrees)))
    x, y = int(height * slope / 2) + 2, int(width * slope / 2) + 2
    return np.asarray(cv2.cvtColor(turned[y : height - y, x : width - x], cv2.COLOR_RGB2GRAY), np.uint8)


def test_a_photo_s_tilt_is_found() -> None:
    """The man with the camera stands before a level city; once its towers do not vote, and it is only half believed."""
    found = {degrees: horizon(tilted(enlarged(photo("camera.png"), 2), degrees)) for degrees in TURNS}
    assert all(one["angle"] == pytest.approx(degrees, abs=0.2) for degrees, one in found.items()), found
    assert sum(one["confidence"] >= CONFIDENT for one in found.values()) >= 4, found


@pytest.mark.parametrize("degrees", TURNS)
def test_a_line_from_side_to_side_is_a_horizon_without_any_wall(degrees: float) -> None:
    found = horizon(tilted(noisy(meadow()), degrees))
    assert found["confidence"] >= CONFIDENT
    assert found["angle"] == pytest.approx(degrees, abs=0.15)


@pytest.mark.parametrize(
    "name", ["coffee.png", "flower.jpg", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg", "coins.png"]
)
def test_nothing_is_claimed_where_there_is_no_horizon(name: str) -> None:
    """Among them a cat's whiskers, a tilted table top, and towers that lean by perspective."""
    for degrees in TURNS:
        assert horizon(tilted(enlarged(photo(name), 1.6), degrees))["confidence"] < 0.4


def test_walls_that_disagree_with_the_horizon_make_it_doubtful() -> None:
    picture: NDArray[np.uint8] = np.full((600, 900), 220, np.uint8)
    cv2.line(picture, (0, 300), (899, 300), 60, 3, cv2.LINE_AA)
    alone = horizon(picture)["confidence"]
    for x in range(80, 900, 120):
        cv2.line(picture, (x, 0), (x + 105, 599), 60, 3, cv2.LINE_AA)  # 10 degrees
    assert horizon(picture)["confidence"] < alone


@pytest.mark.parametrize("shape", [(1, 1), (20, 900), (64, 64)])
def test_pictures_of_any_shape_have_an_answer(shape: tuple[int, int]) -> None:
    assert horizon(np.zeros(shape, np.uint8)) == {"angle": 0.0, "confidence": 0.0}
