"""One number for sorting a shoot, 0 to 100, and what it is made of: a suggestion, never a verdict.

    part        weight   is
    sharpness     0.40   `blur.score`: the sharpest tenth of the picture
    exposure      0.25   `exposure.score`: near middle grey, little clipped
    eyes          0.20   of the faces that can be judged the share with open eyes
    noise         0.15   `noise.score`

The score is the weighted mean of the parts that there are: a picture without a face that can be judged has no
`eyes`, and loses nothing by it. Whether a picture is level counts nothing, since the crop straightens it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

WEIGHTS: Final = {"sharpness": 0.40, "exposure": 0.25, "eyes": 0.20, "noise": 0.15}


def cull(sharpness: float, exposure: float, noise: float, faces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`score` 0..100 and `parts`, each 0..1 or None."""
    judged = [face["eyes"]["closed"] for face in faces if face["eyes"]]
    eyes = judged.count(False) / len(judged) if judged else None
    parts = {"sharpness": sharpness, "exposure": exposure, "eyes": eyes, "noise": noise}
    known = {name: value for name, value in parts.items() if value is not None}
    score = 100 * sum(WEIGHTS[name] * value for name, value in known.items()) / sum(WEIGHTS[name] for name in known)
    return {
        "score": round(score, 1),
        "parts": {name: None if value is None else round(value, 4) for name, value in parts.items()},
    }
