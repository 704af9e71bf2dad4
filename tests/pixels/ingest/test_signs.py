"""Exit signs, measured against plates drawn into real photos.

Measured when this was written, of 14 of each kind: white on red 13, upright and tilted (a red plate melts into a
red wood table), all others 14, and nothing else anywhere.
"""

from __future__ import annotations

import numpy as np
import pytest

from ingest.analysis.signs import find_signs
from stack.samples.composites import GREEN, RED, WHITE, Sign, draw_sign
from tests.pixels.ingest.pictures import enlarged, iou, photo

PHOTOS = ("astronaut.png", "coffee.png", "brick.png", "china.jpg", "camera.png", "chelsea.png", "rocket.jpg")
SIZES = ((44, 22), (120, 55))


def found(name: str, sign: Sign) -> tuple[bool, int]:
    """Whether the drawn sign is found, and how many others are."""
    picture, truth = draw_sign(photo(name), sign)
    ys, xs = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    height, width = truth.shape
    box = (xs[0] / width, ys[0] / height, (xs[-1] + 1 - xs[0]) / width, (ys[-1] + 1 - ys[0]) / height)
    hits = [iou(detection["box"], box) >= 0.5 for detection in find_signs(picture)]
    return any(hits), hits.count(False)


@pytest.mark.parametrize(
    ("word", "plate", "ink", "tilt", "recall"),
    [
        pytest.param("EXIT", RED, WHITE, 0, 0.85, id="EXIT, white on red"),
        pytest.param("EXIT", GREEN, WHITE, 0, 0.95, id="EXIT, white on green"),
        pytest.param("SORTIE", GREEN, WHITE, 3, 0.9, id="SORTIE, white on green, tilted"),
        pytest.param("EXIT", RED, WHITE, -6, 0.85, id="EXIT, white on red, tilted the other way"),
        pytest.param("EXIT", WHITE, RED, 0, 0.99, id="EXIT, red on white"),
    ],
)
def test_drawn_signs_are_found(
    word: str, plate: tuple[int, int, int], ink: tuple[int, int, int], tilt: float, recall: float
) -> None:
    results = []
    for name in PHOTOS:
        height, width = photo(name).shape[:2]
        for w, h in SIZES:
            sign = Sign(int(0.5 * width), int(0.12 * height), w, h, word, plate, ink, tilt)
            results.append(found(name, sign))
    hits, others = zip(*results, strict=True)
    assert sum(others) == 0, "precision"
    assert sum(hits) / len(hits) >= recall, f"recall {sum(hits) / len(hits):.2f}"


@pytest.mark.parametrize("factor", [1, 1.6])
@pytest.mark.parametrize("name", [*PHOTOS, "flower.jpg", "grace_hopper.jpg", "hubble_deep_field.jpg", "coins.png"])
def test_photos_without_signs_have_none(name: str, factor: float) -> None:
    """Among them flags, medal ribbons, a red saucer, an orange suit with patches, and a painted pagoda."""
    assert find_signs(enlarged(photo(name), factor)) == []


def test_a_red_plate_without_letters_is_no_sign() -> None:
    assert find_signs(draw_sign(photo("brick.png"), Sign(100, 60, 90, 40, word=" "))[0]) == []


def test_a_blue_plate_with_letters_is_no_sign() -> None:
    assert find_signs(draw_sign(photo("brick.png"), Sign(100, 60, 90, 40, plate=(20, 60, 180)))[0]) == []
