"""Pictures encoded by libvips, without our code."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyvips
from skimage import data


def vips(pixels: npt.NDArray[Any]) -> pyvips.Image:
    """`pixels` as a libvips image that knows its depth."""
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    return image.copy(interpretation="rgb16") if pixels.dtype == np.uint16 and pixels.ndim == 3 else image


def encode(pixels: npt.NDArray[Any], suffix: str = ".png", **options: Any) -> bytes:
    """An encoded picture."""
    return bytes(vips(pixels).write_to_buffer(suffix, **options))


def decode(content: bytes) -> npt.NDArray[Any]:
    """The pixels of an encoded picture as they are stored."""
    return np.asarray(pyvips.Image.new_from_buffer(content, "").numpy())


def shipped(name: str) -> npt.NDArray[np.uint8]:
    """A photo from the scikit-image wheel as RGB."""
    pixels = np.asarray(getattr(data, name)(), np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def deepen(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """The same picture in 16 bit, with detail below what 8 bit can hold."""
    low = np.random.default_rng(3).integers(0, 256, pixels.shape)
    return np.asarray(pixels.astype(np.uint16) * 256 + low, np.uint16)


def psnr(found: npt.NDArray[Any], truth: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> float:
    """Peak signal to noise ratio in dB inside `where`."""
    white = np.iinfo(truth.dtype).max
    squared = np.mean((found[where].astype(float) - truth[where]) ** 2)
    return float(10 * np.log10(white**2 / max(squared, 1e-12)))
