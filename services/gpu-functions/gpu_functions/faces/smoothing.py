"""The engine `skin-smoothing`: evens out the skin of faces and restores nothing.

Frequency separation: a guided filter (He, Sun, Tang, TPAMI 2013) keeps edges and light and
drops blotches; the finest band, which is what makes skin look like skin, is given back in part.

    target = guided(x) + FINE_KEPT · (x - blur(x))
    result = x + (1 - fidelity) · mask · (target - x)

Only pixels under the mask are written; every other pixel is the input's, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from pydantic import JsonValue

from gpu_functions import images
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work, input_of
from gpu_functions.faces import facemesh
from gpu_functions.faces.reported import Face, RetouchParameters

FACE_PIXELS_MIN: Final = 40  # a smaller face has no skin texture to smooth, and the mesh is unsure
MESH_PIXELS: Final = 512  # the mesh is looked for on the face shrunk to this: the model sees 192
FINE_KEPT: Final = 0.6
EDGE: Final = 0.09  # contrast (0..1) that counts as an edge for the guided filter


@dataclass(frozen=True, slots=True)
class Retouched:
    """The new pixels, the indices of the faces treated, why others were not, and the share of pixels under masks."""

    pixels: images.Pixels
    treated: list[int]
    skipped: dict[int, str]
    mask_share: float


class SkinSmoothing:
    """`image` -> `image`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        self._mesh = facemesh.FaceMesh()

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
        wanted = RetouchParameters.model_validate(parameters)
        picture = images.read(input_of(inputs, "image"))
        done = retouch(picture.pixels, wanted.faces, 1.0 - wanted.fidelity, self._mesh)
        facts: Facts = {
            "fidelity": wanted.fidelity,
            "faces_treated": len(done.treated),
            "faces_skipped": [{"face": face, "reason": reason} for face, reason in done.skipped.items()],
            "mask_share": round(done.mask_share, 6),
        }
        return {"image": images.png(picture.with_pixels(done.pixels))}, facts


def retouch(pixels: images.Pixels, faces: list[Face], strength: float, mesh: facemesh.FaceMesh) -> Retouched:
    """Smooth the skin of `faces` in `pixels` (H×W×3, uint8 or uint16); the input is not written to."""
    result = pixels.copy()
    height, width = pixels.shape[:2]
    touched = np.zeros((height, width), bool)
    treated: list[int] = []
    skipped: dict[int, str] = {}
    for index, face in enumerate(faces):
        around = face.around(width, height, FACE_PIXELS_MIN)
        if isinstance(around, str):
            skipped[index] = around
            continue
        region = pixels[around.window].astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
        points = _find(mesh, region, around.box, around.roll)
        if points is None:
            skipped[index] = "no_face_mesh"
            continue
        mask = facemesh.skin_mask(region, points)
        if not mask.any():
            skipped[index] = "no_skin"
            continue
        treated.append(index)
        if strength > 0.0:
            smooth = _smooth(region, float(np.ptp(points[:, 1])), mask * np.float32(strength))
            under = mask > 0.0
            values = np.rint(np.clip(smooth[under], 0.0, 1.0) * np.iinfo(pixels.dtype).max)
            result[around.window][under] = values.astype(pixels.dtype)
            touched[around.window] |= under
    return Retouched(result, treated, skipped, float(touched.mean()))


def _find(
    mesh: facemesh.FaceMesh, region: facemesh.Floats, box: tuple[float, float, float, float], roll: float
) -> facemesh.Floats | None:
    """The mesh's points in pixels of `region`, found on a copy small enough not to alias at the model's size."""
    shrink = min(1.0, MESH_PIXELS / max(region.shape[:2]))
    small = cv2.resize(region, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    x, y, w, h = (value * shrink for value in box)
    points = mesh.points((small * 255).astype(np.uint8), (x, y, w, h), roll)
    return None if points is None else points / np.float32(shrink)


def _smooth(region: facemesh.Floats, face_size: float, weight: facemesh.Floats) -> facemesh.Floats:
    """`region` (0..1 floats) pulled towards its smoothed self by `weight`; lengths go with `face_size` in pixels."""
    radius = max(2, round(0.035 * face_size))
    x, y, w, h = cv2.boundingRect((weight > 0.0).astype(np.uint8))
    rim = 3 * radius  # the filter averages its averages: two radii reach, and a bit
    near = np.s_[max(0, y - rim) : y + h + rim, max(0, x - rim) : x + w + rim]
    part = np.ascontiguousarray(region[near])
    # The guide is the picture in colour, so that hair of the skin's brightness does not bleed into it. It must be
    # float like the contrast EDGE²: a guide in 0..255 makes the filter return its input.
    target = cv2.ximgproc.guidedFilter(part, part, radius, EDGE**2, scale=0.25 if radius >= 16 else 1.0)
    fine = part - cv2.GaussianBlur(part, (0, 0), max(0.6, 0.0025 * face_size))
    target = target + np.float32(FINE_KEPT) * fine
    blended = region.copy()
    blended[near] += weight[near][..., None] * (target - part)
    return blended
