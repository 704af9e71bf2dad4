"""How sharp and how well exposed a photo is: numbers for sorting and warning, never for refusing.

Both look at one size of picture, so that scores of different cameras compare.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np

from ingest.analysis.decode import Pixels

SIDE: Final = 1024  # long side; a smaller photo is judged as it is
TILES: Final = 8  # per axis
TILE_RANK: Final = 0.9  # the tile that is sharper than 90 % of them: one in focus is enough (shallow depth of field)
LAPLACIAN_SOFT: Final = 3.0  # variance of pure defocus plus sensor noise: score 0
LAPLACIAN_SHARP: Final = 4000.0  # fine detail in focus: score 1
SHADOW: Final = 8  # of 255: below, prints show black
HIGHLIGHT: Final = 250  # of 255: above, a channel is about to clip
MIDDLE_GREY: Final = 0.18  # linear reflectance that meters aim at
EV_SPREAD: Final = 2.0  # stops away from middle grey at which the score has fallen to exp(-1/2) = 0.61


def blur(grey: Pixels) -> dict[str, Any]:
    """`laplacian`: variance over the picture (Pech-Pacheco et al., "Diatom autofocusing", 2000), `tile`: that of the
    TILE_RANK tile, `score`: its logarithm, 0 soft to 1 sharp.
    """
    edges = cv2.Laplacian(_at_size(grey), cv2.CV_32F)
    h, w = edges.shape
    ys, xs = (np.linspace(0, n, min(TILES, n) + 1).astype(int) for n in (h, w))
    tiles = [float(edges[y0:y1, x0:x1].var()) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]
    tile = float(np.quantile(tiles, TILE_RANK))
    span = np.log(LAPLACIAN_SHARP / LAPLACIAN_SOFT)
    score = float(np.clip(np.log(max(tile, 1e-6) / LAPLACIAN_SOFT) / span, 0, 1))
    return {"score": round(score, 4), "laplacian": round(float(edges.var()), 3), "tile": round(tile, 3)}


def exposure(grey: Pixels) -> dict[str, Any]:
    """`mean` 0..1, shares of `shadows` and `highlights`, `ev`: stops of the mean linear light from middle grey, and
    `score`: 1 for a mean at middle grey without clipping.

    Shadow clipping alone does not tell two stops apart, which is why the score leans on `ev`.
    """
    counts = np.bincount(_at_size(grey).reshape(-1), minlength=256) / max(grey.size, 1)
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


def _at_size(grey: Pixels) -> Pixels:
    h, w = grey.shape
    scale = SIDE / max(h, w)
    if scale >= 1:
        return grey
    size = max(1, round(w * scale)), max(1, round(h * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
