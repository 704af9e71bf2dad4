"""Kernels that numba compiles, as `just bench lut` measures them beside ours. None is part of the product.

A fraction of a cell and its axis's stride are one integer, so that sorting three of them is a few comparisons.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
from numba import float32, int32, uint32, uint64

Array = npt.NDArray[Any]

UNITS: Final = 8160  # of full white in the packed table: 32 per code; times 255 they fill 21 of 64 bits


def axes(size: int, white: int) -> tuple[Array, Array]:
    """Of each code: its cell, and its place in the cell in steps of 1 / white. Exact."""
    place = np.arange(white + 1, dtype=np.int64) * (size - 1)
    cell = np.minimum(place // white, size - 2)
    return cell, place - cell * white


def fixed_point(table: Array, pixels: Array) -> Array:
    """8 bit only: three channels in one 64-bit word, so that a corner of a cell is one multiplication."""
    size = len(table)
    packed = _packed(table)
    cell, rest = axes(size, 255)
    steps = [(cell * s + (s << 32) + (rest << 48)).astype(np.uint64) for s in (size * size, size, 1)]
    result = np.empty_like(pixels)
    _fixed(pixels.reshape(-1), packed, *steps, result.reshape(-1), np.uint64(size * size + size + 1))
    return result


def every_colour(table: Array, pixels: Array) -> Array:
    """8 bit only: the LUT for all 2²⁴ colours first (50 MB), then one look each."""
    known, result = fixed_point(table, _all_colours()), np.empty_like(pixels)
    _looked_up(pixels.reshape(-1), known.reshape(-1), result.reshape(-1))
    return result


def floating(table: Array, pixels: Array) -> Array:
    """Either depth: the six tetrahedra as branches, in float."""
    size, white = len(table), int(np.iinfo(pixels.dtype).max)
    rows = np.zeros((size**3, 4), np.float32)
    rows[:, :3] = np.clip(table.reshape(-1, 3), 0, 1) * white
    cell, rest = axes(size, white)
    result = np.empty_like(pixels)
    arguments = (rows.reshape(-1), cell.astype(np.int32), (rest / white).astype(np.float32), size)
    _floating(pixels.reshape(-1), *arguments, result.reshape(-1))
    return result


def without_branches(table: Array, pixels: Array) -> Array:
    """Either depth: in float, and the order of the axes by maxima and minima."""
    size, white = len(table), int(np.iinfo(pixels.dtype).max)
    rows = np.zeros((size**3, 4), np.float32)
    rows[:, :3] = np.clip(table.reshape(-1, 3), 0, 1) * white + 0.5
    cell, rest = axes(size, white)
    steps = [((rest << 44) + (s << 24) + cell * s).astype(np.uint64) for s in (size * size, size, 1)]
    arguments = (rows.reshape(-1), *steps, np.uint64(size * size + size + 1), np.float32(1 / white))
    result = np.empty_like(pixels)
    _sorted(pixels.reshape(-1), *arguments, result.reshape(-1))
    return result


def _compiled(loop: Any) -> Any:
    return numba.njit(cache=True, nogil=True)(loop)


@cache
def _all_colours() -> Array:
    axis = np.arange(256, dtype=np.uint8)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def _packed(table: Array) -> Array:
    red, green, blue = np.moveaxis(np.rint(np.clip(table, 0, 1).astype(np.float64) * UNITS).astype(np.uint64), -1, 0)
    return np.ascontiguousarray((red | green << np.uint64(21) | blue << np.uint64(42)).ravel())


def _fixed_loop(source, table, reds, greens, blues, result, opposite):  # type: ignore[no-untyped-def]
    for pixel in range(source.size // 3):
        at = 3 * pixel
        x, y, z = reds[source[at]], greens[source[at + 1]], blues[source[at + 2]]
        corner = (x + y + z) & uint64(0xFFFFFFFF)
        x, y, z = x >> uint64(32), y >> uint64(32), z >> uint64(32)
        high, low = max(x, y), min(x, y)
        middle, last = max(low, z), min(low, z)
        first, middle = max(high, middle), min(high, middle)
        a, b, c = first >> uint64(16), middle >> uint64(16), last >> uint64(16)
        second = corner + (first & uint64(0xFFFF))
        third = second + (middle & uint64(0xFFFF))
        total = table[corner] * (uint64(255) - a) + table[second] * (a - b) + table[third] * (b - c)
        total += table[corner + opposite] * c
        half, units = uint64(UNITS // 2), uint64(UNITS)
        result[at] = ((total & uint64(0x1FFFFF)) + half) // units
        result[at + 1] = (((total >> uint64(21)) & uint64(0x1FFFFF)) + half) // units
        result[at + 2] = ((total >> uint64(42)) + half) // units


def _looked_up_loop(source, known, result):  # type: ignore[no-untyped-def]
    for pixel in range(source.size // 3):
        at = 3 * pixel
        place = 3 * ((uint32(source[at]) << uint32(16)) | (uint32(source[at + 1]) << uint32(8)) | source[at + 2])
        result[at], result[at + 1], result[at + 2] = known[place], known[place + 1], known[place + 2]


def _floating_loop(source, table, cells, rests, size, result):  # type: ignore[no-untyped-def]
    sr, sg, sb = size * size, size, 1
    for pixel in range(source.size // 3):
        at = 3 * pixel
        red, green, blue = source[at], source[at + 1], source[at + 2]
        r, g, b = rests[red], rests[green], rests[blue]
        corner = cells[red] * sr + cells[green] * sg + cells[blue]
        if r >= g:
            if g >= b:
                first, second, third, one, two = r, g, b, sr, sr + sg
            elif r >= b:
                first, second, third, one, two = r, b, g, sr, sr + sb
            else:
                first, second, third, one, two = b, r, g, sb, sr + sb
        elif r >= b:
            first, second, third, one, two = g, r, b, sg, sr + sg
        elif g >= b:
            first, second, third, one, two = g, b, r, sg, sg + sb
        else:
            first, second, third, one, two = b, g, r, sb, sg + sb
        p, q, s, t = 4 * corner, 4 * (corner + one), 4 * (corner + two), 4 * (corner + sr + sg + sb)
        for k in range(3):
            value = table[p + k] * (float32(1) - first) + table[q + k] * (first - second)
            value += table[s + k] * (second - third) + table[t + k] * third
            result[at + k] = int32(value + float32(0.5))


def _sorted_loop(source, table, reds, greens, blues, opposite, unit, result):  # type: ignore[no-untyped-def]
    low, stride = uint64(0xFFFFFF), uint64(0xFFFFF)
    for pixel in range(source.size // 3):
        at = 3 * pixel
        x, y, z = reds[source[at]], greens[source[at + 1]], blues[source[at + 2]]
        corner = (x + y + z) & low
        x, y, z = x >> uint64(24), y >> uint64(24), z >> uint64(24)
        high, least = max(x, y), min(x, y)
        middle, last = max(least, z), min(least, z)
        first, middle = max(high, middle), min(high, middle)
        second = corner + (first & stride)
        third = second + (middle & stride)
        a, b = float32(int32(first >> uint64(20))) * unit, float32(int32(middle >> uint64(20))) * unit
        c = float32(int32(last >> uint64(20))) * unit
        p, q = corner << uint64(2), second << uint64(2)
        s, t = third << uint64(2), (corner + opposite) << uint64(2)
        for k in range(3):
            i = uint64(k)
            value = table[p + i] * (float32(1) - a) + table[q + i] * (a - b)
            value += table[s + i] * (b - c) + table[t + i] * c
            result[at + k] = int32(value)


_fixed, _looked_up, _floating, _sorted = map(_compiled, (_fixed_loop, _looked_up_loop, _floating_loop, _sorted_loop))
