"""How good a look is on a pair that it has not seen, beside what a user has without it.

Two baselines: the picture as it is (identity), and histogram matching to the edited pictures that the look was
learnt from, which is what can be done with edited pictures and no pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.exposure import match_histograms
from skimage.metrics import structural_similarity

from gpu_functions.style import grid
from gpu_functions.style.cube import Cube
from gpu_functions.style.grid import Floats
from gpu_functions.style.prepare import Prepared

COLOURS_MAX: Final = 12_000  # of a picture whose colour differences are computed: they take 5 µs each
PSNR_MAX: Final = 99.0  # what equal pictures are given, dB: JSON knows no infinity

FIGURES: Final = frozenset(
    f"{figure}{of}"
    for figure in ("psnr", "ssim", "de2000_mean", "de2000_p95")
    for of in ("", "_identity", "_histogram")
)


def styled(pair: Prepared, lut: Cube) -> Floats:
    """The pair's picture before through a LUT: H×W×3 in 0..1."""
    return np.clip(grid.read(lut.table, pair.before / np.float32(255)), 0.0, 1.0)


def psnr(found: Floats, pair: Prepared) -> float:
    """Peak signal to noise ratio in dB beside the picture after, where both show it."""
    squared = float(np.mean((found[pair.inside] - pair.after[pair.inside] / np.float32(255)) ** 2))
    return min(PSNR_MAX, -10 * float(np.log10(max(squared, 1e-12))))


def measured(pair: Prepared, lut: Cube, others: Sequence[Prepared]) -> dict[str, float]:
    """Every figure of one held-out pair; `others` are the pairs that the LUT was learnt from."""
    before = pair.before.astype(np.float32) / np.float32(255)
    results: dict[str, Floats] = {"": styled(pair, lut), "_identity": before, "_histogram": matched(pair, others)}
    told: dict[str, float] = {}
    for name, found in results.items():
        differences = _differences(found, pair)
        told[f"psnr{name}"] = round(psnr(found, pair), 3)
        told[f"ssim{name}"] = round(_ssim(found, pair), 4)
        told[f"de2000_mean{name}"] = round(float(differences.mean()), 3)
        told[f"de2000_p95{name}"] = round(float(np.percentile(differences, 95)), 3)
    return told


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over pairs."""
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def matched(pair: Prepared, others: Sequence[Prepared]) -> Floats:
    """The pair's picture before with each channel's histogram made that of all other pictures after, pooled."""
    pool = np.concatenate([pair.samples.after for pair in others])[:, None]
    before = pair.before.astype(np.float32) / np.float32(255)
    return np.asarray(match_histograms(before, pool, channel_axis=-1), np.float32)


def _ssim(found: Floats, pair: Prepared) -> float:
    truth = pair.after.astype(np.float32) / np.float32(255)
    _, each = structural_similarity(found, truth, channel_axis=-1, data_range=1.0, full=True)  # type: ignore[no-untyped-call]
    return float(each[pair.inside].mean())


def _differences(found: Floats, pair: Prepared) -> Floats:
    first, second = found[pair.inside], pair.after[pair.inside] / np.float32(255)
    every = max(1, len(first) // COLOURS_MAX)
    first, second = (rgb2lab(colours[::every]) for colours in (first, second))
    return np.asarray(deltaE_ciede2000(first, second), np.float32)  # type: ignore[no-untyped-call]
