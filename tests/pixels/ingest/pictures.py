"""Real photos and their encodings for the tests of analysis, and how detections are measured against a drawn truth."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import pyvips
from numpy.typing import NDArray

from stack.samples import SAMPLES, shipped

Pixels = NDArray[np.uint8]
BY_FILE = {recipe.shipped: recipe for recipe in SAMPLES}


@cache
def photo(name: str) -> Pixels:
    """A shipped photo, by its file's name in its package, as (H, W, 3). Not to be written to."""
    image = pyvips.Image.new_from_file(str(shipped(BY_FILE[name]))).colourspace("srgb")[:3]
    pixels = np.asarray(image.numpy(), np.uint8)
    pixels.setflags(write=False)
    return pixels


def enlarged(pixels: Pixels, factor: float) -> Pixels:
    if factor == 1:
        return pixels
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)


def image(pixels: Pixels) -> pyvips.Image:
    return pyvips.Image.new_from_array(pixels, interpretation="srgb")


def jpeg(pixels: Pixels, **options: Any) -> bytes:
    return bytes(image(pixels).jpegsave_buffer(Q=90, **options))


def png(pixels: Pixels) -> bytes:
    return bytes(image(pixels).pngsave_buffer(compression=1))


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def wire_mask(wires: Sequence[dict[str, Any]], shape: tuple[int, ...]) -> Pixels:
    """What is reported, drawn: (H, W) of 0 and 255."""
    mask = np.zeros(shape[:2], np.uint8)
    for wire in wires:
        points = (np.array(wire["points"]) * [shape[1], shape[0]] * 16).round().astype(np.int32)  # 4 fractional bits
        cv2.polylines(mask, [points], False, 255, max(1, round(wire["width"] * shape[1])), cv2.LINE_8, 4)
    return mask


def share_near(mask: Pixels, target: Pixels, pixels: int = 2) -> float:
    """Of what `mask` marks, the share that lies within `pixels` of `target`: recall one way, precision the other."""
    near = cv2.dilate(target, np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8))
    return float((near[mask > 0] > 0).mean()) if mask.any() else 0.0
