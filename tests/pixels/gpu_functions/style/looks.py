"""Photos and edits with a known truth: what style training is tested and measured on.

Eleven colour photos ship in wheels (scikit-image: NASA, SpaceX, CC0; scikit-learn: CC BY 2.0; matplotlib:
public domain). Each is cut into two halves, which show different things: 22 pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib import cbook
from skimage import data
from sklearn.datasets import load_sample_image

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Edit = Callable[[Picture], Picture]

_SHIPPED = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina", "immunohistochemistry")
LUMA = np.array([0.2126, 0.7152, 0.0722])


def photos(side: int = 480) -> list[tuple[Picture, Picture]]:
    """Both halves of each photo, whose longer side is scaled to `side` pixels first."""
    whole = [np.asarray(getattr(data, name)()) for name in _SHIPPED]
    whole += [np.asarray(data.stereo_motorcycle()[0])]  # type: ignore[no-untyped-call]
    whole += [np.asarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    whole.append(np.asarray(cv2.imread(str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))))[..., ::-1])
    return [_halves(picture[..., :3], side) for picture in whole]


def _halves(picture: Picture, side: int) -> tuple[Picture, Picture]:
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (round(width * scale), round(height * scale))
    small = cv2.resize(
        np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    first, second = np.array_split(small, 2, axis=int(width >= height))
    return np.ascontiguousarray(first), np.ascontiguousarray(second)


def to_light(colours: Floats) -> Floats:
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def from_light(light: Floats) -> Floats:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def film(colours: Floats) -> Floats:
    """A photographer's preset on ...×3 sRGB colours: warmth, a film curve, olive greens, teal blues, split tones."""
    light = to_light(colours) * [1.12, 1.0, 0.88] * 1.1
    tones = from_light(light)
    curved = 0.05 + 0.92 * (1 / (1 + np.exp(-6.5 * (tones - 0.47))) - 0.045) / 0.925
    luma = curved @ LUMA
    hue, chroma = _hue(curved)
    turned = hue - 0.45 * _near(hue, 2.1, 0.7) - 0.35 * _near(hue, -2.1, 0.8)  # greens to yellow, blues to teal
    muted = chroma * (0.85 - 0.35 * _near(hue, 2.1, 0.7) + 0.15 * _near(hue, 0.5, 0.5))  # dull leaves, living skin
    mixed = luma[..., None] + muted[..., None] * (np.cos(turned)[..., None] * _RED + np.sin(turned)[..., None] * _SIDE)
    shade, shine = (1 - luma)[..., None] ** 2, luma[..., None] ** 2
    return np.asarray(np.clip(mixed + shade * [-0.02, 0.008, 0.035] + shine * [0.03, 0.012, -0.03], 0, 1))


_RED = np.array([2.0, -1.0, -1.0]) / 6**0.5  # two axes across the gray diagonal
_SIDE = np.array([0.0, 1.0, -1.0]) / 2**0.5


def _hue(colours: Floats) -> tuple[Floats, Floats]:
    """Angle (radians: red 0, green 2.1, blue -2.1) and distance from gray."""
    x, y = colours @ _RED, colours @ _SIDE
    return np.arctan2(y, x), np.hypot(x, y)


def _near(hue: Floats, centre: float, width: float) -> Floats:
    """1 at the hue `centre`, falling off over `width` radians, round the circle."""
    away = np.abs((hue - centre + np.pi) % (2 * np.pi) - np.pi)
    return np.asarray(np.exp(-((away / width) ** 2)))


def graded(picture: Picture, stops: float = 0.0, balance: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Picture:
    """`film` over a picture that was exposed anew before, rounded to 8 bit."""
    light = to_light(picture / 255) * 2.0**stops * np.array(balance)
    return np.asarray(np.rint(film(from_light(light)) * 255), np.uint8)


def fixed(picture: Picture) -> Picture:
    """The same grade for every picture."""
    return graded(picture)


def levelled(picture: Picture) -> Picture:
    """An editor who first brings each picture to the same exposure: a mean light of 18%."""
    light = to_light(picture / 255) @ LUMA
    return graded(picture, float(np.clip(np.log2(0.18 / max(light.mean(), 1e-3)), -2.5, 2.5)))


def wayward(seed: int) -> Edit:
    """An editor who exposes each picture anew as the day goes: up to a stop, with no reason in the picture."""
    random = np.random.default_rng(seed)
    return lambda picture: graded(picture, float(random.uniform(-1, 1)))
