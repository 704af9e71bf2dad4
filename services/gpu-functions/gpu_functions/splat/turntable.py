"""The turntable: a camera that swings a few degrees to each side of where the picture was taken, without a seam.

It turns around the middle of the scene's depth, so that what is near and what is far move against each other. What the
picture never saw opens as a gap: narrow ones are closed smoothly from their rim, wide ones stay grey.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import pyvips
from pydantic import BaseModel, Field

from gpu_functions.cleanup.fill import membrane
from gpu_functions.engine import ALONE, Output, Work
from gpu_functions.splat.render import Frame, Pose, covariances, render
from gpu_functions.splat.scene import Scene

FRAMES: Final = 24
FRAME_MS: Final = 90  # 24 of them: there and back in about two seconds
GAP: Final = 32  # pixels: a wider gap is not closed
EMPTY: Final = 0.5
QUALITY, EFFORT = 70, 2  # of the WebP: effort 4 takes twice the time for 5% less
BEGUN: Final = 0.2  # of the work is done when the scene stands


class SplatParameters(BaseModel):
    """`degrees` is how far the turntable swings to each side, `side` its long side in pixels."""

    degrees: float = Field(default=3.0, ge=0.5, le=15.0)
    side: int = Field(default=480, ge=64, le=1024)


@dataclass(frozen=True, slots=True)
class View:
    """The camera that took the picture: width, height and focal length in pixels."""

    width: int
    height: int
    focal: float

    def within(self, side: int) -> View:
        """The same view on a picture whose long side is at most `side`."""
        shrink = min(1.0, side / max(self.width, self.height))
        return View(max(1, round(self.width * shrink)), max(1, round(self.height * shrink)), self.focal * shrink)


def turn(scene: Scene, view: View, wanted: SplatParameters, work: Work = ALONE) -> Output:
    """An animated WebP of FRAMES frames that begins in the middle and repeats for ever."""
    view = view.within(wanted.side)
    swing = [math.sin(2 * math.pi * n / FRAMES) for n in range(FRAMES)]
    shown: dict[float, npt.NDArray[np.uint8]] = {}
    covariance, pivot = covariances(scene), float(np.median(scene.positions[:, 2]))
    for share in swing:
        share = round(share, 9)  # there and back pass the same places: each is rendered once
        if share not in shown:
            pose = Pose(pivot, math.radians(wanted.degrees) * share)
            frame = render(scene, covariance, pose, view.focal, view.width, view.height)
            shown[share] = _closed(frame)
            work.tell(BEGUN + (1.0 - BEGUN) * len(shown) / (FRAMES // 2 + 1))
    return webp([shown[round(share, 9)] for share in swing])


def webp(frames: list[npt.NDArray[np.uint8]]) -> Output:
    """Frames of one size (H×W×3, sRGB) as an animation without end."""
    height, width = frames[0].shape[:2]
    roll = np.ascontiguousarray(np.concatenate(frames))
    image = pyvips.Image.new_from_memory(roll.data, width, len(roll), 3, "uchar").copy(interpretation="srgb")
    image.set_type(pyvips.GValue.gint_type, "page-height", height)
    image.set_type(pyvips.GValue.array_int_type, "delay", [FRAME_MS] * len(frames))
    image.set_type(pyvips.GValue.gint_type, "loop", 0)
    data: bytes = image.write_to_buffer(".webp", Q=QUALITY, effort=EFFORT)
    return Output(data, "image/webp", width, height)


def _closed(frame: Frame) -> npt.NDArray[np.uint8]:
    """The frame in 8 bit, its narrow gaps closed."""
    closed = cv2.morphologyEx(
        frame.covered.astype(np.uint8),
        cv2.MORPH_CLOSE,
        np.ones((GAP + 1, GAP + 1), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=1,  # the picture goes on outside
    ).astype(np.bool_)
    colours = frame.colours
    if (closed & ~frame.covered).any():
        colours = membrane(colours, ~frame.covered)
    colours = np.where(closed[..., None], colours, np.float32(EMPTY))
    return np.asarray(np.rint(np.clip(colours, 0.0, 1.0) * 255), np.uint8)
