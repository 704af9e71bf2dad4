"""Power lines: thin dark curves across a smooth sky, found without a trained model.

The theory in five steps, each of which rejects one kind of mistake:

    1. sky          smooth area that hangs from the top edge     rejects branches, fences, facades, the ground
                    (the gate: nothing below the horizon counts; soft clouds are smooth, edges are not)
    2. black-hat    closing minus picture: thin and dark         rejects edges of any kind: they are one-sided
    3. segments     LSD on the black-hat (von Gioi et al. 2012)  rejects specks and texture
    4. families     segments on one parabola, >= 35 % of width   rejects birds, poles, contrails' ends, scratches
                    and not wider than a cable                   rejects railings and the edges of roofs
    5. hysteresis   a family needs one strong member; faint      keeps a wire whole where it fades
                    ones join, and the curve counts where dark

A hanging wire is a catenary; over one span a parabola fits it to a fraction of a pixel.
More than LINES_MAX families, or more than AREA_MAX of the picture, is a structure and not a
few wires: then nothing is reported, because filling it would do more harm than leaving it.

Most photos show no wire, and LSD is three quarters of the cost. OpenCV's fast line detector takes a seventh
of its time and misses the ends of faint lines, but no line that could begin a family: where it finds none, the
search is over.

Limits, on purpose: wires lighter than their background, wires against trees or buildings, and
those steeper than 50 degrees are not found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.decode import Pixels, shrunk

Doubles = NDArray[np.float64]
Mask = NDArray[np.uint8]

WIDTH_SHARE: Final = 0.004  # of the long side: half the widest wire, 6 of 1600 px, is the reach of all that looks near
SKY_SIDE: Final = 480  # long side at which the sky is told from the rest
TEXTURE_MAX: Final = 3.0  # grey levels per pixel there, mean gradient that still counts as smooth
SOFT: Final = 4.0  # pixels there, sigma: a cloud's gradients are softer than this and are left out, edges are not
OBSTACLE_MAX: Final = 0.01  # of a column may be rough above a point in the sky: a bird, a wire's insulator
BROWN, BRIGHT = 50, 130  # wood, skin and soil are redder than blue by more and darker than a red evening sky
SKY_MIN: Final = 0.04  # of the picture: below, there is no room for a wire across 35 % of it
STRONG: Final = 14.0  # black-hat levels along a segment that make it a wire by itself
GRAIN: Final = 8.0  # and below which it is left out where only a strong line is looked for
FAINT: Final = 5.0  # and that let it join a wire
FADED: Final = 0.3  # of its usual black-hat that a wire keeps where it is faintest
SLOPE_MAX: Final = 1.2  # tan(50 degrees)
SPAN_MIN: Final = 0.35  # of the picture's width
COVER_MIN: Final = 0.75  # of the sky along the span must show it dark
GAP_MAX: Final = 0.4  # of the width may be hidden by what stands before the sky
JOIN: Final = 0.015  # of the width: shorter gaps are noise and are bridged
PIECE_MIN: Final = 0.03  # of the width: shorter pieces are not reported
SIDE_MIN: Final = 64  # pixels: below, nothing can be told apart
CLUTTER_MAX: Final = 0.12  # of the sky may be thin and dark: wires cover 1 to 5 %, a page of print 17 to 20 %
LINES_MAX: Final = 16  # two pylons' circuits of six and two earth wires, and two spare
AREA_MAX: Final = 0.03  # of the picture
WIDEST: Final = 0.005  # of the long side, 8 of 1600 pixels: a cable nearer than that hides the picture anyhow
POINTS: Final = 17  # of a reported polyline: at 16 parts the sag between two points is 1/256 of the whole sag


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """Points from left to right along the darkest line near what LSD found, which is the line's edge."""

    x: Doubles
    y: Doubles
    strength: float  # mean black-hat on its way

    @property
    def left(self) -> float:
        return float(self.x[0])

    @property
    def right(self) -> float:
        return float(self.x[-1])


