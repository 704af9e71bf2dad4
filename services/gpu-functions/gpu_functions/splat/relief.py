"""The engine `relief`: a relief preview, not SHARP.

Each pixel of a small copy becomes one gaussian, a flat disc that lies in the surface which `depth.py` guesses.
It shows parallax and nothing that the picture does not show: behind an edge there is no more than stretched colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from pydantic import JsonValue

from contracts.errors import error
from gpu_functions import images
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work, input_of
from gpu_functions.splat import camera, turntable
from gpu_functions.splat.depth import depth
from gpu_functions.splat.scene import Floats, Scene, ply, sound
from gpu_functions.splat.turntable import SplatParameters

GRID: Final = 512  # pixels of the long side: at most 262,144 gaussians, a .ply of 14.7 MB
GRID_MIN: Final = 16  # of the short side: less is a line
SPREAD: Final = 0.55  # standard deviation in steps of the grid: in a viewer 0.6 blurs more, 0.5 lets 6% through
STRETCH: Final = 4.0  # steps that a disc may cover at an edge of depth
THICKNESS: Final = 0.05  # of a disc, in steps
OPAQUE: Final = 0.98
SEEN_MIN: Final = 0.02  # alpha below which a pixel becomes no gaussian


class Relief:
    """`image` -> `splat` (.ply), `turntable` (animated WebP)."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Nothing to load."""

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, SPLAT_IMPOSSIBLE."""
        wanted = SplatParameters.model_validate(parameters)
        data = input_of(inputs, "image")
        mm = camera.focal_mm(data)
        colours, alpha = small(images.read(data))
        height, width = colours.shape[:2]
        focal = camera.focal_px(mm, width, height)
        scene = relief(colours, depth(colours), focal, alpha)
        splat = ply(scene)
        work.tell(turntable.BEGUN)
        turning = turntable.turn(scene, turntable.View(width, height, focal), wanted, work)
        facts: Facts = {
            "preview": True,
            "note": "relief preview, not SHARP: depth is guessed from height, sharpness and haze",
            "gaussians": len(scene),
            "focal_mm": round(mm, 1),
            "metric": False,
        }
        return {"splat": splat, "turntable": turning}, facts


def small(picture: images.Picture) -> tuple[Floats, Floats]:
    """Colours (H×W×3) and alpha (H×W) in 0..1 of a copy whose long side is at most GRID. Raises SPLAT_IMPOSSIBLE."""
    width, height = picture.size
    shrink = min(1.0, GRID / max(width, height))
    size = round(width * shrink), round(height * shrink)
    if min(size) < GRID_MIN:
        raise error("SPLAT_IMPOSSIBLE", f"the picture is too small or too narrow: {size[0]}x{size[1]} pixels are left")
    white = np.float32(picture.white)
    colours = _resized(picture.pixels, size) / white
    if picture.alpha is None:
        return colours, np.ones(colours.shape[:2], np.float32)
    return colours, _resized(picture.alpha, size) / white


def relief(colours: Floats, depths: Floats, focal: float, alpha: Floats) -> Scene:
    """A disc for each pixel of `colours` that can be seen, at its depth; `focal` is in pixels of `colours`.

    A disc's normal is that of the surface, turned from the z axis on the shortest way: for a unit normal n that is
    the quaternion (1 + nz, -ny, nx, 0), normalised. It reaches to its neighbours along the surface.

    Raises SPLAT_IMPOSSIBLE when nothing can be seen.
    """
    height, width = depths.shape
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / np.float32(focal)
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / np.float32(focal)
    points = np.stack([x[None, :] * depths, y[:, None] * depths, depths], axis=2)
    across, down = np.gradient(points, axis=1), np.gradient(points, axis=0)
    normal = np.cross(across, down)
    normal /= np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-12)
    normal *= np.where(normal[..., 2:] < 0, np.float32(-1), np.float32(1))
    nx, ny, nz = normal[..., 0], normal[..., 1], normal[..., 2]
    # The disc's own axes after the turn.
    first = np.stack([1 - nx * nx / (1 + nz), -nx * ny / (1 + nz), -nx], axis=2)
    second = np.stack([-nx * ny / (1 + nz), 1 - ny * ny / (1 + nz), -ny], axis=2)
    step = depths / np.float32(focal)
    reaches = [
        np.clip(np.abs((along * axis).sum(axis=2)), step, STRETCH * step)
        for along, axis in ((across, first), (down, second))
    ]
    scales = np.stack([*(SPREAD * reach for reach in reaches), THICKNESS * step], axis=2)
    rotations = np.stack([1 + nz, -ny, nx, np.zeros_like(nx)], axis=2)
    seen = alpha >= SEEN_MIN
    if not seen.any():
        raise error("SPLAT_IMPOSSIBLE", "the picture is transparent")
    return sound(
        Scene(
            positions=points[seen],
            scales=np.asarray(scales[seen], np.float32),
            rotations=rotations[seen],
            colours=colours[seen],
            opacities=np.float32(OPAQUE) * alpha[seen],
        )
    )


def _resized(plane: images.Pixels, size: tuple[int, int]) -> Floats:
    """Shrunk by area in the depth of the picture: a float copy of a large one would take its memory four times."""
    return np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), np.float32)
