"""LUTs as text, and a tetrahedral interpolation that shares nothing with the engine's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def text(size: int, look: Callable[[Floats], Floats], header: str = "") -> bytes:
    """A .cube of `look`, which maps N×3 colours in 0..1; red runs fastest."""
    axis = np.linspace(0, 1, size)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    rows = look(np.column_stack([red.ravel(), green.ravel(), blue.ravel()]))
    body = "\n".join(f"{r:.8f} {g:.8f} {b:.8f}" for r, g, b in rows)
    return f'TITLE "a look"\n# a comment\nLUT_3D_SIZE {size}\n{header}\n{body}\n'.encode()


def identity(colours: Floats) -> Floats:
    return colours


def film(colours: Floats) -> Floats:
    """A curved look in which channels mix, so that every mistake of order or axis shows."""
    r, g, b = colours.T
    return np.column_stack([0.1 + 0.8 * r**0.8, 0.7 * g + 0.3 * b * g, np.clip(1.1 * b**1.3 - 0.2 * r, -0.1, 1.2)])


def tetrahedral(pixels: Floats, size: int, look: Callable[[Floats], Floats]) -> Floats:
    """`look` sampled at `size`³ points and interpolated: sort the fractions, walk from corner to corner."""
    grid = np.clip(pixels, 0, 1) * (size - 1)
    base = np.minimum(np.floor(grid), size - 2)
    fraction = grid - base
    order = np.argsort(-fraction, axis=1)
    ranked = np.take_along_axis(fraction, order, axis=1)
    edges = np.column_stack([1 - ranked[:, 0], ranked[:, 0] - ranked[:, 1], ranked[:, 1] - ranked[:, 2], ranked[:, 2]])
    corner, result = base.copy(), np.zeros_like(pixels)
    for step in range(4):
        result += edges[:, step : step + 1] * look(corner / (size - 1))
        if step < 3:
            corner[np.arange(len(corner)), order[:, step]] += 1
    return result
