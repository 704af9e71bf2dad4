"""The engine `lama`: takes power lines and exit signs out of a picture, and has a network continue what is around.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", WACV 2022. The network sees
squares of TILE pixels. A wire is looked at in full size, in tiles that overlap and are faded into each other.
A sign is looked at whole, shrunk if need be; what the network guesses wrong around it is corrected at full size
(see `fill.patch`). Only masked pixels are written; memory grows with their number, not with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue

from contracts.errors import error
from gpu_functions import images, networks
from gpu_functions.cleanup import fill, removal
from gpu_functions.cleanup.fill import Floats, Mask
from gpu_functions.cleanup.removal import Holes
from gpu_functions.engine import ALONE, Facts, Output, Place, Work

TILE: Final = 512  # pixels: what the network was published to work well at
CONTEXT: Final = 64  # pixels at a tile's inner border that the network sees and nobody uses
FADE: Final = 64  # pixels inside of those over which a tile fades into its neighbour
STEP: Final = TILE - 2 * CONTEXT - FADE
AROUND: Final = 0.5  # of a sign's longer side: what the network sees of its surroundings on each side
MULTIPLE: Final = 8  # of pixels that the network halves three times
SIDE_MIN: Final = 16  # pixels: below it the network mirrors more than there is
BATCH: Final = 4  # tiles that are computed together

Paint = Callable[[Floats, Floats], Floats]  # N×H×W×3 and N×H×W×1 (1 where unknown), 0..1 -> N×H×W×3
Span = tuple[int, int]
Tile = tuple[Span, Span]  # first row and the one after the last; the same of columns


class Lama:
    """`image` -> `image`."""

    def __init__(self, place: Place) -> None:
        """Load the one file of weights in `place`. Raises WEIGHTS_INVALID."""
        (path,) = place.weights.values()
        self._network = networks.load(path, "LaMa", place.device)

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, DECODE_LIMIT, WEIGHTS_INVALID."""
        tiles = 0

        def paint(pictures: Floats, unknown: Floats) -> Floats:
            nonlocal tiles
            tiles += len(pictures)
            return self._paint(pictures, unknown)

        outputs, facts = removal.run(inputs, parameters, lambda pixels, holes: by_painting(pixels, holes, paint, work))
        return outputs, {**facts, "tiles": tiles, "computed_on": self._network.device.type}

    def _paint(self, pictures: Floats, unknown: Floats) -> Floats:
        """See Paint."""
        where = self._network.device
        picture, mask = (torch.from_numpy(of).to(where).permute(0, 3, 1, 2).contiguous() for of in (pictures, unknown))
        with torch.inference_mode():
            answer: torch.Tensor = self._network.module(picture, mask)
        if not bool(torch.isfinite(answer).all()):
            raise error("WEIGHTS_INVALID", "the network answers with numbers that are no picture")
        return np.asarray(answer.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy(), np.float32)


def by_painting(pixels: images.Pixels, holes: Holes, paint: Paint, work: Work = ALONE) -> None:
    """Fill wires, then signs, with what `paint` sees there; see `removal.Fill`."""
    wires(pixels, holes.wires, holes.wires | holes.signs, paint, work)
    for window in holes.windows:
        fill.patch(pixels, holes.signs, window, _guess(pixels, holes.signs, window, paint))


def wires(pixels: images.Pixels, mask: Mask, unknown: Mask, paint: Paint, work: Work = ALONE) -> None:
    """Fill `mask` (H×W) in `pixels`, in place, tile by tile; `unknown` holds it and whatever else must not be seen."""
    height, width = mask.shape
    hidden = np.flatnonzero(mask)
    total, weights = np.zeros((len(hidden), 3), np.float32), np.zeros((len(hidden), 1), np.float32)
    tiles = list(_tiles(mask))
    for first in range(0, len(tiles), BATCH):
        some = tiles[first : first + BATCH]
        for (rows, columns), painted in zip(some, _painted(pixels, unknown, some, paint), strict=True):
            ys, xs = np.nonzero(mask[slice(*rows), slice(*columns)])
            at = np.searchsorted(hidden, (ys + rows[0]) * width + xs + columns[0])
            weight = (_fade(rows, height)[ys] * _fade(columns, width)[xs])[:, None]
            total[at] += weight * painted[ys, xs]
            weights[at] += weight
        work.tell(min(1.0, (first + BATCH) / len(tiles)), {"tiles": first + len(some), "tiles_of": len(tiles)})
    ys, xs = np.unravel_index(hidden, mask.shape)
    white = np.iinfo(pixels.dtype).max
    pixels[ys, xs] = np.rint(np.clip(total / weights, 0.0, 1.0) * white).astype(pixels.dtype)


