"""A LUT over a picture on one core of a CPU: tetrahedral, at the picture's own depth, rounded once.

So an identity gives back the same pixels in 8 and in 16 bit, and the result is all the memory that a picture takes.
Two libraries do it: Halide what is usual (`tetrahedra.py`: a picture, and a LUT over all colours), in half the time;
OpenColorIO a LUT over some of the colours, thumbnails, and everything on Linux on ARM, for which Halide has no wheel.
They differ by where halves are rounded to. `docs/performance.md` says what they were measured against.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import PyOpenColorIO

from gpu_functions.images import Pixels
from gpu_functions.style import grid
from gpu_functions.style.cube import Cube

COMPILED: Final = find_spec("halide") is not None
COMPILED_PIXELS_MIN: Final = 4096  # a thumbnail is not worth compiling for
STRIP_ROWS: Final = 128  # 128 rows of 6000 pixels are 9 MB of float: the cache's size, not the picture's
_DEPTHS: Final = {
    np.dtype(np.uint8): PyOpenColorIO.BIT_DEPTH_UINT8,
    np.dtype(np.uint16): PyOpenColorIO.BIT_DEPTH_UINT16,
    np.dtype(np.float32): PyOpenColorIO.BIT_DEPTH_F32,
}


def apply(pixels: Pixels, lut: Cube, strength: float = 1.0) -> Pixels:
    """`pixels` (H×W×3, uint8 or uint16) through `lut`, blended linearly with the original by `strength` 0..1."""
    if strength == 0.0:
        return pixels
    if strength == 1.0 or covers(lut):
        look = softened(lut, strength)
        if COMPILED and pixels.size >= 3 * COMPILED_PIXELS_MIN and (look.low, look.high) == ((0.0,) * 3, (1.0,) * 3):
            from gpu_functions.style import tetrahedra  # here and not above: it may be missing

            return tetrahedra.apply(pixels, look.table)
        return _through(pixels, look, np.empty_like(pixels))
    return _blended(pixels, lut, strength)


def covers(lut: Cube) -> bool:
    """Whether the domain holds every colour of a picture: clamping to it then changes none."""
    return max(lut.low) <= 0.0 and min(lut.high) >= 1.0


def softened(lut: Cube, strength: float) -> Cube:
    """The LUT that does `strength` of what `lut` does, to colours inside its domain.

    Tetrahedra give back a linear function exactly, so blending the table is blending the pixels.
    """
    if strength == 1.0:
        return lut
    low, high = np.array(lut.low), np.array(lut.high)
    plain = low + grid.identity(lut.table.shape[0]) * (high - low)
    return replace(lut, table=(plain + strength * (lut.table - plain)).astype(np.float32))


def _blended(pixels: Pixels, lut: Cube, strength: float) -> Pixels:
    """The same for a narrow domain: what lies outside is clamped in the look, and not in the original."""
    white, result = np.float32(np.iinfo(pixels.dtype).max), np.empty_like(pixels)
    for top in range(0, len(pixels), STRIP_ROWS):
        strip = pixels[top : top + STRIP_ROWS]
        plain = strip / white
        look = _through(strip, lut, np.empty(strip.shape, np.float32))
        mixed = np.clip(plain + np.float32(strength) * (look - plain), 0.0, 1.0)
        result[top : top + STRIP_ROWS] = np.rint(mixed * white)
    return result


def _through(pixels: Pixels, lut: Cube, result: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """By OpenColorIO, into `result` of any depth. It takes the LUT as numbers; .cube files it reads from disk only."""
    source, target = _DEPTHS[pixels.dtype], _DEPTHS[result.dtype]
    # Lossless keeps the LUT itself: the default optimisation may swap exactness for speed.
    processor = _processor(lut).getOptimizedCPUProcessor(source, target, PyOpenColorIO.OPTIMIZATION_LOSSLESS)
    processor.apply(_described(np.ascontiguousarray(pixels), source), _described(result, target))
    return result


def _described(pixels: npt.NDArray[Any], depth: PyOpenColorIO.BitDepth) -> PyOpenColorIO.PackedImageDesc:
    height, width = pixels.shape[:2]
    return PyOpenColorIO.PackedImageDesc(pixels, width, height, 3, depth, *reversed(pixels.strides))


def _processor(lut: Cube) -> PyOpenColorIO.Processor:
    table = PyOpenColorIO.Lut3DTransform(gridSize=lut.table.shape[0])
    table.setInterpolation(PyOpenColorIO.INTERP_TETRAHEDRAL)
    table.setData(np.ascontiguousarray(lut.table).ravel())  # [r, g, b] in C order: blue fastest, as OCIO wants
    scale = [1.0 / (high - low) for low, high in zip(lut.low, lut.high, strict=True)]
    domain = PyOpenColorIO.MatrixTransform(
        matrix=[scale[0], 0, 0, 0, 0, scale[1], 0, 0, 0, 0, scale[2], 0, 0, 0, 0, 1],
        offset=[-low * s for low, s in zip(lut.low, scale, strict=True)] + [0.0],
    )
    group = PyOpenColorIO.GroupTransform([domain, table])
    return PyOpenColorIO.Config.CreateRaw().getProcessor(group)
