"""A picture in some 25 bytes: what a page shows until the picture is there.

ThumbHash (Evan Wallace, https://evanw.github.io/thumbhash/): the lowest frequencies of lightness, of two differences of
colours and of opacity, 4 bits each, after a header of averages and scales. Bit for bit what its reference
implementation makes of the same pixels, except of those that are all alike, where it enlarges rounding errors. Cosines
are two small matrices here instead of loops over pixels.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]

SIDE_MAX: Final = 100  # pixels: the hash keeps seven waves a side at most
FLAT: Final = 1e-9  # amplitude of waves below which there are none


class _Channel(NamedTuple):
    """The average, the other frequencies as 0..1, and the scale that makes them so."""

    mean: float
    waves: list[float]
    scale: float


def thumbhash(rgba: NDArray[np.uint8]) -> bytes:
    """The hash of a picture (H, W, 4) of at most SIDE_MAX pixels a side."""
    height, width = rgba.shape[:2]
    if max(height, width) > SIDE_MAX:
        raise ValueError(f"at most {SIDE_MAX} pixels a side")
    colour, alpha = rgba[..., :3] / 255, rgba[..., 3:] / 255
    whole = float(alpha.sum())
    average = (colour * alpha).sum(axis=(0, 1)) / whole if whole else np.zeros(3)
    red, green, blue = np.moveaxis(average * (1 - alpha) + colour * alpha, 2, 0)
    opaque = bool((rgba[..., 3] == 255).all())
    along = 7 if opaque else 5
    across, down = (max(1, _rounded(along * side / max(width, height))) for side in (width, height))

    light = _channel((red + green + blue) / 3, max(3, across), max(3, down))
    yellow_blue = _channel((red + green) / 2 - blue, 3, 3)
    red_green = _channel(red - green, 3, 3)
    channels = [light, yellow_blue, red_green]
    landscape = width > height
    head = (
        _rounded(63 * light.mean)
        | _rounded(31.5 + 31.5 * yellow_blue.mean) << 6
        | _rounded(31.5 + 31.5 * red_green.mean) << 12
        | _rounded(31 * light.scale) << 18
        | (not opaque) << 23
    )
    shape = (
        (down if landscape else across)
        | _rounded(63 * yellow_blue.scale) << 3
        | _rounded(63 * red_green.scale) << 9
        | landscape << 15
    )
    hashed = bytearray(head.to_bytes(3, "little") + shape.to_bytes(2, "little"))
    if not opaque:
        opacity = _channel(alpha[..., 0], 5, 5)
        hashed.append(_rounded(15 * opacity.mean) | _rounded(15 * opacity.scale) << 4)
        channels.append(opacity)
    nibbles = [_rounded(15 * wave) for channel in channels for wave in channel.waves]
    nibbles += [0] * (len(nibbles) % 2)
    hashed += bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    return bytes(hashed)


def _channel(values: Doubles, across: int, down: int) -> _Channel:
    height, width = values.shape
    waves = _cosines(down, height) @ values @ _cosines(across, width).T / (width * height)
    kept = [float(waves[y, x]) for y in range(down) for x in range(across) if x * down < across * (down - y)]
    mean, *others = kept
    scale = max(map(abs, others), default=0.0)
    if scale < FLAT:
        return _Channel(mean, [0.0] * len(others), 0.0)
    return _Channel(mean, [0.5 + 0.5 / scale * wave for wave in others], scale)


def _cosines(count: int, side: int) -> Doubles:
    result: Doubles = np.cos(np.pi / side * np.outer(np.arange(count), np.arange(side) + 0.5))
    return result


def _rounded(value: float) -> int:
    """Halves go up, as in the reference, not to the even number."""
    return int(np.floor(value + 0.5))
