"""How far a photo is tilted: the angle that its level and its upright lines agree on.

    level      segments within REACH of the horizontal    the sea, roofs, shelves
    upright    segments within REACH of the vertical      walls, poles, door frames

Each family votes for an angle, longer segments more; one angle wins. How much a family is to be believed is how
much of it votes for the winner (`share`), and how much of the picture's side these lines would cover (`cover`). A
family alone is doubtful: a cat has whiskers, a slope is no horizon. Two that agree within AGREE are not; if they
disagree, each speaks against the other. A single line across the picture (the sea) counts like two families.

Measured on eleven sample photos, each as it is and turned by -6, -2.5, 1 and 4 degrees: of those with a horizon or
walls the turn was followed within 0.6 degrees, and no photo without either reached a confidence of 0.4.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.decode import Pixels

Doubles = NDArray[np.float64]

SIDE: Final = 768  # long side: a line over half of it is known to a sixth of a degree
REACH: Final = 12.0  # degrees: people hold cameras no more crooked than this by mistake
EDGE: Final = 1.0  # degrees from REACH: a winner there may be the flank of something steeper
WIDTH: Final = 0.5  # degrees: how close votes support each other
INLIER: Final = 1.0  # degrees from the winner that still count for it
AGREE: Final = 1.2  # degrees: walls and horizon of one camera differ so much by lens distortion
LENGTH_MIN: Final = 0.04  # of the long side: shorter segments are texture
# fmt: off
#               level           upright
SHARE: Final = ((0.25, 0.60),  (0.30, 0.50))  # of the family's weight: belief rises from 0 to 1 between the two
COVER: Final = ((0.30, 0.80),  (0.40, 1.20))  # of the picture's side
# fmt: on
LINE: Final = (0.55, 0.85)  # of the width that one single level line spans: the same
ALONE: Final = 0.5  # what a family is believed at most when nothing else agrees


class _Family(NamedTuple):
    angle: float
    belief: float  # 0..1


def horizon(grey: Pixels) -> dict[str, Any]:
    """`angle`: degrees by which the horizon falls towards the right, and `confidence`, 0 to 1.

    Turning the picture by minus the angle (counterclockwise where it is positive) makes it level.
    """
    h, w = grey.shape
    scale = min(1.0, SIDE / max(h, w))
    if min(h, w) * scale < 32:
        return {"angle": 0.0, "confidence": 0.0}
    small = grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lines = _lines(np.asarray(small, np.uint8))
    h, w = small.shape
    step = lines[:, 2:] - lines[:, :2]
    turned = np.degrees(np.arctan2(step[:, 1], step[:, 0])) % 180
    length = np.hypot(step[:, 0], step[:, 1])
    flat = (turned + 90) % 180 - 90
    level = _family(flat, length, w, 0)
    upright = _family(turned - 90, length, h, 1)
    line = _rising(_longest(lines, flat, level.angle) / w, *LINE) if level.belief else 0.0
    angle, confidence = _agreed(level, upright, line)
    return {"angle": round(angle, 2), "confidence": round(confidence, 3)}


def _agreed(level: _Family, upright: _Family, line: float) -> tuple[float, float]:
    if abs(level.angle - upright.angle) <= AGREE and min(level.belief, upright.belief) > 0:
        weight = level.belief + upright.belief
        angle = (level.angle * level.belief + upright.angle * upright.belief) / weight
        return angle, max(1 - (1 - level.belief) * (1 - upright.belief), line)
    winner, loser = (level, upright) if max(level.belief * ALONE, line) >= upright.belief * ALONE else (upright, level)
    alone = max(ALONE * winner.belief, line if winner is level else 0.0)
    return winner.angle, alone * (1 - ALONE * loser.belief)


def _family(angles: Doubles, lengths: Doubles, side: int, kind: int) -> _Family:
    near = np.abs(angles) <= REACH
    angles, lengths = angles[near], lengths[near]
    if not len(angles):
        return _Family(0.0, 0.0)
    weights = lengths**1.5  # between counting lines and believing the longest alone
    grid = np.arange(-REACH, REACH + 0.05, 0.1)
    angle = float(grid[(_bell(grid[:, None] - angles) * weights).sum(axis=1).argmax()])
    for _ in range(3):
        votes = _bell(angles - angle) * weights
        angle = float((votes * angles).sum() / votes.sum())
    inside = np.abs(angles - angle) <= INLIER
    share, cover = weights[inside].sum() / weights.sum(), lengths[inside].sum() / side
    belief = _rising(share, *SHARE[kind]) * _rising(cover, *COVER[kind]) * (abs(angle) <= REACH - EDGE)
    return _Family(angle, float(belief))


def _longest(lines: Doubles, angles: Doubles, angle: float) -> float:
    """Pixels of width that segments on one and the same straight line at `angle` cover: the most of any line."""
    chosen = lines[np.abs(angles - angle) <= INLIER]
    if not len(chosen):
        return 0.0
    slope = np.tan(np.radians(angle))
    height = ((chosen[:, 1] + chosen[:, 3]) - slope * (chosen[:, 0] + chosen[:, 2])) / 2
    width = np.abs(chosen[:, 2] - chosen[:, 0])
    return float(max(width[np.abs(height - one) <= 0.006 * SIDE].sum() for one in height))


def _lines(grey: Pixels) -> Doubles:
    """Segments (n, 4): x0, y0, x1, y1, of OpenCV's fast line detector (Lee et al. 2014)."""
    soft = cv2.GaussianBlur(grey, (0, 0), 1.0)
    found = cv2.ximgproc.createFastLineDetector(round(LENGTH_MIN * SIDE), 1.414, 30, 80, 3, False).detect(soft)
    return np.empty((0, 4)) if found is None else np.asarray(found, np.float64).reshape(-1, 4)


def _bell(distance: Doubles) -> Doubles:
    result: Doubles = np.exp(-((distance / WIDTH) ** 2) / 2)
    return result


def _rising(value: float, low: float, high: float) -> float:
    return float(min(max((value - low) / (high - low), 0.0), 1.0))
