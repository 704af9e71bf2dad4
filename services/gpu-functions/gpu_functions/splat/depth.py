"""A guess at depth from one picture, without a model: what painters know, not what a camera measures.

Three cues of nearness, each 0..1: low in the picture (the ground comes towards us), sharp and textured
(cameras focus on what is near), and free of haze (the dark channel of He, Sun, Tang, CVPR 2009: distance
lightens the darkest channel). Their sum is smoothed along the picture's own edges (guided filter, TPAMI 2013).
It makes a relief with plausible fronts and backs; a white wall or a picture from above fools it.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

HEIGHT, FOCUS, CLEAR = 0.5, 0.25, 0.25  # weights of the cues
NEAR: Final = 1.0  # the unit of the scene: how far a metre is, one picture does not tell
FAR: Final = 1.8
EDGE: Final = 0.1  # contrast (0..1) that counts as an edge of a thing


def depth(colours: Floats) -> Floats:
    """The depth of each pixel of `colours` (H×W×3, sRGB in 0..1), H×W in NEAR..FAR; a plain picture is a slope."""
    height, width = colours.shape[:2]
    reach = max(2, max(height, width) // 16)
    grey = np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), np.float32)
    low = np.repeat(np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None], width, axis=1)
    nearness: Floats = HEIGHT * low + FOCUS * _focus(grey, reach) + CLEAR * _clear(colours, reach)
    for _ in range(2):
        nearness = np.asarray(cv2.ximgproc.guidedFilter(grey, nearness, reach, EDGE**2), np.float32)
    bottom, top = np.percentile(nearness, (1, 99))
    nearness = np.clip((nearness - bottom) / max(float(top - bottom), 1e-3), 0.0, 1.0)
    # Even steps of parallax are even steps of 1/depth.
    return np.asarray(1.0 / (1.0 / FAR + nearness * (1.0 / NEAR - 1.0 / FAR)), np.float32)


def _focus(grey: Floats, reach: int) -> Floats:
    """Texture around each pixel against the picture's own: 0.5 where it is the median."""
    energy = cv2.blur(np.abs(cv2.Laplacian(grey, cv2.CV_32F)), (2 * reach + 1, 2 * reach + 1))
    return np.asarray(energy / (energy + np.median(energy) + 1e-4), np.float32)


def _clear(colours: Floats, reach: int) -> Floats:
    """1 where some channel is dark nearby, 0 in haze."""
    dark = cv2.erode(colours.min(axis=2), np.ones((reach, reach), np.uint8))
    return np.asarray(1.0 - cv2.blur(dark, (reach, reach)), np.float32)
