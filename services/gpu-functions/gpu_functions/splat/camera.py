"""How wide the camera saw: its focal length, from EXIF or assumed."""

from __future__ import annotations

import math
from typing import Final

import pyvips

FOCAL_MM: Final = 30.0  # of a camera that does not say: what SHARP assumes too; phones have 24 to 28
FOCAL_MM_RANGE: Final = (8.0, 800.0)  # a fisheye and a long lens; beyond, the field is taken for nonsense
FRAME_MM: Final = math.hypot(36.0, 24.0)  # the diagonal of the film that the length in EXIF refers to


def focal_mm(data: bytes) -> float:
    """The focal length of an encoded picture in mm, as for 35 mm film; `FOCAL_MM` when it does not say.

    Reads the header only and raises nothing: who decodes the pixels says what is wrong with them.
    """
    try:
        header = pyvips.Image.new_from_buffer(data, "")
        said = str(header.get("exif-ifd2-FocalLengthIn35mmFilm"))  # "28 (28, Short, 1 components, 2 bytes)"
        length = float(said.partition(" ")[0])
    except (pyvips.Error, ValueError):
        return FOCAL_MM
    low, high = FOCAL_MM_RANGE
    return length if low <= length <= high else FOCAL_MM


def focal_px(mm: float, width: int, height: int) -> float:
    """The focal length in pixels of a whole, uncropped picture: both are shares of the diagonal."""
    return mm * math.hypot(width, height) / FRAME_MM