@dataclass(frozen=True, slots=True)
class _Wire:
    points: Doubles  # (POINTS, 2) pixels
    width: float  # pixels


def find_wires(rgb: Pixels) -> list[dict[str, Any]]:
    """Power lines of a picture (H, W, 3), as in the facts of `analyze`: points and widths as shares of the picture."""
    height, width = rgb.shape[:2]
    if min(height, width) < SIDE_MIN:
        return []
    reach = max(2, round(WIDTH_SHARE * max(height, width)))
    sky = _sky(rgb, reach)
    if sky.mean() < SKY_MIN:
        return []
    bottom = int(np.flatnonzero(sky.any(axis=1))[-1]) + 1  # nothing below the sky is worth searching
    grey = cv2.cvtColor(rgb[:bottom], cv2.COLOR_RGB2GRAY)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    thin = np.asarray(cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel), np.uint8) * sky[:bottom]
    if (thin >= STRONG).sum() > CLUTTER_MAX * sky.sum():
        return []
    if not any(segment.strength >= STRONG for segment in _segments(thin, reach, _quick_lines(thin))):
        return []
    families = _families(_segments(thin, reach, _lines(thin)), thin, sky, reach)
    wires = [wire for family in families for wire in family]
    area = sum(np.ptp(wire.points[:, 0]) * wire.width for wire in wires)
    if len(families) > LINES_MAX or area > AREA_MAX * height * width:
        return []
    size = np.array([width, height])
    return [
        {
            "kind": "power_line",
            "points": np.clip(wire.points / size, 0, 1).round(5).tolist(),
            "width": round(wire.width / width, 5),
        }
        for wire in wires
    ]


