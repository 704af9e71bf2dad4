"""A page laid level: a photographed one slopes, and rows, columns and rules are looked for along the axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from gpu_functions.ocr.lines import Floats, Found
from gpu_functions.ocr.scan import Scan

SKEW_MAX: Final = 20.0  # degrees; more is no page that lies crooked, but something else
REFINED_SIDE: Final = 1000  # pixels
REFINED_STEPS: Final = 0.15, 0.03  # degrees


@dataclass(frozen=True, slots=True)
class Level:
    """Lines of a page as if it lay level, and the way back: `size` width and height, `em` the height of a line, pixels.

    `skew` is by how many degrees clockwise the lines slope on the page as it lies; `there` and `back` are affine, 2×3.
    """

    lines: tuple[Found, ...]
    size: tuple[int, int]
    skew: float
    em: float
    there: Floats
    back: Floats

    @classmethod
    def of(cls, found: Sequence[Found], pixels: Scan) -> Level:
        """The page with the lines `found` on `pixels`."""
        height, width = pixels.shape[:2]
        skew = refined(pixels, slope(found)) if found else 0.0
        there = cv2.getRotationMatrix2D((width / 2, height / 2), skew, 1.0).astype(float)
        back = cv2.invertAffineTransform(there).astype(float)
        return cls(tuple(line.turned(there) for line in found), (width, height), skew, line_height(found), there, back)

    def pixels(self, plane: Scan) -> Scan:
        """The pixels of the page, laid level."""
        if not self.skew:
            return plane
        return np.asarray(
            cv2.warpAffine(plane, self.there, self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
            np.uint8,
        )


def slope(lines: Sequence[Found]) -> float:
    """By how many degrees clockwise the lines slope: the median, each weighing as its length squared.

    A quad's corners are whole pixels of a shrunk page, so that short lines tell angles of their own.
    """
    sides = np.array([line.quad[1] - line.quad[0] + line.quad[2] - line.quad[3] for line in lines]).reshape(-1, 2)
    angles = np.degrees(np.arctan2(sides[:, 1], sides[:, 0]))
    near = np.abs(angles) < SKEW_MAX
    return round(_median(angles[near], (sides[near] ** 2).sum(axis=1)), 3) if near.any() else 0.0


def refined(pixels: Scan, skew: float) -> float:
    """The slope near `skew` at which rows of pixels differ most from row to row (after Postl, 1986).

    What lines of print tell is right to a third of a degree; a rule one pixel thin asks for a tenth of that.
    """
    shrink = min(1.0, REFINED_SIDE / max(pixels.shape[:2]))
    small = cv2.resize(
        cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA
    )
    height, width = small.shape

    def sharpness(angle: float) -> float:
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
        turned = cv2.warpAffine(small, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return float((np.diff(turned.mean(axis=1)) ** 2).sum())

    for reach in REFINED_STEPS:
        skew = max((skew + reach * step for step in (0, -1, 1, -2, 2, -3, 3)), key=sharpness)
    return round(skew, 3)


def line_height(lines: Sequence[Found]) -> float:
    """The height in pixels of body text: the median, each line weighing as much as it is long."""
    sizes = np.array([line.size for line in lines]).reshape(-1, 2)
    return max(1.0, _median(sizes[:, 1], sizes[:, 0])) if len(sizes) else 1.0


def _median(values: Floats, weights: Floats) -> float:
    """The value that as much weight lies below as above."""
    order = np.argsort(values)
    share = np.cumsum(weights[order])
    return float(values[order][int(np.searchsorted(share, share[-1] / 2))])
