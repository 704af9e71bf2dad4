"""The engine `sharp`: Apple's SHARP (Mescheder et al., "Sharp Monocular View Synthesis in Less Than a Second", 2025).

One forward pass turns a photo into about 1.18 million gaussians, in metres. The model's code is the package
`sharp` of the repository apple/ml-sharp (not what PyPI has under that name), which is found here or is not; its weights
are for research only. It writes files: so its gaussians are taken as tensors, and the .ply is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from contracts.errors import error
from gpu_functions import images
from gpu_functions.engine import ALONE, Facts, Output, Place, Work, input_of
from gpu_functions.splat import camera, turntable
from gpu_functions.splat.scene import Floats, Scene, ply, sound
from gpu_functions.splat.turntable import SplatParameters

if TYPE_CHECKING:
    import torch

WEIGHTS: Final = "sharp_2572gikvuh.pt"
SIDE_MAX: Final = 3072  # twice what the model looks at: beyond, its bilinear resize would skip pixels
SIDE_MIN: Final = 32
GREY: Final = 128  # behind what is transparent


class Gaussians(Protocol):
    """What SHARP predicts, a batch of one: means and singular values (1×N×3, metres), quaternions (1×N×4; w, x, y, z),
    colours (1×N×3, linear RGB) and opacities (1×N)."""

    mean_vectors: torch.Tensor
    singular_values: torch.Tensor
    quaternions: torch.Tensor
    colors: torch.Tensor
    opacities: torch.Tensor


class Sharp:
    """`image` -> `splat` (.ply), `turntable` (animated WebP)."""

    def __init__(self, place: Place) -> None:
        """Raises ENGINE_UNAVAILABLE when the package `sharp` is another one."""
        import torch

        try:
            models, self._predict = import_module("sharp.models"), import_module("sharp.cli.predict").predict_image
            predictor = models.create_predictor(models.PredictorParams())
        except (ImportError, AttributeError):
            raise error("ENGINE_UNAVAILABLE", "the package sharp that is installed is not Apple's ml-sharp") from None
        predictor.load_state_dict(torch.load(place.weights[WEIGHTS], map_location="cpu", weights_only=True, mmap=True))
        self._device = torch.device("cuda" if place.device == "gpu" else "cpu")
        self._predictor = predictor.eval().to(self._device)

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, SPLAT_IMPOSSIBLE."""
        wanted = SplatParameters.model_validate(parameters)
        data = input_of(inputs, "image")
        mm = camera.focal_mm(data)
        pixels = prepared(images.read(data))
        height, width = pixels.shape[:2]
        focal = camera.focal_px(mm, width, height)
        scene = scene_of(self._predict(self._predictor, pixels, focal, self._device))
        splat = ply(scene)
        work.tell(turntable.BEGUN)
        turning = turntable.turn(scene, turntable.View(width, height, focal), wanted, work)
        facts: Facts = {"preview": False, "gaussians": len(scene), "focal_mm": round(mm, 1), "metric": True}
        return {"splat": splat, "turntable": turning}, facts


def prepared(picture: images.Picture) -> npt.NDArray[np.uint8]:
    """8-bit RGB whose long side is at most SIDE_MAX, on grey where the picture is transparent.

    Raises SPLAT_IMPOSSIBLE.
    """
    width, height = picture.size
    if min(width, height) < SIDE_MIN:
        raise error("SPLAT_IMPOSSIBLE", f"the picture has {width}x{height} pixels; {SIDE_MIN} are needed on each side")
    shrink = min(1.0, SIDE_MAX / max(width, height))
    size = max(SIDE_MIN, round(width * shrink)), max(SIDE_MIN, round(height * shrink))
    pixels: Any = cv2.resize(picture.pixels, size, interpolation=cv2.INTER_AREA)
    if picture.white > 255:
        pixels = pixels >> 8
    if picture.alpha is not None:
        alpha = cv2.resize(picture.alpha, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None]
        pixels = GREY + (pixels - np.float32(GREY)) * (alpha / np.float32(picture.white))
    return np.asarray(pixels, np.uint8)


def scene_of(found: Gaussians) -> Scene:
    """SHARP's gaussians as ours: colours encoded as sRGB, as its own `save_ply` does for viewers.

    Raises SPLAT_IMPOSSIBLE.
    """
    linear = np.clip(_array(found.colors), 0.0, 1.0)
    # IEC 61966-2-1.
    colours = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    return sound(
        Scene(
            positions=_array(found.mean_vectors),
            scales=_array(found.singular_values),
            rotations=_array(found.quaternions),
            colours=np.asarray(colours, np.float32),
            opacities=_array(found.opacities),
        )
    )


def _array(batch: torch.Tensor) -> Floats:
    return np.ascontiguousarray(batch[0].detach().float().cpu().numpy(), np.float32)