def _sky(rgb: Pixels, reach: int) -> Mask:
    """1 where a column is smooth from the top edge down: above the horizon, with no thin lines to disturb it.

    Judged at SKY_SIDE, where a gradient means the same in every photo, whatever its resolution and sharpness.
    """
    height, width = rgb.shape[:2]
    scale = SKY_SIDE / max(height, width)
    small = shrunk(rgb, max(1, round(width * scale)), max(1, round(height * scale))) if scale < 1 else rgb
    brush = np.ones((2 * max(1, round(reach * min(scale, 1))) + 1,) * 2, np.uint8)
    calm = cv2.morphologyEx(cv2.morphologyEx(small, cv2.MORPH_CLOSE, brush), cv2.MORPH_OPEN, brush)
    grey = cv2.cvtColor(calm, cv2.COLOR_RGB2GRAY)
    level = grey.astype(np.float32)
    sharp = level - cv2.GaussianBlur(level, (0, 0), SOFT)
    red, blue = calm[..., 0].astype(np.int16), calm[..., 2].astype(np.int16)
    brown = (red - blue > BROWN) & (grey < BRIGHT)
    rough = ((_texture(level) > TEXTURE_MAX) & (_texture(sharp) > TEXTURE_MAX)) | brown
    sky = ~rough & (np.cumsum(rough, axis=0) <= OBSTACLE_MAX * rough.shape[0])
    return np.asarray(cv2.resize(sky.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def _texture(level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean gradient around each pixel, in grey levels per pixel."""
    edges = [cv2.Sobel(level, cv2.CV_32F, dx, 1 - dx, scale=0.125) for dx in (0, 1)]
    return np.asarray(cv2.boxFilter(np.abs(edges[0]) + np.abs(edges[1]), -1, (5, 5)), np.float32)


def _lines(thin: Pixels) -> Doubles:
    """Line segments (n, 4) of the black-hat: x0, y0, x1, y1."""
    lines = cv2.createLineSegmentDetector(cv2.LSD_REFINE_STD).detect(cv2.convertScaleAbs(thin, alpha=4))[0]
    return np.empty((0, 4)) if lines is None else np.asarray(lines, np.float64).reshape(-1, 4)


def _quick_lines(thin: Pixels) -> Doubles:
    """The same by Lee et al., "Outdoor place recognition using straight lines" (2014): links of Canny's edges."""
    # Grain would be most of the edges, and makes no line that is strong.
    clean = cv2.threshold(thin, GRAIN - 1, 0, cv2.THRESH_TOZERO)[1]
    lines = cv2.ximgproc.createFastLineDetector(20, 2.0, 20, 60, 3, False).detect(cv2.convertScaleAbs(clean, alpha=4))
    return np.empty((0, 4)) if lines is None else np.asarray(lines, np.float64).reshape(-1, 4)


def _segments(thin: Pixels, reach: int, lines: Doubles) -> list[_Segment]:
    """Of line segments of the black-hat those that are long, flat and dark enough, strongest first."""
    found = []
    for x0, y0, x1, y1 in lines:
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        length, run = np.hypot(x1 - x0, y1 - y0), x1 - x0
        if length < 6 * reach or abs(y1 - y0) > SLOPE_MAX * run:
            continue
        x = np.linspace(x0, x1, max(3, int(length / 3)))
        y = y0 + (x - x0) / run * (y1 - y0)
        value, offset = _ridge(thin, x, y, reach)
        if (strength := float(value.mean())) >= FAINT:
            found.append(_Segment(x, y + offset, strength))
    return sorted(found, key=lambda s: s.strength * (s.right - s.left), reverse=True)


def _ridge(thin: Pixels, x: Doubles, y: Doubles, reach: int) -> tuple[Doubles, Doubles]:
    """The strongest black-hat within `reach` above or below each point, and at which offset it lies."""
    offsets = np.arange(-reach, reach + 1)
    columns = np.clip(x.round().astype(int), 0, thin.shape[1] - 1)
    rows = y.round().astype(int)[:, None] + offsets
    values = thin[np.clip(rows, 0, thin.shape[0] - 1), columns[:, None]].astype(float)
    values[(rows < 0) | (rows >= thin.shape[0])] = 0
    # Of equal ones the nearest counts.
    best = (values - 1e-3 * np.abs(offsets)).argmax(axis=1)
    return values[np.arange(len(x)), best], offsets[best].astype(float)


def _families(segments: list[_Segment], thin: Pixels, sky: Mask, reach: int) -> list[list[_Wire]]:
    """Grow one wire, in pieces, from each strong segment that no earlier one has taken; wipes it from `thin`."""
    left = list(segments)
    families: list[list[_Wire]] = []
    while (seed := next((s for s in left if s.strength >= STRONG), None)) is not None and len(families) <= LINES_MAX:
        curve, members = _grow(seed, left, thin.shape[1], reach)
        left = [s for s in left if s not in members and _distance(curve, s) > 2 * reach]
        if pieces := _trace(curve, members, thin, sky, reach):
            families.append(pieces)
            lines = [piece.points.round().astype(np.int32) for piece in pieces]
            cv2.polylines(thin, lines, False, 0, 4 * reach)
    return families


def _fit(members: list[_Segment], width: int) -> np.poly1d:
    """Least squares through the members' points: a parabola once they span a fifth of the picture. Over centred x."""
    x, y = np.concatenate([s.x for s in members]), np.concatenate([s.y for s in members])
    return np.poly1d(np.polyfit(x - width / 2, y, 2 if np.ptp(x) > width / 5 else 1))


def _distance(curve: np.poly1d, segment: _Segment) -> float:
    """How far a segment lies from a curve over x, straight up or down: of its points the ninth farthest of ten."""
    return float(np.quantile(np.abs(curve(segment.x) - segment.y), 0.9))


def _grow(seed: _Segment, segments: list[_Segment], width: int, reach: int) -> tuple[np.poly1d, list[_Segment]]:
    """Segments on one curve with `seed`. The farther from what is known, the more a curve may have bent."""
    members, known = [seed], 0
    curve = _fit(members, width)
    shift = np.poly1d([1, -width / 2])
    while len(members) > known:
        known = len(members)
        low, high = min(s.left for s in members), max(s.right for s in members)
        over_x = np.poly1d(curve(shift))
        members = [
            s
            for s in segments
            if s is seed
            or (
                _distance(over_x, s) <= reach + 0.04 * max(0.0, low - s.left, s.right - high)
                and max(s.left - high, low - s.right) <= GAP_MAX * width
            )
        ]
        curve = _fit(members, width)
    return np.poly1d(curve(shift)), members


def _trace(curve: np.poly1d, members: list[_Segment], thin: Pixels, sky: Mask, reach: int) -> list[_Wire]:
    """Follow the curve through the whole picture; the pieces that are dark (hysteresis), or none if it is no wire.

    Where something stands before the sky there is no telling whether the wire passes in front of
    it or behind, so nothing is reported there: a filled roof would be worse than a left wire.
    """
    height, width = thin.shape
    x = np.arange(width, dtype=float)
    y = curve(x)
    value, offset = _ridge(thin, x, y, reach)
    inside = (y >= 0) & (y < height)
    free = inside & (sky[np.clip(y, 0, height - 1).astype(int), x.astype(int)] > 0)
    known = (x >= min(s.left for s in members)) & (x <= max(s.right for s in members)) & free
    if not known.any():
        return []
    dark = free & (value >= max(FAINT, FADED * float(np.median(value[known]))))
    joined = cv2.morphologyEx(dark.astype(np.uint8)[None], cv2.MORPH_CLOSE, np.ones((1, 1 + round(JOIN * width))))[0]
    runs = [(a, b) for a, b in _runs(joined) if b - a >= PIECE_MIN * width]
    if not runs:
        return []
    low, high = runs[0][0], runs[-1][1]
    if high - low < SPAN_MIN * width or dark[low:high].sum() < COVER_MIN * free[low:high].sum():
        return []
    pieces = []
    for a, b in runs:
        at = np.flatnonzero(dark[a:b]) + a
        # The ridge, smoothed, corrects the parabola where a pole bends the wire.
        window = np.ones(max(3, round(JOIN * width)))
        weight = np.convolve(dark[a:b], window, "same")
        bend = np.convolve(np.where(dark, offset, 0)[a:b], window, "same") / np.maximum(weight, 1)
        px = np.linspace(a, b - 1, POINTS)
        py = curve(px) + np.interp(px, x[a:b], bend)
        thickness = _thickness(thin, at, y[at] + bend[at - a], reach, curve.deriv()(at))
        pieces.append(_Wire(np.stack([px + 0.5, py + 0.5], axis=1), thickness))
    # A piece much thicker than its siblings is the edge of a roof or a branch that the curve happens to meet.
    usual = float(np.median([piece.width for piece in pieces]))
    if usual > WIDEST * max(sky.shape):
        return []
    return [piece for piece in pieces if piece.width <= 1.7 * usual]


def _runs(marked: Mask) -> list[tuple[int, int]]:
    """Where a row of 0 and 1 is 1: half-open intervals, from left to right."""
    steps = np.flatnonzero(np.diff(np.pad(marked.astype(np.int8), 1)))
    return list(zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True))


def _thickness(thin: Pixels, x: NDArray[np.intp], y: Doubles, reach: int, slope: Doubles) -> float:
    """Median width across the wire: the sum of the black-hat profile over its peak, as of a box of equal area."""
    rows = y.round().astype(int)[:, None] + np.arange(-2 * reach, 2 * reach + 1)
    profile = thin[np.clip(rows, 0, thin.shape[0] - 1), x[:, None]].astype(float)
    upright = profile.sum(axis=1) / np.maximum(profile.max(axis=1), 1)
    return float(np.median(upright / np.sqrt(1 + slope**2)))
