"""The engine `cube-lut`: a look, given as a .cube or learnt from pairs, over a picture.

Whatever the look is, it becomes one LUT for this picture, with the strength in its table; then one kernel
runs. What is told of a learnt style says how sure it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field, JsonValue

from gpu_functions import images
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Made, Place, Work, input_of
from gpu_functions.style import kernel
from gpu_functions.style.adaptive import Look, Looks
from gpu_functions.style.cube import Cube


class StyleParameters(BaseModel):
    """`strength` 0 leaves the picture as it is, 1 applies the whole look."""

    strength: float = Field(default=1.0, ge=0.0, le=1.0)


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture that was opened, and what a style does to it."""

    picture: images.Picture
    look: Look
    strength: float

    def styled(self, pixels: images.Pixels) -> Made:
        """The result, when its pixels went through the look."""
        facts: Facts = {"strength": self.strength, **self.look.facts}
        return {"image": images.png(self.picture.with_pixels(pixels))}, facts


def opened(
    inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], looks: Callable[[bytes], Looks] = Looks
) -> Shot:
    """Decode `image`, and ask what `lut` does to it. Raises STYLE_INVALID, IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
    strength = StyleParameters.model_validate(parameters).strength
    lut, image = input_of(inputs, "lut"), input_of(inputs, "image")
    picture = images.read(image)
    return Shot(picture, looks(lut).of(picture.pixels), strength)


class CubeLut:
    """`image` and `lut` -> `image`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Nothing to load."""

    def run(self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE) -> Made:
        """See Engine. Raises STYLE_INVALID, IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
        shot = opened(inputs, parameters)
        return shot.styled(self.through(shot.picture.pixels, shot.look.lut, shot.strength))

    def through(self, pixels: images.Pixels, lut: Cube, strength: float) -> images.Pixels:
        """The kernel of this device."""
        return kernel.apply(pixels, lut, strength)
