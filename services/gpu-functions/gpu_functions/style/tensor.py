"""The engine `tensor-lut`: the same look on a GPU, by torch, tetrahedral as on the CPU.

What differs from the CPU is where halves are rounded to: one code value at most. grid_sample would be
shorter, but it is trilinear: other pixels than the CPU's, and slower (see docs/performance.md).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from gpu_functions.engine import OWN_CPU, Place
from gpu_functions.images import Pixels
from gpu_functions.style import kernel
from gpu_functions.style.apply import CubeLut
from gpu_functions.style.cube import Cube

CHUNK: Final = 1 << 22  # pixels at once: 4 M of them take 600 MB of the device
FRACTIONS: Final = 65535  # in a cell; 255 and 65535 divide it, so an even grid over 0..1 has whole numbers of them
STRIDE_BITS: Final = 13  # 65² = 4225 < 2¹³, and three sums of a fraction above it fit an int32
STRIDE: Final = (1 << STRIDE_BITS) - 1


class TensorLut(CubeLut):
    """`image` and `lut` -> `image`. The predictor stays on the CPU: it is smaller than the way to the device."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Nothing to load but the device."""
        self._device = torch.device("cuda" if place.device == "gpu" and torch.cuda.is_available() else "cpu")

    def through(self, pixels: Pixels, lut: Cube, strength: float) -> Pixels:
        """See CubeLut."""
        if strength == 0.0:
            return pixels
        if strength < 1.0 and not kernel.covers(lut):
            return kernel.apply(pixels, lut, strength)  # a narrow domain in part: too rare for a kernel of its own
        return apply(pixels, kernel.softened(lut, strength), self._device)


@torch.inference_mode()
def apply(pixels: Pixels, lut: Cube, device: torch.device) -> Pixels:
    """`pixels` (H×W×3, uint8 or uint16) through `lut` on `device`, a chunk at a time."""
    white = int(np.iinfo(pixels.dtype).max)
    axes = torch.from_numpy(axes_of(lut, white)).to(device)
    table = torch.from_numpy(np.ascontiguousarray(lut.table).reshape(-1, 3)).to(device)
    flat = torch.from_numpy(np.ascontiguousarray(pixels).reshape(-1, 3))
    result = torch.empty_like(flat)
    for start in range(0, len(flat), CHUNK):
        codes = flat[start : start + CHUNK].to(device).to(torch.int32)
        colours = tetrahedral(codes, axes, table).clamp_(0.0, 1.0)
        result[start : start + CHUNK] = colours.mul_(white).round_().to(flat.dtype)
    found: Pixels = result.numpy().reshape(pixels.shape)
    return found


def tetrahedral(colours: torch.Tensor, axes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """int32 codes [M, 3] by the axes and the table [N³, 3] of a LUT -> float32 colours [M, 3].

    The way from corner to corner of a cell goes along the axis with the largest fraction first. A fraction
    and its axis's stride are one integer, so that sorting three of them is a maximum, a minimum and the rest.
    """
    cells, steps = zip(*(axes[channel, colours[:, channel]].unbind(1) for channel in range(3)), strict=True)
    first = torch.maximum(torch.maximum(steps[0], steps[1]), steps[2])
    last = torch.minimum(torch.minimum(steps[0], steps[1]), steps[2])
    corner, left = cells[0] + cells[1] + cells[2], torch.full_like(first, FRACTIONS)
    result = torch.zeros_like(colours, dtype=torch.float32)
    for step in (first, steps[0] + steps[1] + steps[2] - first - last, last):
        share = step >> STRIDE_BITS
        result += table[corner] * (left - share)[:, None]
        corner, left = corner + (step & STRIDE), share
    return (result + table[corner] * left[:, None]) / FRACTIONS


def axes_of(lut: Cube, white: int) -> npt.NDArray[np.int32]:
    """Of each channel and code: where its cell begins, and its fraction above its stride. [3, white + 1, 2]"""
    size = lut.table.shape[0]
    codes = np.arange(white + 1) / white
    axes = np.empty((3, white + 1, 2), np.int32)
    for channel, (stride, low, high) in enumerate(zip((size * size, size, 1), lut.low, lut.high, strict=True)):
        place = np.clip((codes - low) / (high - low), 0.0, 1.0) * (size - 1)
        cell = np.clip(np.floor(place), 0, size - 2)
        axes[channel, :, 0] = cell * stride
        axes[channel, :, 1] = np.rint((place - cell) * FRACTIONS).astype(np.int32) << STRIDE_BITS | stride
    return axes
