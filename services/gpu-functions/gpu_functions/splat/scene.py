"""A scene of 3D gaussians, and the .ply that viewers read.

The axes are OpenCV's: x to the right, y down, z away from the camera, which stands at the origin and took
the picture. A vertex is 14 float32, in the names and the encoding of the file that Kerbl et al. ("3D Gaussian
Splatting", SIGGRAPH 2023) write, without the higher harmonics and with no element but `vertex`: loaders on the
web stumble over others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contracts.errors import error
from gpu_functions.engine import Output

Floats = npt.NDArray[np.float32]

SH_DC: Final = 0.28209479177387814  # the harmonic of degree 0: 1 / (2·sqrt(pi))
OPACITY_RIM: Final = 1e-4  # opacities are stored as logits, which 0 and 1 have not
SCALE_MIN: Final = 1e-7  # and scales as logarithms
MEDIA_TYPE: Final = "application/octet-stream"  # no type is registered for .ply; this is what servers send it as
PROPERTIES: Final = (
    *("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"),
    *("rot_0", "rot_1", "rot_2", "rot_3"),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """N gaussians as arrays of float32.

    `positions` N×3; `scales` N×3, standard deviations along their own axes in units of the positions;
    `rotations` N×4, unit quaternions w, x, y, z from their own axes; `colours` N×3, sRGB in 0..1 (what
    viewers blend in); `opacities` N in 0..1.
    """

    positions: Floats
    scales: Floats
    rotations: Floats
    colours: Floats
    opacities: Floats

    def __len__(self) -> int:
        return len(self.positions)

    def where(self, kept: npt.NDArray[np.bool_]) -> Scene:
        """The gaussians of a mask."""
        arrays = (self.positions, self.scales, self.rotations, self.colours, self.opacities)
        return Scene(*(array[kept] for array in arrays))


def sound(scene: Scene) -> Scene:
    """`scene` without gaussians that are nowhere, behind the camera or of no size; quaternions of length 1.

    Raises SPLAT_IMPOSSIBLE when that is more than half of them.
    """
    length = np.linalg.norm(scene.rotations, axis=1)
    kept = (scene.positions[:, 2] > 0) & (length > 1e-6) & (scene.scales > 0).all(axis=1)
    for array in (scene.positions, scene.scales, scene.rotations, scene.colours):
        kept &= np.isfinite(array).all(axis=1)
    kept &= np.isfinite(scene.opacities)
    if 2 * np.count_nonzero(kept) < max(1, len(scene)):
        raise error("SPLAT_IMPOSSIBLE", "most of the scene is at no place that can be seen")
    whole = scene if kept.all() else scene.where(kept)
    rotations = whole.rotations / length[kept, None]
    return Scene(whole.positions, whole.scales, rotations, whole.colours, whole.opacities)


def ply(scene: Scene) -> Output:
    """`scene` as a binary little-endian .ply, 56 bytes a gaussian. What it holds must be sound."""
    table = np.empty((len(scene), len(PROPERTIES)), "<f4")
    table[:, 0:3] = scene.positions
    table[:, 3:6] = (np.clip(scene.colours, 0.0, 1.0) - 0.5) / SH_DC
    opacity = np.clip(scene.opacities, OPACITY_RIM, 1.0 - OPACITY_RIM)
    table[:, 6] = np.log(opacity / (1.0 - opacity))
    table[:, 7:10] = np.log(np.maximum(scene.scales, SCALE_MIN))
    table[:, 10:14] = scene.rotations
    properties = "".join(f"property float {name}\n" for name in PROPERTIES)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(scene)}\n{properties}end_header\n"
    return Output(b"".join([header.encode(), table.data]), MEDIA_TYPE)
