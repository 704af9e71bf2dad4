"""Fill masked pixels from what surrounds them; every pixel outside the mask stays bit for bit.

Two fills, both on regions, never on the whole picture:
- `thin` for wires: Telea (J. Graphics Tools 2004), a marching fill that is near perfect when the
  hole is narrower than what it hides. At 16 bit it runs per channel in 16 bit.
- `patch` for signs: OpenCV's frequency-selective reconstruction (FSR_FAST), which continues
  texture, then a smooth correction that makes the seam vanish. OpenCV has FSR in 8 bit only and
  it costs 0.07 ms per pixel, so it works on a shrunk copy; the correction is computed in float
  at full size. In a 16-bit picture the texture inside a sign is therefore 8-bit, nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from gpu_functions.images import Pixels

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

TILE: Final = 256  # pixels; a tile with its rim costs Telea a few milliseconds
RIM: Final = 64  # pixels around a tile: wires are narrower, so tiles agree where they meet
PATCH_PIXELS: Final = 6_000  # masked pixels that FSR works on: about 0.4 s


def thin(pixels: Pixels, mask: Mask, unknown: Mask, radius: int) -> None:
    """Fill `mask` (H×W) in `pixels` (H×W×3, uint8 or uint16), in place, by Telea with `radius` in pixels.

    `unknown` holds `mask` and whatever else must not be copied from.
    """
    # Every tile is read before any is written, so the result does not depend on their order.
    tiles = [(core, *_hole(pixels, unknown, core)) for core in _tiles(mask)]
    for (top, bottom, left, right), region, hole, (y, x) in tiles:
        inside = mask[top:bottom, left:right]
        filled = _telea(region, hole, radius)[top - y : bottom - y, left - x : right - x]
        pixels[top:bottom, left:right][inside] = filled[inside]


def patch(pixels: Pixels, mask: Mask, window: tuple[slice, slice], guess: Floats | None = None) -> None:
    """Fill the part of `mask` within `window` in `pixels`, in place, continuing texture.

    `guess` is what the window (0..1) might show without the hole, if somebody knows better than FSR.
    """
    hole = mask[window]
    if not hole.any() or hole.all():
        return
    white = np.float32(np.iinfo(pixels.dtype).max)
    region = pixels[window].astype(np.float32) / white
    if guess is None:
        guess = _textured(region, hole)
    # What the guess gets wrong around the hole is continued smoothly into it and added.
    corrected = guess + membrane(region - guess, hole)
    values = np.rint(np.clip(corrected[hole], 0.0, 1.0) * white)
    pixels[window][hole] = values.astype(pixels.dtype)


def membrane(values: Floats, hole: Mask) -> Floats:
    """`values` (H×W×C) with `hole` filled by the smoothest continuation of the rest.

    Pull-push over a pyramid (Gortler et al., "The Lumigraph", 1996, section 3.3): averages of
    known pixels flow up to coarse levels and come back where nothing is known.
    """
    weight = (~hole).astype(np.float32)
    levels: list[tuple[Floats, Floats]] = [(_floats(values * weight[..., None]), weight)]
    while min(levels[-1][1].shape) > 2 and levels[-1][1].min() < 1e-3:
        total, known = levels[-1]
        levels.append((_floats(cv2.pyrDown(total)), _floats(cv2.pyrDown(known))))
    coarse: Floats | None = None
    for total, known in reversed(levels):
        here = total / np.maximum(known, 1e-6)[..., None]
        if coarse is not None:
            share = np.clip(known, 0.0, 1.0)[..., None]
            finer = cv2.pyrUp(coarse, dstsize=(known.shape[1], known.shape[0]))
            here = share * here + (1.0 - share) * finer
        coarse = _floats(here)
    assert coarse is not None
    result = values.copy()
    result[hole] = coarse[hole]
    return result


def _textured(region: Floats, hole: Mask) -> Floats:
    """`region` (0..1) with `hole` reconstructed by FSR at a size where it is cheap."""
    height, width = hole.shape
    shrink = min(1.0, (PATCH_PIXELS / int(hole.sum())) ** 0.5)
    small = cv2.resize(region, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    holes = cv2.resize(hole.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0.0
    if holes.all():
        return region
    eight = np.rint(np.clip(small, 0.0, 1.0) * 255).astype(np.uint8)
    filled = np.zeros_like(eight)
    known = np.where(holes, 0, 255).astype(np.uint8)
    cv2.xphoto.inpaint(eight[..., ::-1].copy(), known, filled, cv2.xphoto.INPAINT_FSR_FAST)  # it wants BGR
    small = np.where(holes[..., None], filled[..., ::-1].astype(np.float32) / 255, small)
    return _floats(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))


def _floats(values: npt.NDArray[Any]) -> Floats:
    return np.asarray(values, np.float32)


def _telea(region: Pixels, hole: npt.NDArray[np.uint8], radius: int) -> npt.NDArray[Any]:
    if region.dtype == np.uint8:
        return cv2.inpaint(region, hole, radius, cv2.INPAINT_TELEA)
    planes = [cv2.inpaint(np.ascontiguousarray(region[..., c]), hole, radius, cv2.INPAINT_TELEA) for c in range(3)]
    return np.stack(planes, axis=2)


def _tiles(mask: Mask) -> Iterator[tuple[int, int, int, int]]:
    """Top, bottom, left, right of the tiles that hold masked pixels."""
    height, width = mask.shape
    for top in range(0, height, TILE):
        rows = mask[top : top + TILE]
        for left in range(0, width, TILE):
            if rows[:, left : left + TILE].any():
                yield top, min(top + TILE, height), left, min(left + TILE, width)


def _hole(
    pixels: Pixels, mask: Mask, core: tuple[int, int, int, int]
) -> tuple[Pixels, npt.NDArray[np.uint8], tuple[int, int]]:
    """A tile with its rim: pixels, mask as OpenCV wants it, and the origin."""
    top, left = max(0, core[0] - RIM), max(0, core[2] - RIM)
    window = np.s_[top : core[1] + RIM, left : core[3] + RIM]
    return np.ascontiguousarray(pixels[window]), mask[window].astype(np.uint8) * 255, (top, left)
