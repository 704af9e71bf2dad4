"""The engine `telea-inpaint`: takes power lines and exit signs out of a picture, and fills them from what is beside."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from gpu_functions import images
from gpu_functions.cleanup import fill, removal
from gpu_functions.cleanup.removal import Holes
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work


class TeleaInpaint:
    """`image` -> `image`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Nothing to load."""

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, DECODE_LIMIT."""
        return removal.run(inputs, parameters, by_continuing, sign_bits=8)  # see fill.py: only the texture under a sign


def by_continuing(pixels: images.Pixels, holes: Holes) -> None:
    """Telea for wires, frequency-selective reconstruction for signs; see `removal.Fill`."""
    fill.thin(pixels, holes.wires, holes.wires | holes.signs, radius=min(8, max(3, round(holes.widest / 2))))
    for window in holes.windows:
        fill.patch(pixels, holes.signs, window)
