"""Scores for sharpness, exposure and noise order photos as a person would, and the cull score adds them up."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ingest.analysis.cull import WEIGHTS, cull
from ingest.analysis.quality import blur, exposure, noise
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
    assert 0 <= noise(np.zeros(shape, np.uint8))["score"] <= 1


@pytest.mark.parametrize("sigma", [3, 6, 12])
@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "flower.jpg", "chelsea.png"])
def test_noise_is_measured_in_grey_levels(name: str, sigma: float) -> None:
    """What is added is found again, on top of what the photo has itself (independent noises add in squares)."""
    clean = softened(grey(name), 1.2)
    grain = np.random.default_rng(1).normal(0, sigma, clean.shape)
    own, noisy = noise(clean)["sigma"], noise(np.clip(clean + grain, 0, 255).round().astype(np.uint8))["sigma"]
    assert own < 1.5
    assert noisy == pytest.approx(np.hypot(sigma, own), rel=0.15)


def test_texture_is_not_taken_for_noise_where_some_of_the_picture_is_smooth() -> None:
    assert noise(grey("china.jpg"))["sigma"] < 2.5
    assert noise(grey("astronaut.png"))["score"] > 0.8


def test_clipped_noise_does_not_make_a_picture_clean() -> None:
    grain = np.random.default_rng(2).normal(0, 8, (400, 400))
    half_black = np.concatenate([np.full((400, 400), 0.0), np.full((400, 400), 120.0)], axis=1)
    noisy = np.clip(half_black + np.concatenate([grain, grain], axis=1), 0, 255).round().astype(np.uint8)
    assert noise(noisy)["sigma"] == pytest.approx(8, rel=0.1)


OPEN, SHUT = {"eyes": {"open": [0.3, 0.3], "closed": False}}, {"eyes": {"open": [0.1, 0.1], "closed": True}}
UNKNOWN = {"eyes": None}


def test_the_cull_score_is_the_weighted_mean_of_its_parts() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert cull(1, 1, 1, [OPEN])["score"] == 100
    assert cull(0, 0, 0, [SHUT])["score"] == 0
    half = cull(0.5, 1, 1, [OPEN, SHUT, UNKNOWN])
    assert half["parts"] == {"sharpness": 0.5, "exposure": 1, "eyes": 0.5, "noise": 1}
    assert half["score"] == pytest.approx(100 * (0.4 * 0.5 + 0.25 + 0.2 * 0.5 + 0.15))


@pytest.mark.parametrize("faces", [[], [UNKNOWN]], ids=["no face", "a face too small to tell"])
def test_a_photo_without_eyes_to_judge_loses_nothing(faces: list[dict[str, None]]) -> None:
    scored = cull(0.8, 0.8, 0.8, faces)
    assert scored["parts"]["eyes"] is None
    assert scored["score"] == pytest.approx(80)