def _tiles(mask: Mask) -> Iterator[Tile]:
    """Tiles that cover the masked pixels with what is used of them, in reading order."""
    height, width = mask.shape
    for rows in _spans(height):
        if mask[slice(*rows)].any():
            for columns in _spans(width):
                part = mask[slice(*rows), slice(*columns)]
                used = np.outer(_fade(rows, height) > 0, _fade(columns, width) > 0)
                if (part & used).any():
                    yield rows, columns


def _spans(length: int) -> list[Span]:
    """Where tiles begin and end along a side of `length` pixels: evenly, and never more than STEP apart."""
    steps = max(0, math.ceil((length - TILE) / STEP))
    starts = (round(step * (length - TILE) / steps) for step in range(1, steps + 1))
    return [(start, min(start + TILE, length)) for start in (0, *starts)]


def _fade(span: Span, length: int) -> Floats:
    """The weight of a tile's pixels along one side: 0, a ramp, 1; at the picture's own border 1 up to the end."""
    size = span[1] - span[0]
    ramp = np.clip((np.arange(size, dtype=np.float32) - CONTEXT + 0.5) / FADE, 0.0, 1.0)
    rising = ramp if span[0] > 0 else np.ones_like(ramp)
    falling = ramp[::-1] if span[1] < length else np.ones_like(ramp)
    return np.asarray(rising * falling, np.float32)


def _guess(pixels: images.Pixels, mask: Mask, window: tuple[slice, slice], paint: Paint) -> Floats:
    """What `window` (0..1) may look like without what `mask` covers, seen in its surroundings."""
    rows, columns = window
    more = max(TILE // 8, round(AROUND * max(rows.stop - rows.start, columns.stop - columns.start)))
    top, left = max(0, rows.start - more), max(0, columns.start - more)
    wide = np.s_[top : rows.stop + more, left : columns.stop + more]
    hole = mask[wide].astype(np.float32)
    shrink = min(1.0, TILE / max(hole.shape))
    size = max(1, round(hole.shape[1] * shrink)), max(1, round(hole.shape[0] * shrink))
    small = cv2.resize(pixels[wide], size, interpolation=cv2.INTER_AREA)
    unknown = cv2.resize(hole, size, interpolation=cv2.INTER_AREA) > 0.0
    painted = _painted(small, unknown, [((0, size[1]), (0, size[0]))], paint)[0]
    back = cv2.resize(painted, hole.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(back[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left], np.float32)


def _painted(pixels: npt.NDArray[Any], unknown: Mask, tiles: list[Tile], paint: Paint) -> list[Floats]:
    """What `paint` makes of tiles of one size: each H×W×3 in 0..1. It never sees what it is to replace."""
    (top, bottom), (left, right) = tiles[0]
    pad = [(0, -(-max(side, SIDE_MIN) // MULTIPLE) * MULTIPLE - side) for side in (bottom - top, right - left)]
    white = np.float32(np.iinfo(pixels.dtype).max)
    holes = np.stack([np.pad(unknown[slice(*rows), slice(*columns)], pad, "symmetric") for rows, columns in tiles])
    seen = np.stack(
        [np.pad(pixels[slice(*rows), slice(*columns)], [*pad, (0, 0)], "symmetric") for rows, columns in tiles]
    )
    masks = holes[..., None].astype(np.float32)
    painted = paint(seen.astype(np.float32) / white * (1 - masks), masks)
    return [one[: bottom - top, : right - left] for one in painted]
