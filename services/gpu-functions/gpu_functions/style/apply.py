"""The engine `cube-lut`: a look, given as a .cube or learnt from pairs, over a picture.

Whatever the look is, it becomes one LUT for this picture, with the strength in its table; then one kernel
runs. What is told of a learnt style says how sure it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, Field, JsonValue

from gpu_functions import images
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work, input_of
from gpu_functions.style import kernel
from gpu_functions.style.adaptive import look_of
from gpu_functions.style.cube import Cube


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
        lut, image = input_of(inputs, "lut"), input_of(inputs, "image")
        picture = images.read(image)
        look = look_of(lut, picture.pixels)
        styled = self.through(picture.pixels, look.lut, strength)
        return {"image": images.png(picture.with_pixels(styled))}, {"strength": strength, **look.facts}

    def through(self, pixels: images.Pixels, lut: Cube, strength: float) -> images.Pixels:
        """The kernel of this device."""
        return kernel.apply(pixels, lut, strength)
