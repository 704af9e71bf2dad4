"""A viewer of splats, written from the definition in Kerbl et al. 2023 and without our code: slow and exact.

Reads a .ply with plyfile, projects each gaussian, and composites front to back over every pixel.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from plyfile import PlyData
from scipy.spatial.transform import Rotation

Floats = npt.NDArray[np.floating[Any]]


@dataclass
class Splats:
    """What a .ply holds, decoded as viewers do."""

    positions: Floats
    colours: Floats
    opacities: Floats
    scales: Floats
    rotations: Floats


def read(data: bytes) -> Splats:
    with tempfile.TemporaryFile() as file:  # from memory, plyfile reads number by number
        file.write(data)
        file.seek(0)
        vertices = PlyData.read(file)["vertex"]
    column = {name: np.asarray(vertices[name], float) for name in vertices.data.dtype.names}

    def together(prefix: str, number: int) -> Floats:
        return np.stack([column[f"{prefix}_{n}"] for n in range(number)], axis=1)

    return Splats(
        positions=np.stack([column[axis] for axis in "xyz"], axis=1),
        colours=0.5 + together("f_dc", 3) / (2 * np.sqrt(np.pi)),
        opacities=1 / (1 + np.exp(-column["opacity"])),
        scales=np.exp(together("scale", 3)),
        rotations=together("rot", 4),
    )


def footprints(splats: Splats, focal: float) -> Floats:
    """The covariance of each gaussian on the picture in square pixels, N×2×2, as seen from the origin along z."""
    half = Rotation.from_quat(splats.rotations, scalar_first=True).as_matrix() * splats.scales[:, None, :]
    x, y, z = splats.positions.T
    nothing = np.zeros_like(z)
    jacobian = np.array([[focal / z, nothing, -focal * x / z**2], [nothing, focal / z, -focal * y / z**2]])
    across = np.einsum("ijn,njk->nik", jacobian, half)
    return np.asarray(across @ across.transpose(0, 2, 1))


def show(splats: Splats, focal: float, width: int, height: int) -> tuple[Floats, Floats]:
    """Colours H×W×3 over black and what light gets through, H×W, as seen from the origin along z."""
    v, u = np.mgrid[0:height, 0:width] + 0.5
    colours, through = np.zeros((height, width, 3)), np.ones((height, width))
    inverse = np.linalg.inv(footprints(splats, focal) + 0.3 * np.eye(2))
    for n in np.argsort(splats.positions[:, 2]):
        x, y, z = splats.positions[n]
        (a, b), (_, c) = inverse[n]
        du, dv = u - (focal * x / z + width / 2), v - (focal * y / z + height / 2)
        alpha = np.minimum(0.99, splats.opacities[n] * np.exp(-0.5 * (a * du * du + 2 * b * du * dv + c * dv * dv)))
        colours += (through * alpha)[..., None] * splats.colours[n]
        through *= 1 - alpha
    return colours, through
