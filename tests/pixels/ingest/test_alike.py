"""Copies of a photo have hashes that hardly differ, different photos have others."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import pytest

from ingest.analysis.alike import phash
from tests.pixels.ingest.pictures import Pixels, enlarged, jpeg, photo

PHOTOS = ("astronaut.png", "china.jpg", "coffee.png", "flower.jpg", "camera.png", "chelsea.png", "rocket.jpg")


def apart(one: Pixels, other: Pixels) -> int:
    """Bits in which two photos' hashes differ."""
    return (int(hashed(one), 16) ^ int(hashed(other), 16)).bit_count()


def hashed(picture: Pixels) -> str:
    return phash(np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8))


def recoded(picture: Pixels) -> Pixels:
    decoded = cv2.imdecode(np.frombuffer(jpeg(picture), np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(decoded, np.uint8)


@pytest.mark.parametrize("name", PHOTOS)
def test_a_copy_is_known_again(name: str) -> None:
    plain = photo(name)
    width = plain.shape[1]
    edge = max(2, width // 50)
    copies = {
        "larger": enlarged(plain, 1.7),
        "smaller": np.asarray(cv2.resize(plain, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA), np.uint8),
        "as a JPEG": recoded(plain),
        "lighter": np.clip(plain * 1.15, 0, 255).astype(np.uint8),
        "with the camera moved a little": plain[edge:, : width - edge],
    }
    distances = {how: apart(plain, np.ascontiguousarray(copy)) for how, copy in copies.items()}
    assert max(distances[how] for how in ("larger", "smaller", "as a JPEG", "lighter")) <= 6, distances
    assert distances["with the camera moved a little"] <= 14, distances


def test_different_photos_are_far_apart() -> None:
    distances = [apart(photo(one), photo(other)) for one, other in combinations(PHOTOS, 2)]
    assert min(distances) >= 18, sorted(distances)[:3]


def test_a_hash_is_sixteen_digits() -> None:
    assert len(phash(np.zeros((1, 1), np.uint8))) == 16
