"""Styles that come with Safelight: 3D LUTs computed from a few numbers each, written as `.cube` files.

A look is a short chain of steps on sRGB-encoded values, every step smooth, so that a grid of 33
nodes an axis holds it to well under one level of 255 between the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Tint = tuple[float, float, float]  # red, green, blue
Colours = NDArray[np.float64]  # (..., 3), 0..1, sRGB-encoded

SIZE: Final = 33
NONE: Final = (0.0, 0.0, 0.0)
LUMA: Final = np.array([0.2126, 0.7152, 0.0722])  # ITU-R BT.709


@dataclass(frozen=True, slots=True)
class Look:
    """One row of LOOKS."""

    contrast: float  # strength of the S-curve, 0 none, 1 full smoothstep
    saturation: float  # 1 unchanged
    black: float  # what black becomes
    white: float  # what white becomes
    shadows: Tint = NONE  # added to the dark end, fading to the light one
    highlights: Tint = NONE  # added to the light end, fading to the dark one
    mix: Tint | None = None  # weights of a black-and-white conversion


# fmt: off
LOOKS: Final = {
    # name                contrast saturation  black  white  shadows                 highlights
    "warm-film":     Look(0.35,    0.92,       0.025, 0.985, (0.000, 0.008, 0.018),  (0.030, 0.012, -0.035)),
    "cool-matte":    Look(0.10,    0.82,       0.070, 0.960, (-0.010, 0.004, 0.022), (-0.015, 0.002, 0.012)),
    "mono":          Look(0.40,    0.00,       0.015, 0.990, mix=(0.35, 0.50, 0.15)),
}
# fmt: on


def grade(colours: Colours, look: Look) -> Colours:
    """Apply a look to colours (..., 3): conversion or saturation, contrast, range, then the tint of both ends."""
    grey = (colours @ np.array(look.mix if look.mix is not None else LUMA))[..., None]
    out = grey + (colours - grey) * look.saturation
    out = np.clip(out, 0, 1)
    out = out + look.contrast * (out * out * (3 - 2 * out) - out)
    out = look.black + (look.white - look.black) * out
    # The tint of each end grows with distance from the other and spares pure black and white.
    spare = 4 * grey * (1 - grey)
    out = out + spare * ((1 - grey) * np.array(look.shadows) + grey * np.array(look.highlights))
    return np.asarray(np.clip(out, 0, 1))


def cube(name: str) -> str:
    """The `.cube` text (Adobe Cube LUT Specification 1.0) of one of LOOKS: red varies fastest."""
    axis = np.linspace(0, 1, SIZE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    table = grade(np.stack([red, green, blue], axis=-1), LOOKS[name]).reshape(-1, 3)
    rows = "\n".join(f"{r:.6f} {g:.6f} {b:.6f}" for r, g, b in table.tolist())
    return f'TITLE "{name}"\nLUT_3D_SIZE {SIZE}\nDOMAIN_MIN 0 0 0\nDOMAIN_MAX 1 1 1\n{rows}\n'


def write_styles(folder: Path) -> list[Path]:
    """Write every style as `<name>.cube` into `folder`, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in LOOKS:
        path = folder / f"{name}.cube"
        path.write_text(cube(name), encoding="ascii")
        paths.append(path)
    return paths
