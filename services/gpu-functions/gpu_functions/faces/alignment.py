"""A face of a picture <-> the upright square of 512 pixels that restoration networks were trained on.

What comes back from a network is not pasted: its difference from what went in is, under a mask. So the
picture keeps what the square could not hold: the fine detail of a face that was shrunk into it, its depth
of 16 bit, and, with a network that changes nothing, every bit.

    result = x + mask · back(restored - square(x) - low(restored - square(x)))

`low` is a blur under the mask: light and colour of the face stay as they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from gpu_functions.faces import facemesh
from gpu_functions.faces.facemesh import Floats
from gpu_functions.faces.reported import Around
from gpu_functions.images import Pixels

SIDE: Final = 512  # pixels of the square
# Where FFHQ's crop has the right eye (of the person), the left eye, the tip of the nose and the corners of the mouth:
# `FaceRestoreHelper` of facexlib, which GFPGAN, RestoreFormer and CodeFormer are run with.
TEMPLATE: Final = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
NOSE_TIP, MOUTH_CORNERS = 1, (61, 291)  # points of the mesh
MESH_PIXELS: Final = 512  # the mesh is looked for on the face shrunk to this: the model sees 192
GROWN: Final = 0.03  # of the face's height: the mask reaches past the jaw, so that its edge is restored with it
FEATHER: Final = 0.035  # of the face's height: sigma of the mask's edge
RIM: Final = 16  # pixels at the border of the square that are never used: networks are weak there
SQUARE_MIN, SQUARE_MAX = 0.5, 5.0  # sides of the detector's box that the square may have; usually it has 1.4
LIGHT: Final = 24.0  # pixels of the square: sigma of `low`, a fifth of the way from eye to mouth
SPARE: Final = 1.5  # pixels of the change per pixel of a smaller face: enough to turn and shift it without blur
BAND: Final = 256  # rows of the picture that are written together: what a large face costs in memory


@dataclass(frozen=True, slots=True)
class Aligned:
    """A face in its square: SIDE×SIDE×3 in 0..1, its mask in 0..1, and 2×3 from pixels of the picture to it."""

    square: Floats
    mask: Floats
    to_square: npt.NDArray[np.float64]

    @property
    def shrunk(self) -> float:
        """Pixels of the picture per pixel of the square; below 1 the face was enlarged."""
        return 1.0 / math.hypot(*self.to_square[:, 0])


def align(pixels: Pixels, around: Around, mesh: facemesh.FaceMesh) -> Aligned | str:
    """The face that is `around` in `pixels` (H×W×3, uint8 or uint16), or why there is none."""
    points = _points(pixels[around.window], around, mesh)
    if points is None:
        return "no_face_mesh"
    to_square = similarity(five(points), TEMPLATE)
    if not agree(to_square, around):
        return "no_face_mesh"
    mask = face_mask(points @ to_square[:, :2].T + to_square[:, 2])
    return Aligned(cut(pixels, to_square), mask, to_square) if mask.any() else "no_face_mesh"


def five(points: Floats) -> npt.NDArray[np.float64]:
    """The five points of TEMPLATE from the 468 of the mesh."""
    right, left = (points[list(ring)].mean(axis=0) for ring in facemesh.FEATURES[:2])
    return np.array([right, left, points[NOSE_TIP], *points[list(MOUTH_CORNERS)]], np.float64)


def similarity(source: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The 2×3 matrix of turn, scale and shift that brings `source` nearest to `target` (N×2), by least squares."""
    (x, y), one, zero = source.T, np.ones(len(source)), np.zeros(len(source))
    rows = np.concatenate([np.stack([x, -y, one, zero], axis=1), np.stack([y, x, zero, one], axis=1)])
    a, b, dx, dy = np.linalg.lstsq(rows, target.T.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, dx], [b, a, dy]])


def agree(to_square: npt.NDArray[np.float64], around: Around) -> bool:
    """Whether the mesh and the detector mean the same face: the square and the box are of about one size."""
    side = SIDE / max(math.hypot(*to_square[:, 0]), 1e-9)
    return SQUARE_MIN < side / max(around.box[2:]) < SQUARE_MAX


