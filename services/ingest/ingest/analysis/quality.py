"""How sharp, exposed, noisy and level a photo is: numbers for sorting and warning, never for refusing.

All look at one size of picture (`at_size`), so that scores of different cameras compare, and so that noise is what
a person sees of it at that size, not what the sensor made.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.decode import Pixels

SIDE: Final = 1024  # long side; a smaller photo is judged as it is
TILES: Final = 8  # per axis
TILE_RANK: Final = 0.9  # the tile that is sharper than 90 % of them: one in focus is enough (shallow depth of field)
LAPLACIAN_SOFT: Final = 3.0  # variance of pure defocus plus sensor noise: score 0
LAPLACIAN_SHARP: Final = 4000.0  # fine detail in focus: score 1
SHADOW: Final = 8  # of 255: below, prints show black
HIGHLIGHT: Final = 250  # of 255: above, a channel is about to clip
MIDDLE_GREY: Final = 0.18  # linear reflectance that meters aim at
NOISE_CLEAN: Final = 1.5  # grey levels of 255: score 1, hardly to be seen
NOISE_BAD: Final = 12.0  # score 0: the grain is what one sees first
NOISE_TILE_RANK: Final = 0.25  # of the tiles, from the smoothest: texture passes for noise, never the other way
NOISE_ROOM: Final = (16, 239)  # levels: beyond, clipping has eaten half of the noise
EV_SPREAD: Final = 2.0  # stops away from middle grey at which the score has fallen to exp(-1/2) = 0.61


def blur(grey: Pixels) -> dict[str, Any]:
    """`laplacian`: variance over the picture (Pech-Pacheco et al., "Diatom autofocusing", 2000), `tile`: that of the
    TILE_RANK tile, `score`: its logarithm, 0 soft to 1 sharp.
    """
    edges = np.asarray(cv2.Laplacian(grey, cv2.CV_32F))
    tile = float(np.quantile([_variance(tile) for tile in _tiles(edges)], TILE_RANK))
    span = np.log(LAPLACIAN_SHARP / LAPLACIAN_SOFT)
    score = float(np.clip(np.log(max(tile, 1e-6) / LAPLACIAN_SOFT) / span, 0, 1))
    return {"score": round(score, 4), "laplacian": round(_variance(edges), 3), "tile": round(tile, 3)}


def exposure(grey: Pixels) -> dict[str, Any]:
    """`mean` 0..1, shares of `shadows` and `highlights`, `ev`: stops of the mean linear light from middle grey, and
    `score`: 1 for a mean at middle grey without clipping.

    Shadow clipping alone does not tell two stops apart, which is why the score leans on `ev`.
    """
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).reshape(-1).astype(np.float64)
    counts /= counts.sum()
    level = np.arange(256) / 255
    # IEC 61966-2-1: the sRGB transfer function.
    linear = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    ev = float(np.log2(max(float(counts @ linear), 1e-4) / MIDDLE_GREY))
    shadows, highlights = float(counts[: SHADOW + 1].sum()), float(counts[HIGHLIGHT:].sum())
    score = np.exp(-((ev / EV_SPREAD) ** 2) / 2) * (1 - max(shadows, highlights) / 2)
    return {
        "mean": round(float(counts @ level), 4),
        "shadows": round(shadows, 4),
        "highlights": round(highlights, 4),
        "ev": round(ev, 3),
        "score": round(float(score), 4),
    }


def noise(grey: Pixels) -> dict[str, Any]:
    """`sigma`: standard deviation in grey levels of 255, and `score`: 1 clean to 0 grain, on a logarithmic scale.

    A second difference across both directions (Immerkaer, "Fast noise variance estimation", 1996) cancels planes
    and edges along an axis, and turns noise of sigma into 6 sigma. Of each tile the median of its size counts
    (Donoho's MAD, 0.6745 sigma), which a few edges do not move, and of the tiles the smooth ones.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rough = np.abs(np.asarray(cv2.filter2D(grey, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)))
    low, high = NOISE_ROOM
    sigmas = [
        float(np.median(tile[::2, ::2])) / (6 * 0.6745)  # a quarter of the pixels say the same as all
        for tile, level in zip(_tiles(rough), _tiles(grey), strict=True)
        if low <= cv2.mean(level)[0] <= high
    ]
    sigma = float(np.quantile(sigmas, NOISE_TILE_RANK)) if sigmas else 0.0
    score = np.clip(np.log(NOISE_BAD / max(sigma, 1e-3)) / np.log(NOISE_BAD / NOISE_CLEAN), 0, 1)
    return {"sigma": round(sigma, 3), "score": round(float(score), 4)}


def at_size(grey: Pixels) -> Pixels:
    """The picture with a long side of at most SIDE pixels."""
    h, w = grey.shape
    scale = SIDE / max(h, w)
    if scale >= 1:
        return grey
    size = max(1, round(w * scale)), max(1, round(h * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _variance(values: NDArray[Any]) -> float:
    return float(cv2.meanStdDev(values)[1].item()) ** 2


def _tiles(picture: NDArray[Any]) -> list[NDArray[Any]]:
    """TILES x TILES parts, fewer of a picture that is smaller; contiguous, since OpenCV takes no other."""
    ys, xs = (np.linspace(0, n, min(TILES, n) + 1).astype(int) for n in picture.shape)
    return [np.ascontiguousarray(picture[y0:y1, x0:x1]) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]
