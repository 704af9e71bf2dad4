"""Bring the picture before an edit to where the picture after it shows the same things.

An export may be cropped, scaled, turned a little and freed of its lens's distortion. Everything is found on edges
(the strength of the gradient, evened out locally), which a grade leaves where they are:

    the same frame, or a homography from matched ORB features (RANSAC)
    -> refined by ECC (Evangelidis, Psarakis, TPAMI 2008)
    -> what is left, as a lens leaves it: optical flow (DIS), of which only a cubic in x and y is believed

and judged by one number: how alike the edges are then (correlation, -1..1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
Edges = npt.NDArray[np.float32]

SIDE: Final = 640  # pixels of the longer side at which edges are compared
SIDE_MIN: Final = 160  # of the shorter side of a picture: below it there is too little to compare
ALIKE: Final = 0.55  # correlation of edges from which two pictures lie on each other
CERTAIN: Final = 0.75  # from here no other way is tried
RELATED: Final = 0.30  # below it they do not show the same thing
INLIERS_MIN: Final = 14
SAME_FRAME_PX: Final = 0.75  # corners that move less than this, at SIDE, have not moved
SHAPE_TOLERANCE: Final = 0.02  # of aspect ratios: rounding of an export's size
OVERLAP_MIN: Final = 0.5  # of the edited picture that must show what the picture before shows
BEND_GAIN: Final = 0.01  # correlation that a bend must gain to be believed
BEND_PX_MAX: Final = 24.0  # at SIDE: distortion of a wide lens in its corners


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where each pixel of the edited picture lies in the one before, both in shares of width and height.

    `matrix` 3×3 maps (x, y, 1) after to before; `bend` 2×10 adds a cubic of x, y in -1..1 to x, y after, or None.
    """

    matrix: Matrix
    bend: Matrix | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """How two pictures lie on each other, and how alike their edges are then."""

    geometry: Geometry
    alike: float


def scaled(picture: Picture, side: int) -> Picture:
    """`picture` with at most `side` pixels on its longer side."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1.0:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def find(before: Picture, after: Picture) -> Found | str:
    """How `after` lies on `before` (H×W×3 each), or why not: `too_small`, `misaligned`, `different_content`."""
    before, after = scaled(before, SIDE), scaled(after, SIDE)
    if min(*before.shape[:2], *after.shape[:2]) < SIDE_MIN:
        return "too_small"
    grays = _even(before), _even(after)
    edges = _edges(grays[0]), _edges(grays[1])
    best: Found | None = None
    for start in _starts(grays):
        found = _refined(start, edges)
        best = found if best is None or found.alike > best.alike else best
        if best.alike >= CERTAIN:
            break
    if best is None or best.alike < RELATED:
        return "different_content"
    best = _bent(best, edges)
    if best.alike < ALIKE or _overlap(best.geometry, edges[1].shape) < OVERLAP_MIN:
        return "misaligned"
    return best


def moved(picture: Picture, geometry: Geometry, size: tuple[int, int]) -> tuple[Picture, npt.NDArray[np.bool_]]:
    """`picture` (before) in the frame of the edited one, whose width and height are `size`, and where it shows it."""
    x, y = _places(geometry, size)
    height, width = picture.shape[:2]
    inside = (x >= 0.0) & (x <= 1.0) & (y >= 0.0) & (y <= 1.0)
    at = (x * width - 0.5).astype(np.float32), (y * height - 0.5).astype(np.float32)
    there = cv2.remap(picture, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(there, np.uint8), inside


def _places(geometry: Geometry, size: tuple[int, int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """x and y before, in shares, of each pixel after."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    if geometry.bend is not None:
        terms = _cubic(2 * x - 1, 2 * y - 1)
        x, y = x + np.tensordot(geometry.bend[0], terms, 1), y + np.tensordot(geometry.bend[1], terms, 1)
    m = geometry.matrix
    scale = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    return (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / scale, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / scale


def _cubic(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.stack([x**0, x, y, x * x, x * y, y * y, x**3, x * x * y, x * y * y, y**3])


def _even(picture: Picture) -> Picture:
    """Gray, its contrast evened out in tiles: most of a grade is gone."""
    return np.asarray(cv2.createCLAHE(3.0, (8, 8)).apply(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)), np.uint8)


def _edges(gray: Picture) -> Edges:
    """The gradient's strength beside what is usual around it: float32, 0..1."""
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.2)
    strength = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    usual = cv2.GaussianBlur(strength, (0, 0), 16)
    return np.asarray(strength / (strength + usual + 4.0), np.float32)


def _starts(grays: tuple[Picture, Picture]) -> Iterator[Matrix]:
    """What may be: the same frame where shapes agree, then what features say. In pixels, after -> before."""
    before, after = grays
    (h0, w0), (h1, w1) = before.shape, after.shape
    if abs(w0 * h1 / (h0 * w1) - 1) < SHAPE_TOLERANCE:
        yield np.array([[w0 / w1, 0, (w0 / w1 - 1) / 2], [0, h0 / h1, (h0 / h1 - 1) / 2], [0, 0, 1]], float)
    orb = cv2.ORB.create(2500, fastThreshold=8)
    (points0, words0), (points1, words1) = (orb.detectAndCompute(gray, None) for gray in (before, after))
    if words0 is None or words1 is None:
        return
    near = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(words1, words0, k=2)
    good = [two[0] for two in near if len(two) == 2 and two[0].distance < 0.8 * two[1].distance]
    if len(good) < INLIERS_MIN:
        return
    here = np.array([points1[match.queryIdx].pt for match in good], np.float32)
    there = np.array([points0[match.trainIdx].pt for match in good], np.float32)
    matrix, inliers = cv2.findHomography(here, there, cv2.RANSAC, 4.0, maxIters=4000, confidence=0.999)
    if matrix is not None and int(inliers.sum()) >= INLIERS_MIN and _is_sane(np.asarray(matrix, float), (w1, h1)):
        yield np.asarray(matrix, float)


def _is_sane(matrix: Matrix, size: tuple[int, int]) -> bool:
    """Whether it keeps a frame a convex frame of the same handedness, 1/6 to 6 times as wide."""
    width, height = size
    corners = np.array([[[0, 0]], [[width, 0]], [[width, height]], [[0, height]]], np.float32)
    there = cv2.perspectiveTransform(corners, matrix).astype(np.float32)
    growth = cv2.contourArea(there, oriented=True) / cv2.contourArea(corners, oriented=True)
    return bool(np.isfinite(there).all() and cv2.isContourConvex(there) and 1 / 36 < growth < 36)


def _refined(start: Matrix, edges: tuple[Edges, Edges]) -> Found:
    """ECC from `start`; the start itself where that is no better, or hardly another."""
    before, after = edges
    (h0, w0), (h1, w1) = before.shape, after.shape
    to_before, from_after = np.diag([1 / w0, 1 / h0, 1.0]), np.diag([w1, h1, 1.0])
    half0, half1 = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]), np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])

    def found(matrix: Matrix) -> Found:
        shares = to_before @ half0 @ matrix @ half1 @ from_after
        geometry = Geometry(shares / shares[2, 2])
        return Found(geometry, _alike(geometry, edges))

    first = found(start)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-5)
    try:
        everywhere = np.full(after.shape, 255, np.uint8)
        _, matrix = cv2.findTransformECC(
            after, before, start.astype(np.float32), cv2.MOTION_HOMOGRAPHY, criteria, everywhere, 5
        )
    except cv2.error:  # it does not converge: pictures without a common gradient
        return first
    corners = np.array([[[0, 0]], [[w1, 0]], [[w1, h1]], [[0, h1]]], np.float32)
    shift = cv2.perspectiveTransform(corners, matrix.astype(float)) - cv2.perspectiveTransform(corners, start)
    if np.abs(shift).max() < SAME_FRAME_PX:
        return first
    second = found(matrix.astype(float))
    return second if second.alike > first.alike else first


def _bent(found: Found, edges: tuple[Edges, Edges]) -> Found:
    """`found`, with a cubic bend where optical flow agrees with one and edges lie better then."""
    after = edges[1]
    height, width = after.shape
    there = _moved_edges(found.geometry, edges)
    still = np.zeros((height, width, 2), np.float32)
    follower = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = follower.calc((after * 255).astype(np.uint8), (there * 255).astype(np.uint8), still)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    sure = (after > 0.5) & (np.abs(flow).max(axis=2) < BEND_PX_MAX)
    if sure.sum() < 500:
        return found
    terms, drift = _cubic(x[sure], y[sure]).T, flow[sure] / [width, height]
    weights = np.ones(len(drift))
    for _ in range(4):  # reweighted least squares: flow is wrong wherever there is no edge to follow
        root = np.sqrt(weights)[:, None]
        bend = np.linalg.lstsq(terms * root, drift * root, rcond=None)[0]
        off = np.linalg.norm((terms @ bend - drift) * [width, height], axis=1)
        weights = 1 / (1 + (off / 0.7) ** 2) ** 2
    geometry = Geometry(found.geometry.matrix, bend.T)
    alike = _alike(geometry, edges)
    return Found(geometry, alike) if alike > found.alike + BEND_GAIN else found


def _moved_edges(geometry: Geometry, edges: tuple[Edges, Edges]) -> Edges:
    before, after = edges
    x, y = _places(geometry, (after.shape[1], after.shape[0]))
    height, width = before.shape
    at = (x * width - 0.5).astype(np.float32), (y * height - 0.5).astype(np.float32)
    return np.asarray(cv2.remap(before, *at, cv2.INTER_LINEAR, borderValue=0.0), np.float32)


def _alike(geometry: Geometry, edges: tuple[Edges, Edges]) -> float:
    """Correlation of edges where both pictures show something; 0 where that is too little to tell."""
    after = edges[1]
    x, y = _places(geometry, (after.shape[1], after.shape[0]))
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    if inside.mean() < OVERLAP_MIN / 2:
        return 0.0
    one, other = _moved_edges(geometry, edges)[inside], after[inside]
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).mean() / max(float(one.std() * other.std()), 1e-9))


def _overlap(geometry: Geometry, shape: tuple[int, ...]) -> float:
    x, y = _places(geometry, (shape[1], shape[0]))
    return float(((x > 0) & (x < 1) & (y > 0) & (y < 1)).mean())
