"""A contact sheet: pairs below each other, each as before | styled | after. A JPEG without metadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyvips

from gpu_functions.engine import Output
from gpu_functions.style import judge
from gpu_functions.style.cube import Cube
from gpu_functions.style.prepare import Prepared

GAP_PX: Final = 8
QUALITY: Final = 88


def sheet(rows: Sequence[tuple[Prepared, Cube]]) -> Output:
    """The sheet of pairs, each with the LUT that is shown on it."""
    tiles = []
    for pair, lut in rows:
        styled = np.rint(judge.styled(pair, lut) * 255).astype(np.uint8)
        tiles += [_tile(pair.before), _tile(styled), _tile(pair.after)]
    joined = pyvips.Image.arrayjoin(tiles, across=3, shim=GAP_PX, background=[255.0, 255.0, 255.0], halign="centre")
    data: bytes = joined.write_to_buffer(".jpg", Q=QUALITY, keep="none")
    return Output(data, "image/jpeg", joined.width, joined.height)


def _tile(pixels: npt.NDArray[Any]) -> pyvips.Image:
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    return image.copy(interpretation="srgb")
