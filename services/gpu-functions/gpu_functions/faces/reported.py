"""A face as `analyze` reports it, what can be asked for it, and where in the picture it is looked for."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import BaseModel, Field

Fraction = Annotated[float, Field(ge=-1.0, le=2.0, allow_inf_nan=False)]  # a detector may look over the rim


class Face(BaseModel):
    """A face as `analyze` reports it, normalised to the upright picture.

    `box` is x, y, width, height; `landmarks` begins with the right and the left eye.
    """

    box: tuple[Fraction, Fraction, Fraction, Fraction]
    landmarks: list[tuple[Fraction, Fraction]] = Field(default_factory=list)

    def around(self, width: int, height: int, side_min: int) -> Around | str:
        """Where the face is in a picture of `width` and `height` pixels, or why it is skipped."""
        x, y, w, h = (value * side for value, side in zip(self.box, (width, height) * 2, strict=True))
        if max(w, h) < side_min:
            return "too_small"
        # Twice the box holds hair and chin of any detector's idea of a face.
        left, top = max(0, math.floor(x - w / 2)), max(0, math.floor(y - h / 2))
        right, bottom = min(width, math.ceil(x + 1.5 * w)), min(height, math.ceil(y + 1.5 * h))
        if right - left < side_min or bottom - top < side_min:
            return "outside_the_picture"
        return Around(left, top, right, bottom, (x - left, y - top, w, h), self._roll(width, height))

    def _roll(self, width: int, height: int) -> float:
        if len(self.landmarks) < 2:
            return 0.0
        (rx, ry), (lx, ly) = self.landmarks[:2]
        return math.atan2((ly - ry) * height, (lx - rx) * width)


class Around(NamedTuple):
    """The part of the picture that holds a face, in pixels; `box` (x, y, width, height) is the face's place in it.

    `roll` is the angle of the line from the right to the left eye in radians; 0 when it is not reported.
    """

    left: int
    top: int
    right: int
    bottom: int
    box: tuple[float, float, float, float]
    roll: float

    @property
    def window(self) -> tuple[slice, slice]:
        """The part as an index into the picture."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


class RetouchParameters(BaseModel):
    """`fidelity` 1 stays as close to the picture as an engine can, 0 lets it do most."""

    faces: list[Face]
    fidelity: float = Field(default=0.7, ge=0.0, le=1.0)
