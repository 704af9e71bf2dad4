"""From where a detector says that something is, to exactly the pixels that it covers.

A detection is a corridor: a polyline with a width, or a box. Inside the corridor, and nowhere
else, pixels are taken that differ from what the background would be there: for a wire the
response of a morphological closing or opening (black-hat, top-hat), for a sign the distance
from the surroundings continued smoothly over the box. What hides the wire (a branch in front
of it) does not respond and stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from gpu_functions.cleanup.fill import Floats, Mask, membrane
from gpu_functions.images import Pixels

PIECE: Final = 320  # pixels of a wire that are looked at together: light and background change along it
TOLERANCE: Final = 0.002  # of the picture's width: one pixel on the 1600-pixel proxy that detectors use, and a bit
CONTRAST_MIN: Final = 0.02  # of full white: below this nothing is visible
SIGN_MARGIN: Final = 0.15  # of the sign's height: how far it may stick out of its box

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Patch:
    """A mask of a part of the picture, and where its upper left corner lies there."""

    top: int
    left: int
    mask: Mask

    @property
    def window(self) -> tuple[slice, slice]:
        """The part of the picture as an index."""
        height, width = self.mask.shape
        return np.s_[self.top : self.top + height, self.left : self.left + width]


def area_of_line(points: Points, width: float, picture: tuple[int, int]) -> float:
    """An upper bound of the pixels in a wire's corridor; `points` and `width` in pixels, `picture` width, height."""
    return _length(points) * 2 * _half_width(width, picture[0])


def wire(pixels: Pixels, points: Points, width: float) -> tuple[list[Patch], float]:
    """The pixels of a wire, and the share of its line (0..1) that was found; `points` and `width` in pixels."""
    breadth = pixels.shape[1]
    half = _half_width(width, breadth)
    kernel = 2 * math.ceil(width / 2 + half) + 3  # wider than wire and tolerance: closing must remove the wire
    patches: list[Patch] = []
    seen = total = 0
    for piece in _pieces(points):
        xs, ys = [x for x, _ in piece], [y for _, y in piece]
        box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
        top, bottom, left, right = _window(box, 2 * kernel, pixels.shape)
        if right - left < 4 or bottom - top < 4:
            continue
        line = [(x - left, y - top) for x, y in piece]
        found = _respond(_luma(pixels[top:bottom, left:right]), line, width, half, kernel)
        centre = _stroke(found.shape, line, 1)
        seen += int(np.count_nonzero(found & centre))
        total += int(np.count_nonzero(centre))
        patches.append(Patch(top, left, found))
    return patches, seen / total if total else 0.0


def sign(pixels: Pixels, box: tuple[float, float, float, float]) -> Patch:
    """The pixels of a sign, in a patch that shows enough around it to fill it from; `box` is x, y, w, h in pixels."""
    h = box[3]
    margin, rim = max(3.0, SIGN_MARGIN * h), max(12.0, 0.6 * h)
    top, bottom, left, right = _window(box, margin + rim, pixels.shape)
    shape = (max(0, bottom - top), max(0, right - left))
    corridor, core = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    for mask, grow in ((corridor, margin), (core, 0.0)):
        t, b, le, r = _window(box, grow, pixels.shape)
        mask[t - top : b - top, le - left : r - left] = True
    if min(shape) < 4 or corridor.all() or not core.any():
        return Patch(max(0, top), max(0, left), np.zeros(shape, np.bool_))
    region = pixels[top:bottom, left:right].astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    distance = np.abs(region - membrane(region, corridor)).max(axis=2)
    differs = (distance > max(3 * CONTRAST_MIN, 4 * _spread(region[~corridor]))) & corridor
    hull = _hull(_touching(differs, core & differs))
    # A sign that fills little of its box was not understood: the detector's box is the better answer.
    found = hull if np.count_nonzero(hull) > 0.35 * np.count_nonzero(core) else core
    return Patch(top, left, cv2.dilate(found.astype(np.uint8), _disc(max(1.5, 0.03 * h))) > 0)


