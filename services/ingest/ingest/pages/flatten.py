"""A photo of a page -> the page: its sheet found and laid flat, its lines level.

The sheet is the largest convex shape of four corners that is brighter than what lies around it. Where none is sure,
nothing is cut: a page that fills the photo has no edges to find. How far lines slope is where their profile is
sharpest: ink and white alternate most when rows of pixels run along the lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Corners = npt.NDArray[np.float32]  # 4×2: top left, top right, bottom right, bottom left

LOOK: Final = 900  # pixels of the longer side in which the sheet is looked for
AREA: Final = (0.2, 0.97)  # of the photo, that a sheet takes
BRIGHTER: Final = 18.0  # levels, of the paper than of what lies around it
ANGLE_MIN: Final = 30.0  # degrees of a corner: a sharper one is no page's
SLOPE_MAX: Final = 10.0  # degrees that are looked at
SLOPE_MIN: Final = 0.3  # that are worth a turn
PROFILE: Final = 700  # pixels of the longer side in which the slope is measured


@dataclass(frozen=True, slots=True)
class Laid:
    """The page. `flattened`: a sheet was cut out. `skew`: by how many degrees its lines were turned."""

    pixels: Pixels
    flattened: bool
    skew: float


def lay(pixels: Pixels) -> Laid:
    """The page of a photo, flat and level."""
    corners = sheet(pixels)
    flat = pixels if corners is None else _warped(pixels, corners)
    flat, angle = level(flat)
    return Laid(flat, corners is not None, angle)


def sheet(pixels: Pixels) -> Corners | None:
    """The corners of the sheet of paper in a photo, None when nobody can tell."""
    height, width = pixels.shape[:2]
    scale = min(1.0, LOOK / max(height, width))
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), (0, 0), 3)
    _, bright = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    bright = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    corners = cv2.approxPolyDP(hull, 0.02 * cv2.arcLength(hull, True), True).reshape(-1, 2)
    if len(corners) != 4 or not _is_sheet(np.asarray(corners, np.float32), np.asarray(grey, np.uint8)):
        return None
    return np.asarray(_ordered(np.asarray(corners, np.float32)) / scale, np.float32)


def level(pixels: Pixels) -> tuple[Pixels, float]:
    """The page with its lines level, and by how many degrees it was turned."""
    angle = slope(pixels)
    if abs(angle) < SLOPE_MIN:
        return pixels, 0.0
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    edge: Any = np.median(np.concatenate([pixels[:8].reshape(-1, 3), pixels[-8:].reshape(-1, 3)]), axis=0).tolist()
    turned = cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=edge)
    return np.asarray(turned, np.uint8), angle


def slope(pixels: Pixels) -> float:
    """By how many degrees counterclockwise the page has to be turned; 0 where there are no lines."""
    height, width = pixels.shape[:2]
    scale = min(1.0, PROFILE / max(height, width))
    small = cv2.cvtColor(cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2GRAY)
    ink = np.asarray(cv2.adaptiveThreshold(small, 1, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, 25, 12))
    rim = max(2, round(0.04 * min(ink.shape)))  # shadows and edges of the sheet are no lines
    ink[:rim], ink[-rim:], ink[:, :rim], ink[:, -rim:] = 0, 0, 0, 0
    ys, xs = np.nonzero(ink)
    if not 200 < len(ys) < 0.4 * ink.size:
        return 0.0
    if len(ys) > 60_000:
        keep = slice(None, None, math.ceil(len(ys) / 60_000))
        ys, xs = ys[keep], xs[keep]
    coarse = _sharpest(xs, ys, np.arange(-SLOPE_MAX, SLOPE_MAX + 0.01, 0.5), ink.shape[0])
    return _sharpest(xs, ys, coarse + np.arange(-0.5, 0.51, 0.1), ink.shape[0])


def _sharpest(xs: npt.NDArray[np.intp], ys: npt.NDArray[np.intp], angles: npt.NDArray[Any], height: int) -> float:
    scores = []
    for angle in angles:
        rows = np.asarray(ys - xs * math.tan(math.radians(angle)), np.float64)
        profile, _ = np.histogram(rows, bins=height, range=(-0.2 * height, 1.2 * height))
        scores.append(float(np.sum(np.square(np.diff(profile.astype(np.float64))))))
    best = int(np.argmax(scores))
    if scores[best] < 1.15 * float(np.median(scores)):
        return 0.0  # no direction is sharper than the others: there are no lines
    return float(angles[best])


def _is_sheet(corners: Corners, grey: Pixels) -> bool:
    area = float(cv2.contourArea(corners)) / grey.size
    if not AREA[0] <= area <= AREA[1]:
        return False
    for at in range(4):
        one, other = corners[at - 1] - corners[at], corners[(at + 1) % 4] - corners[at]
        cosine = float(np.dot(one, other) / max(1e-6, float(np.linalg.norm(one) * np.linalg.norm(other))))
        if not ANGLE_MIN <= math.degrees(math.acos(max(-1.0, min(1.0, cosine)))) <= 180 - ANGLE_MIN:
            return False
    inside = np.zeros_like(grey)
    cv2.fillConvexPoly(inside, corners.astype(np.int32), 1)
    around = cv2.dilate(inside, np.ones((25, 25), np.uint8)) - inside
    if int(around.sum()) < 500:
        return False
    return float(np.median(grey[inside == 1])) - float(np.median(grey[around == 1])) >= BRIGHTER


def _ordered(corners: Corners) -> Corners:
    middle = corners.mean(axis=0)
    around = corners[np.argsort(np.arctan2(corners[:, 1] - middle[1], corners[:, 0] - middle[0]))]
    first = int(np.argmin(around.sum(axis=1)))
    return np.asarray(np.roll(around, -first, axis=0), np.float32)


def _warped(pixels: Pixels, corners: Corners) -> Pixels:
    top, right, bottom, left = (float(np.linalg.norm(corners[(at + 1) % 4] - corners[at])) for at in range(4))
    width, height = round(max(top, bottom)), round(max(left, right))
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    lay_flat = cv2.getPerspectiveTransform(corners, flat)
    return np.asarray(
        cv2.warpPerspective(pixels, lay_flat, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )
