"""Gaussians seen by a camera: a small renderer for previews, without a GPU.

Each gaussian is projected with its covariance (EWA splatting: Zwicker, Pfister, van Baar, Gross, 2001) onto the
pixels around its centre. The nearest surface of each pixel wins; what lies on that surface is averaged by weight.
So it needs no order, takes time that grows with the covered pixels only, and gives the same bytes each time. Unlike
a viewer it does not look through half-transparent gaussians to those behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from gpu_functions.splat.scene import Floats, Scene

Indices = npt.NDArray[np.int32]

LOW_PASS: Final = 0.1  # variance in square pixels that each gaussian has at least: none falls between pixels
RADIUS_MAX: Final = 12  # pixels to each side that a gaussian may cover
HITS_MAX: Final = 40_000_000  # a hit takes 12 bytes; SHARP's 1.18 million gaussians have 11 million on 480 pixels
SOLID: Final = 0.2  # weight from which on a gaussian hides what is behind it
SAME_SURFACE: Final = 1.03  # depths up to this factor behind the nearest belong to its surface
FAINT: Final = 0.1  # weight below which a gaussian leaves a pixel alone
COVERED: Final = 0.02  # weight from which on a pixel has a colour
NEAREST: Final = 1e-3  # in front of the camera, in units of the pivot's depth


@dataclass(frozen=True, slots=True)
class Pose:
    """A camera on a circle around a point on the z axis `pivot` away, turned by `angle` (radians, to the right)."""

    pivot: float
    angle: float

    def rotation(self) -> Floats:
        """World to camera, about the pivot."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], np.float32)

    def seen(self, points: Floats) -> Floats:
        """Points N×3 in the axes of the camera."""
        centre = np.array([0, 0, self.pivot], np.float32)
        return np.asarray((points - centre) @ self.rotation().T + centre, np.float32)


@dataclass(frozen=True, slots=True)
class Frame:
    """`colours` H×W×3, sRGB in 0..1, black where nothing is; `covered` H×W says where something is."""

    colours: Floats
    covered: npt.NDArray[np.bool_]


def covariances(scene: Scene) -> Floats:
    """6×N in the axes of the scene: xx, xy, xz, yy, yz, zz of R·diag(scale²)·Rᵀ."""
    w, x, y, z = np.ascontiguousarray(scene.rotations.T)
    turned = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        np.float32,
    )
    turned *= scene.scales.T
    return np.array([(turned[i] * turned[j]).sum(axis=0) for i in range(3) for j in range(i, 3)], np.float32)


def render(scene: Scene, covariance: Floats, pose: Pose, focal: float, width: int, height: int) -> Frame:
    """What a camera of `focal` pixels at `pose` sees on `width`×`height` pixels; `covariance`: `covariances(scene)`."""
    x, y, z = np.ascontiguousarray(pose.seen(scene.positions).T)
    ahead = z > NEAREST * pose.pivot
    z = np.where(ahead, z, np.float32(1))
    u, v = focal * x / z + (width / 2 - 0.5), focal * y / z + (height / 2 - 0.5)
    a, b, c = projected(x / z, y / z, np.asarray(focal / z, np.float32), covariance, pose.rotation())
    determinant = a * c - b * b
    radius = np.clip(np.ceil(2 * np.sqrt(np.maximum(a, c)) - 0.5), 1, RADIUS_MAX)
    ahead &= (u > -radius) & (u < width - 1 + radius) & (v > -radius) & (v < height - 1 + radius) & (determinant > 0)
    radius = np.minimum(radius, affordable(radius[ahead]))

    canvas = _Canvas(width, height)
    for size in np.unique(radius[ahead]).astype(int):
        mine = np.flatnonzero(ahead & (radius == size)).astype(np.int32)
        column, row = np.rint(u[mine]), np.rint(v[mine])
        du, dv = column - u[mine], row - v[mine]
        pixel, depth, opacity = canvas.pixel(column, row), z[mine], scene.opacities[mine]
        # The exponent of a two-dimensional normal distribution: its inverse covariance, halved.
        half = np.float32(-0.5) / determinant[mine]
        uu, uv, vv = half * c[mine], -2 * half * b[mine], half * a[mine]
        for right in range(-size, size + 1):
            along = du + np.float32(right)
            level, mixed = uu * along * along, uv * along
            for below in range(-size, size + 1):
                down = dv + np.float32(below)
                weight = opacity * np.exp(level + (mixed + vv * down) * down)
                canvas.add(mine, pixel + (below * canvas.stride + right), weight, depth)
    return canvas.resolved(scene.colours, z)


def affordable(radius: Floats) -> int:
    """The radius that gaussians may have at most for all together to cover HITS_MAX pixels, each pixel counted anew."""
    for most in range(RADIUS_MAX, 1, -1):
        if ((2 * np.minimum(radius, most) + 1) ** 2).sum(dtype=np.float64) <= HITS_MAX:
            return most
    return 1


def projected(
    slope_u: Floats, slope_v: Floats, scale: Floats, covariance: Floats, rotation: Floats
) -> tuple[Floats, Floats, Floats]:
    """Variance across, covariance, variance down of each gaussian on the picture, in square pixels.

    J·W·S·Wᵀ·Jᵀ, where J is the Jacobian of the projection (Zwicker et al., equations 29 to 31). `slope_u` and
    `slope_v` are x/z and y/z in the camera's axes, `scale` is the pixels of one unit at that depth.
    """
    xx, xy, xz, yy, yz, zz = covariance
    p, q, r = (scale * (rotation[0, axis] - slope_u * rotation[2, axis]) for axis in range(3))
    s, t, w = (scale * (rotation[1, axis] - slope_v * rotation[2, axis]) for axis in range(3))
    px, py, pz = xx * p + xy * q + xz * r, xy * p + yy * q + yz * r, xz * p + yz * q + zz * r
    sx, sy, sz = xx * s + xy * t + xz * w, xy * s + yy * t + yz * w, xz * s + yz * t + zz * w
    low_pass = np.float32(LOW_PASS)
    return p * px + q * py + r * pz + low_pass, s * px + t * py + w * pz, s * sx + t * sy + w * sz + low_pass


class _Canvas:
    """Hits (a gaussian, a pixel, a weight) on a picture with a rim, so that none needs to be tested for its bounds."""

    def __init__(self, width: int, height: int) -> None:
        self._shape = (height, width)
        self._rim = 2 * RADIUS_MAX + 1  # a centre lies at most a radius outside, and reaches a radius further
        self.stride = width + 2 * self._rim
        self._size = self.stride * (height + 2 * self._rim)
        self._nearest = np.full(self._size, np.inf, np.float32)
        self._hits: list[tuple[Indices, Indices, Floats]] = []

    def pixel(self, column: Floats, row: Floats) -> Indices:
        """The index of the pixel at a whole column and row of the picture."""
        return ((row + self._rim) * self.stride + column + self._rim).astype(np.int32)

    def add(self, gaussians: Indices, pixels: Indices, weights: Floats, depth: Floats) -> None:
        """Keep the hits that weigh enough; the solid ones hide what is behind them."""
        hit = np.flatnonzero(weights >= FAINT)
        pixels, weights, depth = pixels[hit], weights[hit], depth[hit]
        solid = np.flatnonzero(weights >= SOLID)
        np.minimum.at(self._nearest, pixels[solid], depth[solid])
        self._hits.append((gaussians[hit], pixels, weights))

    def resolved(self, colours: Floats, z: Floats) -> Frame:
        """Of all that falls onto each pixel, the average of the nearest surface; `z` is the gaussians' depth."""
        behind = self._nearest * np.float32(SAME_SURFACE)
        bands = np.ascontiguousarray(colours.T)
        sums = np.zeros((4, self._size), np.float32)
        for gaussians, pixels, weights in self._hits:
            front = np.flatnonzero(z[gaussians] <= behind[pixels])
            gaussians, pixels, weights = gaussians[front], pixels[front], weights[front]
            np.add.at(sums[3], pixels, weights)
            for band in range(3):
                np.add.at(sums[band], pixels, weights * bands[band, gaussians])
        height, width = self._shape
        rim = self._rim
        inner = sums.reshape(4, -1, self.stride)[:, rim : rim + height, rim : rim + width]
        covered = inner[3] >= COVERED
        mean = inner[:3] / np.maximum(inner[3], COVERED) * covered
        return Frame(np.ascontiguousarray(mean.transpose(1, 2, 0), np.float32), covered)
