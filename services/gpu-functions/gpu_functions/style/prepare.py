"""From an entry of the archive to what learning needs of a pair, at most 640 pixels wide.

200 pairs are held at once: 0.9 MB each for the two pictures, 0.8 MB for the thumbnail, 0.4 MB for samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from contracts.errors import SafelightError
from gpu_functions import images
from gpu_functions.style import align, bundle
from gpu_functions.style.align import Found, Geometry, Picture
from gpu_functions.style.fit import Samples
from gpu_functions.style.grid import Floats
from gpu_functions.style.pairs import Archive, Pair

READ_SIDE: Final = 1024  # pixels that are enough of a picture: one megapixel or less
JUDGED_SIDE: Final = 384  # at which a held-out pair is compared
SAMPLES: Final = 12_000  # of a pair
INSIDE_MIN: Final = 4_000  # pixels that both pictures must show
EDGE: Final = 0.06  # gradient (0..1 per pixel) at which a pixel counts half: alignment is never perfect


@dataclass(frozen=True, slots=True)
class Prepared:
    """One pair, laid on each other: `before` and `after` H×W×3 at JUDGED_SIDE, `inside` H×W where both show something.

    `thumbnail` is of the whole picture before; `hashes` are sha256 of the files before and after.
    """

    samples: Samples
    thumbnail: Floats
    before: Picture
    after: Picture
    inside: npt.NDArray[np.bool_]
    hashes: tuple[str, str]


def prepare(archive: Archive, pair: Pair, known: Found | None, seed: int) -> tuple[Prepared, Found] | str:
    """A pair to learn from, and how it lies; or why it is none. `known` is how it lies, from a checkpoint.

    `incomplete`, `unreadable`, `identical`, `too_small`, `misaligned`, `different_content`.
    """
    if pair.before is None or pair.after is None:
        return "incomplete"
    files = archive.read(pair.before), archive.read(pair.after)
    if files[0] is None or files[1] is None:
        return "unreadable"
    hashes = hashlib.sha256(files[0]).hexdigest(), hashlib.sha256(files[1]).hexdigest()
    if hashes[0] == hashes[1]:
        return "identical"
    try:
        whole, after = _picture(files[0]), _picture(files[1])
    except SafelightError:
        return "unreadable"
    found = known or align.find(whole, after)
    if isinstance(found, str):
        return found
    after = align.scaled(after, align.SIDE)
    size = (after.shape[1], after.shape[0])
    before, inside = align.moved(_near_scale(whole, found.geometry), found.geometry, size)
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0).astype(bool)
    if inside.sum() < INSIDE_MIN:
        return "misaligned"
    samples = _samples(before, after, inside, seed)
    small = align.scaled(before, JUDGED_SIDE), align.scaled(after, JUDGED_SIDE)
    shown = align.scaled(inside.astype(np.uint8) * 255, JUDGED_SIDE) == 255
    return Prepared(samples, bundle.thumbnail(whole), *small, shown, hashes), found


def _picture(data: bytes) -> Picture:
    """At most READ_SIDE wide, 8 bit. Raises what `images.read` raises."""
    pixels = images.read(data, READ_SIDE).pixels
    return align.scaled(np.asarray(pixels // 257 if pixels.dtype == np.uint16 else pixels, np.uint8), READ_SIDE)


def _near_scale(whole: Picture, geometry: Geometry) -> Picture:
    """The picture before at about the scale of the one after, so that moving it does not alias."""
    shown = float(np.sqrt(abs(np.linalg.det(geometry.matrix[:2, :2]))))
    return align.scaled(whole, round(align.SIDE / min(max(shown, 0.2), 1.0)))


def _samples(before: Picture, after: Picture, inside: npt.NDArray[np.bool_], seed: int) -> Samples:
    """Colours at random pixels of both; pixels beside edges, where scaling and moving have mixed colours, weigh little.

    A mean of neighbours would be no help: the grade of a mean is not the mean of grades, and 10 dB are lost.
    """
    plain = [picture.astype(np.float32) / np.float32(255) for picture in (before, after)]
    gray = plain[1].mean(axis=2)
    slope = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(gray, cv2.CV_32F, 0, 1, scale=1 / 8))
    places = np.flatnonzero(inside)
    chosen = np.sort(np.random.default_rng(seed).choice(places, min(SAMPLES, len(places)), replace=False))
    weights = 1 / (1 + (slope.ravel()[chosen] / EDGE) ** 2)
    first, second = (picture.reshape(-1, 3)[chosen] for picture in plain)
    return Samples(first, second, (weights / weights.sum()).astype(np.float32))
