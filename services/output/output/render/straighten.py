"""Making a photo level: turning it by the angle of its horizon, and what is left of it then.

The photo is turned about its middle, on a canvas of its own size. Of the turned photo the largest window around the
middle that has the photo's aspect and no empty corner is kept, its frame: of a photo of 3:2, 97 % of each side at
one degree, 83 % at eight. With half sides a and b, turned by t, a window fits when its corners do:

    a cos t + b |sin t| <= W / 2        a |sin t| + b cos t <= H / 2

A face is never cut: where one does not fit into the frame, the photo stays as it was taken.
"""

from __future__ import annotations

from math import ceil, cos, radians, sin
from typing import Final, TypeAlias

import numpy as np
import pyvips
from numpy.typing import NDArray

Boxes: TypeAlias = NDArray[np.float64]  # [n, 4]: x, y, width, height, normalised 0..1

ANGLES: Final = (0.3, 8.0)  # degrees: less nobody sees, more is meant, or costs more of the photo than it gives
CONFIDENCE_MIN: Final = 0.6  # two families of lines that agree, or one line from side to side
EDGE: Final = 1  # pixels around the frame that the interpolation may reach


def worthwhile(angle: float, confidence: float) -> bool:
    """Whether a horizon of `angle` degrees, measured with `confidence` 0..1, is turned level."""
    return confidence >= CONFIDENCE_MIN and ANGLES[0] <= abs(angle) <= ANGLES[1]


def frame(width: int, height: int, angle: float) -> tuple[int, int, int, int] | None:
    """x, y, width, height in pixels of the turned canvas; None when a photo is too small to have one."""
    along, across = cos(radians(angle)), abs(sin(radians(angle)))
    share = min(width / (width * along + height * across), height / (width * across + height * along))
    x, y = (ceil(side * (1 - share) / 2) + EDGE for side in (width, height))
    w, h = width - 2 * x, height - 2 * y
    return (x, y, w, h) if min(w, h) >= 1 else None


def turned_boxes(boxes: Boxes, width: int, height: int, angle: float) -> Boxes:
    """What surrounds each box after the photo has been turned, on the same canvas: they grow a little."""
    x, y, w, h = np.clip(boxes, -1, 2).reshape(-1, 4).T
    left, top, right, bottom = (np.clip(edge, 0, 1) for edge in (x, y, x + w, y + h))
    corners = np.stack([left, top, right, top, left, bottom, right, bottom], axis=1).reshape(-1, 4, 2) - 0.5
    t = radians(angle)
    turn = np.array([[cos(t), sin(t)], [-sin(t), cos(t)]])
    size = np.array([width, height])
    moved = (corners * size) @ turn.T / size + 0.5
    low, high = moved.min(axis=1), moved.max(axis=1)
    result: Boxes = np.hstack([low, high - low])
    return result


def fit(boxes: Boxes, window: tuple[int, int, int, int], width: int, height: int) -> Boxes | None:
    """Boxes of the canvas as shares of the window; None when one of them would be cut."""
    x, y, w, h = window
    low = (boxes[:, :2] * (width, height) - (x, y)) / (w, h)
    size = boxes[:, 2:] * (width, height) / (w, h)
    if (low < 0).any() or (low + size > 1).any():
        return None
    result: Boxes = np.hstack([low, size])
    return result


def turned(image: pyvips.Image, angle: float, window: tuple[int, int, int, int]) -> pyvips.Image:
    """The window of `image` turned counterclockwise by `angle` degrees ; bit depth, alpha and profile stay.

    Bicubic; with alpha, which libvips multiplies in and out by itself, bilinear: what overshoots there has no colour.
    """
    t = radians(angle)
    matrix = [cos(t), sin(t), -sin(t), cos(t)]
    middle = (image.width - 1) / 2, (image.height - 1) / 2  # libvips' whole numbers are the middles of pixels
    return image.affine(
        matrix,
        interpolate=pyvips.Interpolate.new("bilinear" if image.hasalpha() else "bicubic"),
        oarea=list(window),
        idx=-middle[0],
        idy=-middle[1],
        odx=middle[0],
        ody=middle[1],
        extend="copy",
    ).cast(image.format)
