"""Power lines and exit signs drawn into real photos, so that the truth is known to the pixel.

No freely usable photo in any package shows either. Both are drawn several times too large and
averaged down, as a lens and a sensor do, and a sign gets the softness and noise of its photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]

OVERSAMPLING: Final = 4
RED: Final = (200, 30, 35)  # sRGB of ISO 3864 signal red under plain light
GREEN: Final = (0, 135, 80)  # and of its green
WHITE: Final = (242, 242, 236)


@dataclass(frozen=True, slots=True)
class Wire:
    """A parabola from the left edge to the right one. Heights and sag are shares of the height, width is in pixels."""

    left: float
    right: float
    sag: float
    width: float

    def points(self, count: int = 65) -> NDArray[np.float64]:
        """(count, 2) normalised x, y."""
        t = np.linspace(0, 1, count)
        return np.stack([t, self.left + (self.right - self.left) * t + 4 * self.sag * t * (1 - t)], axis=1)


@dataclass(frozen=True, slots=True)
class Sign:
    """A plate with a word. `x`, `y`, `width`, `height` in pixels before it is tilted by `tilt` degrees."""

    x: int
    y: int
    width: int
    height: int
    word: str = "EXIT"
    plate: Colour = RED
    ink: Colour = WHITE
    tilt: float = 0.0


def draw_wires(
    photo: Pixels, wires: Sequence[Wire], level: int = 35, behind: int | None = None
) -> tuple[Pixels, Pixels]:
    """The photo (H, W, 3) with wires of grey `level`, and the mask (H, W) of 0 and 255: half covered or more.

    With `behind`, the wires pass behind whatever is darker than that grey level: a roof against a bright sky.
    """
    height, width = photo.shape[:2]
    size = width * OVERSAMPLING, height * OVERSAMPLING
    layer = Image.new("L", size)
    pen = ImageDraw.Draw(layer)
    for wire in wires:
        path = [tuple(point) for point in wire.points() * np.array(size)]
        pen.line(path, fill=255, width=max(1, round(wire.width * OVERSAMPLING)), joint="curve")
    cover = np.asarray(layer.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255
    if behind is not None:
        cover = cover * (photo.mean(axis=2, keepdims=True) >= behind)
    mixed = photo * (1 - cover) + level * cover
    return mixed.round().astype(np.uint8), ((cover[..., 0] >= 0.5) * np.uint8(255)).astype(np.uint8)


def draw_sign(photo: Pixels, sign: Sign) -> tuple[Pixels, Pixels]:
    """The photo (H, W, 3) with an exit sign, and the mask (H, W) of 0 and 255 of its plate."""
    margin = sign.width // 2  # what turning and softening can reach
    left, top = max(0, sign.x - margin), max(0, sign.y - margin)
    near = np.s_[top : sign.y + sign.height + margin, left : sign.x + sign.width + margin]
    behind = photo[near].astype(np.float32)
    canvas = Image.new("RGBA", (behind.shape[1], behind.shape[0]))
    canvas.paste(_plate(sign), (sign.x - left, sign.y - top))
    centre = (sign.x - left + sign.width / 2, sign.y - top + sign.height / 2)
    canvas = canvas.rotate(sign.tilt, Image.Resampling.BICUBIC, center=centre)
    layer = np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    cover = layer[..., 3:] / 255
    # Pillow blurs colour and coverage apart; dividing undoes the dark rim that this gives.
    colour = np.clip(layer[..., :3] / np.maximum(cover, 1 / 255), 0, 255)
    noise = np.random.default_rng(7).normal(0, 2.5, behind.shape) * (cover > 0.5)
    drawn, mask = photo.copy(), np.zeros(photo.shape[:2], np.uint8)
    drawn[near] = np.clip(behind * (1 - cover) + colour * cover + noise, 0, 255).round().astype(np.uint8)
    mask[near] = (cover[..., 0] >= 0.5) * np.uint8(255)
    return drawn, mask


def _plate(sign: Sign) -> Image.Image:
    """The upright plate, letters spaced as on a real sign: by a tenth of its height."""
    width, height = sign.width * OVERSAMPLING, sign.height * OVERSAMPLING
    plate = Image.new("RGBA", (width, height), (*sign.plate, 255))
    pen, gap = ImageDraw.Draw(plate), 0.1 * height
    size = 0.8 * height
    while True:
        font = ImageFont.truetype(str(_font()), round(size))
        advances = [pen.textlength(letter, font=font) for letter in sign.word]
        row = sum(advances) + gap * (len(advances) - 1)
        if row <= 0.84 * width:
            break
        size, gap = 0.95 * size, 0.95 * gap
    x = (width - row) / 2
    for letter, advance in zip(sign.word, advances, strict=True):
        pen.text((x, height / 2), letter, font=font, fill=(*sign.ink, 255), anchor="lm")
        x += advance + gap
    return plate.resize((sign.width, sign.height), Image.Resampling.BOX)


def _font() -> Path:
    spec = find_spec("matplotlib")
    assert spec is not None, "matplotlib ships the font and is a dependency of this package"
    assert spec.origin is not None
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
