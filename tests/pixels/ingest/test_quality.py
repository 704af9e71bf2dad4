"""Scores for sharpness and exposure order photos as a person would."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.analysis.quality import blur, exposure
from tests.pixels.ingest.pictures import enlarged, photo

PHOTOS = ("astronaut.png", "china.jpg", "coffee.png", "flower.jpg", "camera.png", "chelsea.png")


def grey(name: str, factor: float = 1) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(enlarged(photo(name), factor), cv2.COLOR_RGB2GRAY), np.uint8)


def softened(picture: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def exposed(picture: NDArray[np.uint8], stops: float) -> NDArray[np.uint8]:
    """The picture as if the shutter had stayed open 2**stops times as long (gamma 2.2)."""
    return np.clip(255 * (picture / 255) * 2 ** (stops / 2.2), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", PHOTOS)
def test_the_more_a_photo_is_blurred_the_lower_its_score(name: str) -> None:
    scores = [blur(grey(name))] + [blur(softened(grey(name), s)) for s in (0.8, 1.5, 3, 6)]
    for key in ("score", "laplacian", "tile"):
        values = [score[key] for score in scores]
        assert all(a > b or a == b == 0 for a, b in pairwise(values)), key
    assert scores[0]["score"] > 0.7
    assert scores[-1]["score"] < 0.1


def test_one_sharp_tile_in_ten_makes_a_photo_sharp() -> None:
    soft = softened(grey("china.jpg"), 6)
    focused = soft.copy()
    focused[100:300, 50:350] = grey("china.jpg")[100:300, 50:350]
    assert blur(soft)["score"] < 0.1
    assert blur(focused)["score"] > 0.8


@pytest.mark.parametrize("name", PHOTOS)
def test_exposure_follows_the_shutter(name: str) -> None:
    values = [exposure(exposed(grey(name), stops)) for stops in (-3, -2, -1, 0, 1, 2, 3)]
    for key in ("mean", "ev", "highlights"):
        assert all(a[key] <= b[key] for a, b in pairwise(values)), key
    assert all(a["shadows"] >= b["shadows"] for a, b in pairwise(values))
    assert min(values[0]["score"], values[-1]["score"]) < values[3]["score"] - 0.2


@pytest.mark.parametrize(("level", "ev"), [(118, 0.0), (255, 2.47), (0, -10.8)])
def test_ev_is_counted_in_stops_from_middle_grey(level: int, ev: float) -> None:
    """18 % reflectance is 118 in sRGB; white is log2(1 / 0.18) = 2.47 stops above it."""
    assert exposure(np.full((50, 50), level, np.uint8))["ev"] == pytest.approx(ev, abs=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3, 2), (2000, 1)])
def test_pictures_of_any_shape_have_scores(shape: tuple[int, int]) -> None:
    assert 0 <= blur(np.zeros(shape, np.uint8))["score"] <= 1
    assert 0 <= exposure(np.zeros(shape, np.uint8))["score"] <= 1
