"""The colour grid of a look: where its points lie, how it is read between them, and light behind sRGB.

Grids are indexed [r][g][b]; colours are sRGB in 0..1, the last axis is RGB.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIZE: Final = 33  # points a side: what grading tools use; 33³ × 3 × 4 bytes = 431 kB


def identity(size: int = SIZE) -> Floats:
    """The grid that changes nothing: float32 [size, size, size, 3]."""
    axis = np.linspace(0.0, 1.0, size, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)


def corners(colours: npt.NDArray[Any], size: int = SIZE) -> tuple[npt.NDArray[np.int32], Floats]:
    """The eight grid points around each of M×3 colours, and their trilinear weights: both M×8.

    Points are counted in C order of [r][g][b]. Colours outside 0..1 are clamped.
    """
    place = np.clip(colours, 0.0, 1.0).astype(np.float32) * np.float32(size - 1)
    low = np.minimum(place.astype(np.int32), size - 2)
    rest = place - low
    near = 1.0 - rest
    points = np.empty((len(place), 8), np.int32)
    weights = np.empty((len(place), 8), np.float32)
    for index, (r, g, b) in enumerate(product((0, 1), repeat=3)):
        points[:, index] = ((low[:, 0] + r) * size + low[:, 1] + g) * size + low[:, 2] + b
        weights[:, index] = (rest if r else near)[:, 0] * (rest if g else near)[:, 1] * (rest if b else near)[:, 2]
    return points, weights


def read(table: Floats, colours: npt.NDArray[Any]) -> Floats:
    """`table` [N, N, N] or [N, N, N, C] at `colours` [..., 3], trilinear: [...] or [..., C]."""
    size = table.shape[0]
    points, weights = corners(colours.reshape(-1, 3), size)
    rows = table.reshape(size**3, -1)
    found = np.zeros((len(points), rows.shape[1]), np.float32)
    for corner in range(8):  # one corner after the other: no array of eight times the picture
        found += weights[:, corner, None] * rows[points[:, corner]]
    return found.reshape(colours.shape[:-1] + table.shape[3:])


def to_light(colours: npt.NDArray[Any]) -> Floats:
    """sRGB 0..1 to linear light (IEC 61966-2-1)."""
    colours = np.asarray(colours, np.float32)
    return np.where(
        colours <= 0.04045, colours / np.float32(12.92), ((colours + np.float32(0.055)) / np.float32(1.055)) ** 2.4
    ).astype(np.float32)


def from_light(light: npt.NDArray[Any]) -> Floats:
    """Linear light to sRGB, both clamped to 0..1."""
    light = np.clip(light, 0.0, 1.0).astype(np.float32)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)
