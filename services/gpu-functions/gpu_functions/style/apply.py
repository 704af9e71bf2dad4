"""The engine `cube-lut`: a trained look as a 3D LUT, applied by OpenColorIO.

Interpolation is tetrahedral. Colour is computed in float and rounded once at the end, so an
identity LUT gives back the same pixels in 8 and in 16 bit. The LUT is handed to OpenColorIO as
numbers in memory: it can read .cube files itself, but only from disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import PyOpenColorIO
from pydantic import BaseModel, Field, JsonValue

from gpu_functions import images
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work, input_of
from gpu_functions.style import cube

STRIP_ROWS: Final = 128  # 128 rows of 6000 pixels are 9 MB of float: the cache's size, not the picture's


class StyleParameters(BaseModel):
    """`strength` 0 leaves the picture as it is, 1 applies the whole look."""

    strength: float = Field(default=1.0, ge=0.0, le=1.0)


class CubeLut:
    """`image` and `lut` -> `image`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Nothing to load."""

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises STYLE_INVALID, IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
        strength = StyleParameters.model_validate(parameters).strength
        lut = cube.parse(input_of(inputs, "lut"))
        picture = images.read(input_of(inputs, "image"))
        styled = apply(picture.pixels, lut, strength)
        facts: Facts = {"strength": strength, "lut_size": int(lut.table.shape[0])}
        return {"image": images.png(picture.with_pixels(styled))}, facts


def apply(pixels: images.Pixels, lut: cube.Cube, strength: float = 1.0) -> images.Pixels:
    """`pixels` (H×W×3, uint8 or uint16) through `lut`, blended linearly with the original by `strength`."""
    if strength == 0.0:
        return pixels
    height, width = pixels.shape[:2]
    white = np.float32(np.iinfo(pixels.dtype).max)
    processor = _processor(lut)
    result = np.empty_like(pixels)
    for top in range(0, height, STRIP_ROWS):
        strip = pixels[top : top + STRIP_ROWS].astype(np.float32)
        strip /= white
        graded = strip.copy()
        processor.apply(PyOpenColorIO.PackedImageDesc(graded, width, graded.shape[0], 3))
        if strength < 1.0:
            graded = strip + np.float32(strength) * (graded - strip)
        np.clip(graded, 0.0, 1.0, out=graded)
        graded *= white
        result[top : top + STRIP_ROWS] = np.rint(graded, out=graded).astype(pixels.dtype)
    return result


def _processor(lut: cube.Cube) -> PyOpenColorIO.CPUProcessor:
    size = lut.table.shape[0]
    table = PyOpenColorIO.Lut3DTransform(gridSize=size)
    table.setInterpolation(PyOpenColorIO.INTERP_TETRAHEDRAL)
    table.setData(np.ascontiguousarray(lut.table).ravel())  # [r, g, b] in C order: blue fastest, as OCIO wants
    scale = [1.0 / (high - low) for low, high in zip(lut.low, lut.high, strict=True)]
    domain = PyOpenColorIO.MatrixTransform(
        matrix=[scale[0], 0, 0, 0, 0, scale[1], 0, 0, 0, 0, scale[2], 0, 0, 0, 0, 1],
        offset=[-low * s for low, s in zip(lut.low, scale, strict=True)] + [0.0],
    )
    # Lossless keeps the LUT itself: the default optimisation may swap exactness for speed.
    group = PyOpenColorIO.GroupTransform([domain, table])
    return (
        PyOpenColorIO.Config.CreateRaw()
        .getProcessor(group)
        .getOptimizedCPUProcessor(PyOpenColorIO.OPTIMIZATION_LOSSLESS)
    )