def face_mask(points: npt.NDArray[Any]) -> Floats:
    """How much of each pixel of the square is the network's: 1 in the oval of the face, feathered to 0 around it."""
    oval = points[list(facemesh.OVAL)]
    height = float(np.ptp(oval[:, 1]))
    canvas = np.zeros((SIDE, SIDE), np.float32)
    cv2.fillConvexPoly(canvas, cv2.convexHull(np.rint(oval).astype(np.int32)), 1.0)
    reach = 2 * round(GROWN * height) + 1
    grown = cv2.dilate(canvas, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
    soft = cv2.GaussianBlur(grown, (0, 0), max(1.0, FEATHER * height))
    ramp = np.clip((np.arange(SIDE) + 0.5) / RIM - 1.0, 0.0, 1.0)
    ramp = np.minimum(ramp, ramp[::-1])
    mask = np.minimum(soft, 1.0) * np.minimum.outer(ramp, ramp)
    return np.where(mask < 1e-3, 0.0, mask).astype(np.float32)


def change(face: Aligned, restored: Floats) -> Floats:
    """What `restored` (SIDE×SIDE×3, 0..1) does to the face, without what it does to light and colour."""
    difference = restored - face.square
    weight = cv2.GaussianBlur(face.mask, (0, 0), LIGHT)
    low = cv2.GaussianBlur(difference * face.mask[..., None], (0, 0), LIGHT) / np.maximum(weight, 1e-3)[..., None]
    return np.asarray(difference - low, np.float32)


def paste(result: Pixels, written: npt.NDArray[np.bool_], original: Pixels, face: Aligned, difference: Floats) -> None:
    """Write `original` with `difference` (SIDE×SIDE×3) under the face's mask to `result`, and where to `written` (H×W).

    `result` may hold other faces already: where two overlap, the later one lies over the earlier one.
    """
    height, width = original.shape[:2]
    mask, to_square = _shrunk(face.mask, face)
    difference, _ = _shrunk(difference, face)
    left, top, right, bottom = _footprint(face.to_square, width, height)
    white = np.float32(np.iinfo(original.dtype).max)
    for row in range(top, bottom, BAND):
        part = np.s_[row : min(row + BAND, bottom), left:right]
        onto = to_square.copy()
        onto[:, 2] += to_square[:, :2] @ (left, row)
        size = right - left, min(row + BAND, bottom) - row
        share = _warped(mask, onto, size, cv2.INTER_LINEAR)
        under = share > 0.0
        new = original[part][under] / white + _warped(difference, onto, size, cv2.INTER_CUBIC)[under]
        old = result[part][under] / white
        mixed = old + share[under][:, None] * (new - old)
        result[part][under] = np.rint(np.clip(mixed, 0.0, 1.0) * white).astype(result.dtype)
        written[part] |= under


def _points(region: Pixels, around: Around, mesh: facemesh.FaceMesh) -> Floats | None:
    """The mesh's points in pixels of the picture."""
    shrink = min(1.0, MESH_PIXELS / max(region.shape[:2]))
    small = cv2.resize(region, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    eight = (small // (np.iinfo(region.dtype).max // 255)).astype(np.uint8)
    x, y, w, h = (value * shrink for value in around.box)
    points = mesh.points(eight, (x, y, w, h), around.roll)
    return None if points is None else np.asarray(points / shrink + (around.left, around.top), np.float32)


def cut(pixels: Pixels, to_square: npt.NDArray[np.float64]) -> Floats:
    """The square of a face, 0..1; what lies outside the picture is its mirror."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = _footprint(to_square, width, height)
    region = pixels[top:bottom, left:right]
    shrink = min(1.0, math.hypot(*to_square[:, 0]))  # by area before it is turned: nothing aliases
    size = max(1, round(region.shape[1] * shrink)), max(1, round(region.shape[0] * shrink))
    small = cv2.resize(region, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    back = _scaling(region.shape[1] / size[0], region.shape[0] / size[1])
    onto = np.vstack([to_square, [0, 0, 1]]) @ _shift(left, top) @ back
    square = cv2.warpAffine(small, onto[:2], (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(np.clip(square / np.float32(np.iinfo(pixels.dtype).max), 0.0, 1.0), np.float32)


def _shrunk(plane: Floats, face: Aligned) -> tuple[Floats, npt.NDArray[np.float64]]:
    """A plane of the square, not much larger than the face is in the picture, and the way to its pixels."""
    side = min(SIDE, max(1, round(SIDE * face.shrunk * SPARE)))
    small = cv2.resize(plane, (side, side), interpolation=cv2.INTER_AREA)
    onto = _scaling(side / SIDE, side / SIDE) @ np.vstack([face.to_square, [0, 0, 1]])
    return np.asarray(small, np.float32), onto[:2]


def _warped(plane: Floats, onto: npt.NDArray[np.float64], size: tuple[int, int], kind: int) -> Floats:
    """The part of the picture of `size` (width, height) whose pixels `onto` leads into `plane`; 0 outside it."""
    return np.asarray(cv2.warpAffine(plane, onto, size, flags=kind | cv2.WARP_INVERSE_MAP), np.float32)


def _footprint(to_square: npt.NDArray[np.float64], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the square in the picture, cut to it, with the pixels that interpolation looks at."""
    corners = np.array([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]]) - 0.5
    places = (corners - to_square[:, 2]) @ np.linalg.inv(to_square[:, :2]).T
    (left, top), (right, bottom) = np.floor(places.min(axis=0)) - 2, np.ceil(places.max(axis=0)) + 3
    return max(0, int(left)), max(0, int(top)), min(width, int(right)), min(height, int(bottom))


def _scaling(x: float, y: float) -> npt.NDArray[np.float64]:
    """From pixel centres to pixel centres of the plane that is scaled by x and y: 3×3."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _shift(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])
