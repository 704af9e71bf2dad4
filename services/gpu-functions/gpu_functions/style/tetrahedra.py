"""Tetrahedral interpolation in a LUT, compiled by Halide for this processor when it is first needed.

The way from the lowest to the highest corner of a cell goes along the axis with the largest fraction first. A
fraction and its axis's stride are one integer, so that sorting three of them is a few maxima and minima. Places in
the LUT are whole numbers of 1 / white, so that nothing is rounded before the last step.

Why it is fast: of STRIP pixels at once all corners and shares are computed first, LANES pixels per instruction; then
each corner, three channels and an idle fourth, is one load and one multiplication. `docs/performance.md` has figures.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import halide as hl
import numpy as np
import numpy.typing as npt

from gpu_functions.images import Pixels

STRIP: Final = 4096  # pixels whose 4 corners and 4 shares are kept: 128 KiB, in a core's second cache
LANES: Final = 16  # 32-bit numbers that a processor with AVX-512 computes at once; with AVX2 in two steps
STRIDE_BITS: Final = 16  # 65² = 4225 and a fraction below 65536 fill 29 bits


def apply(pixels: Pixels, table: npt.NDArray[np.float32]) -> Pixels:
    """`pixels` (H×W×3, uint8 or uint16, STRIP of them or more) through `table` (N×N×N×3, its axes red, green, blue)."""
    white, size = np.iinfo(pixels.dtype).max, table.shape[0]
    corners = np.zeros((size**3, 4), np.float32)
    corners[:, :3] = table.reshape(-1, 3) * np.float32(white) + np.float32(0.5)  # what is cut off is then rounded
    result = np.empty(pixels.shape, pixels.dtype)
    _compiled(pixels.itemsize * 8)(np.ascontiguousarray(pixels).reshape(-1, 3), corners, size, result.reshape(-1, 3))
    return result


@cache
def _compiled(bits: int) -> Any:
    """pixels [M, 3], corners [N³, 4], N, result [M, 3] of so many bits. Takes 0.7 s, of a second depth 0.2 s."""
    pixel, channel, strip, within = (hl.Var(name) for name in ("pixel", "channel", "strip", "within"))
    codes = hl.ImageParam(hl.UInt(bits), 2, "codes")
    table = hl.ImageParam(hl.Float(32), 2, "table")
    size = hl.Param(hl.Int(32), "size")

    corners, shares = hl.Func("corners"), hl.Func("shares")
    corners[pixel], shares[pixel] = _path([codes[axis, pixel] for axis in range(3)], size, 2**bits - 1)
    colour, result = hl.Func("colour"), hl.Func("result")
    blend = sum(
        table[channel, hl.unsafe_promise_clamped(corners[pixel][step], 0, size * size * size - 1)] * shares[pixel][step]
        for step in range(4)
    )
    colour[channel, pixel] = hl.clamp(blend, 0.0, 2.0**bits - 0.5)  # a look may leave 0..1, a picture may not
    result[channel, pixel] = hl.cast(hl.UInt(bits), hl.cast(hl.Int(32), colour[channel, pixel]))

    for buffer, channels in ((codes, 3), (result.output_buffer(), 3), (table, 4)):
        buffer.dim(0).set_bounds(0, channels).set_stride(1)
        buffer.dim(1).set_stride(channels)
    result.reorder(channel, pixel).split(pixel, strip, within, STRIP, hl.TailStrategy.GuardWithIf).unroll(channel)
    for first in (corners, shares):
        first.compute_at(result, strip).vectorize(pixel, LANES)
    colour.compute_at(result, within).bound_extent(channel, 4).vectorize(channel)
    return result.compile_to_callable([codes, table, size])


def _path(codes: list[Any], size: Any, white: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Four corners as rows of the table, and their shares, which add up to 1."""

    def whole(value: Any) -> Any:
        return hl.cast(hl.UInt(32), value)

    strides = [whole(size * size), whole(size), whole(1)]
    places = [whole(code) * whole(size - 1) for code in codes]
    cells = [hl.min(place // white, whole(size - 2)) for place in places]
    red, green, blue = (
        ((place - cell * white) << STRIDE_BITS) | stride
        for place, cell, stride in zip(places, cells, strides, strict=True)
    )
    first, last = hl.max(hl.max(red, green), blue), hl.min(hl.min(red, green), blue)
    middle = hl.max(hl.min(red, green), hl.min(hl.max(red, green), blue))

    lowest = sum(cell * stride for cell, stride in zip(cells, strides, strict=True))
    second = lowest + (first & (2**STRIDE_BITS - 1))
    third = second + (middle & (2**STRIDE_BITS - 1))
    corners = (lowest, second, third, lowest + strides[0] + strides[1] + strides[2])

    a, b, c = (
        hl.cast(hl.Float(32), hl.cast(hl.Int(32), step >> STRIDE_BITS)) * hl.f32(1 / white)
        for step in (first, middle, last)
    )
    return tuple(hl.cast(hl.Int(32), corner) for corner in corners), (1 - a, a - b, b - c, c)