def _respond(luma: Floats, line: Points, width: float, half: float, kernel: int) -> Mask:
    """The pixels of one piece of a wire: those that respond within its corridor."""
    corridor, core = _stroke(luma.shape, line, 2 * half), _stroke(luma.shape, line, width + 2)
    element = np.ones((kernel, kernel), np.uint8)  # a square is separable: ten times faster than a disc
    dark = cv2.morphologyEx(luma, cv2.MORPH_CLOSE, element) - luma
    bright = luma - cv2.morphologyEx(luma, cv2.MORPH_OPEN, element)
    # One piece of wire is darker or brighter than its background, not both: the other answer is noise.
    response = dark if dark[core].sum() >= bright[core].sum() else bright
    beside = response[~_stroke(luma.shape, line, 2 * half + 4)]
    noise = float(np.median(beside)) + 3 * _spread(beside) if beside.size else 0.0
    strong = (response > max(CONTRAST_MIN, noise)) & corridor
    weak = (response > max(CONTRAST_MIN, noise) / 2) & corridor
    seen = _touching(weak, strong)
    bridged = cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_CLOSE, _disc(width + 2)) > 0
    grown = cv2.dilate((bridged & corridor).astype(np.uint8), _disc(max(1.0, 0.3 * width))) > 0
    return np.asarray(grown, np.bool_)


def _half_width(width: float, picture_width: int) -> float:
    return width / 2 + max(2.0, TOLERANCE * picture_width)


def _length(points: Points) -> float:
    return sum(math.dist(a, b) for a, b in pairwise(points))


def _window(box: tuple[float, float, float, float], grow: float, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of `box` (x, y, w, h) grown on all sides and cut to the picture."""
    x, y, w, h = box
    return (
        max(0, math.floor(y - grow)), min(shape[0], math.ceil(y + h + grow)),
        max(0, math.floor(x - grow)), min(shape[1], math.ceil(x + w + grow)),
    )  # fmt: skip


def _pieces(points: Points) -> list[Points]:
    """The polyline cut so that no piece is longer than PIECE; neighbours share their end points."""
    pieces: list[Points] = []
    for (x0, y0), (x1, y1) in pairwise(points):
        count = max(1, math.ceil(math.dist((x0, y0), (x1, y1)) / PIECE))
        ends = [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]
        pieces += [[a, b] for a, b in pairwise(ends)]
    return pieces


def _luma(pixels: Pixels) -> Floats:
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2GRAY), np.float32)


def _stroke(shape: tuple[int, ...], line: Points, thickness: float) -> Mask:
    canvas = np.zeros(shape[:2], np.uint8)
    fixed = np.rint(np.array(line) * 16).astype(np.int32)  # 4 fractional bits: half a pixel matters here
    cv2.polylines(canvas, [fixed], False, 255, max(1, round(thickness)), cv2.LINE_8, 4)
    return canvas > 0


def _touching(what: Mask, seed: Mask) -> Mask:
    """The connected parts of `what` that hold a pixel of `seed`."""
    _, labels = cv2.connectedComponents(what.astype(np.uint8), connectivity=8)
    wanted = np.zeros(int(labels.max()) + 1, np.bool_)
    wanted[labels[seed]] = True
    wanted[0] = False
    return np.asarray(wanted[labels], np.bool_)


def _hull(what: Mask) -> Mask:
    ys, xs = np.nonzero(what)
    canvas = np.zeros(what.shape, np.uint8)
    if len(xs) >= 3:
        cv2.fillConvexPoly(canvas, cv2.convexHull(np.column_stack([xs, ys]).astype(np.int32)), 255)
    return canvas > 0


def _spread(values: npt.NDArray[Any]) -> float:
    """The standard deviation of what is normal in `values`, robustly: 1.4826 times the median deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values, axis=0))))


def _disc(radius: float) -> npt.NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
