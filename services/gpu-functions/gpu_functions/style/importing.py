"""The engine `cube-import`: a look from another tool becomes a style.

Its .cube is read as strictly as when it is applied, written anew from the numbers alone (titles and
comments are somebody's text), and shown on a chart of colours: as they are above, graded below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyvips
from pydantic import JsonValue

from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work, input_of
from gpu_functions.style import cube, grid

CUBE: Final = "application/x-cube-lut"
CHART: Final = (720, 180)  # width: all hues once; height: from light to dark
GREYS: Final = 40  # rows of a ramp below it
CHROMA: Final = 45.0  # of CIE LCh: what most hues reach inside sRGB at most lightnesses

Floats = npt.NDArray[np.float32]


class CubeImport:
    """`original` (a .cube) -> `cube`, `preview`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Nothing to load."""

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Facts: `lut_size`, `mean_change` (of a colour value of the chart, 0..1). Raises STYLE_INVALID."""
        look = cube.parse(input_of(inputs, "original"))
        before = chart()
        after = graded(before, look)
        facts: Facts = {
            "lut_size": int(look.table.shape[0]),
            "mean_change": round(float(np.abs(after - before).mean()), 4),
        }
        return {"cube": Output(cube.write(look, "Safelight"), CUBE), "preview": _jpeg(before, after)}, facts


def chart() -> Floats:
    """Colours of all hues from light to dark, and all greys: H×W×3, sRGB 0..1."""
    width, height = CHART
    lch = np.empty((height, width, 3), np.float32)
    lch[..., 0] = np.linspace(95, 10, height, dtype=np.float32)[:, None]
    lch[..., 1] = CHROMA
    lch[..., 2] = np.linspace(0, 360, width, endpoint=False, dtype=np.float32)
    image = pyvips.Image.new_from_memory(lch.data, width, height, 3, "float").copy(interpretation="lch")
    colours = image.colourspace("srgb").numpy().astype(np.float32) / np.float32(255)
    ramp = np.linspace(0, 1, width, dtype=np.float32)[None, :, None].repeat(GREYS, 0).repeat(3, 2)
    found: Floats = np.clip(np.concatenate([colours, ramp]), 0, 1)
    return found


def graded(colours: Floats, look: cube.Cube) -> Floats:
    """`colours` (H×W×3) through the look, for the eye: trilinear, cut to 0..1."""
    low, high = np.array(look.low, np.float32), np.array(look.high, np.float32)
    return np.clip(grid.read(look.table, (colours - low) / (high - low)), 0, 1)


def _jpeg(before: Floats, after: Floats) -> Output:
    both = np.rint(np.concatenate([before, after]) * 255).astype(np.uint8)
    height, width = both.shape[:2]
    image = pyvips.Image.new_from_memory(both.data, width, height, 3, "uchar").copy(interpretation="srgb")
    return Output(image.write_to_buffer(".jpg", Q=85, keep="none"), "image/jpeg", width, height)
