"""Opens an upload once: header first, then one reduced, oriented sRGB picture for every analysis.

Rules, in the order in which they are applied:
1. The loader is chosen by our own reading of the content; libvips never picks one of its hundred.
2. The header is read and judged by pixels before anything is decoded.
3. Every byte is decoded once with `fail_on=error`. `truncated` would let a PNG with a bad checksum
   pass; on a 24 MP JPEG both cost the same. A JPEG is decoded at 1/2, 1/4 or 1/8 scale inside its
   inverse DCT, which still reads the whole entropy-coded stream, so a cut is found wherever it is;
   one of RGB or grey by libjpeg-turbo alone, straight into the array (80 ms of 24 MP instead of 105).
4. Only the first page or frame counts.

Libvips runs single-threaded and without caches: the process serves one photo and ends, and
processes scale better than threads here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
import pyvips
import simplejpeg
from numpy.typing import NDArray

from contracts.errors import error
from ingest.analysis import exif
from ingest.analysis.develop import DEVELOPED, Developed, develop, raw_header, raw_size
from ingest.intake import HEAD_BYTES, PIXELS_MAX, sniff
from ingest.signatures import HEIC, RAW

Pixels = NDArray[np.uint8]

SIDE_MAX: Final = 1600  # long side of the proxy: wires of 3 px on 24 MP are still 0.8 px wide here
FRAMES_MAX: Final = 100  # a photo is one picture; scans and bursts hold a few dozen
SIDE_GOOD: Final = 1400  # a scaled JPEG decode this large is taken as it comes: 6000 / 4 = 1500 needs no resize

# fmt: off
LOADERS: Final[dict[str, str]] = {
    # media type    libvips operation
    "image/jpeg":   "jpegload_buffer",
    "image/png":    "pngload_buffer",
    "image/webp":   "webpload_buffer",
    "image/tiff":   "tiffload_buffer",
    "image/avif":   "heifload_buffer",
    HEIC:           "heifload_buffer",  # the header; its pixels are `develop`'s
}
# fmt: on

pyvips.block_untrusted_set(True)  # the same as VIPS_BLOCK_UNTRUSTED=1: no loader that is not fuzzed
pyvips.concurrency_set(1)
pyvips.cache_set_max(0)
cv2.setNumThreads(1)
logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # libvips quotes what it finds in a file


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself. `width` and `height` are of the oriented image."""

    media_type: str
    width: int
    height: int
    orientation: int  # 1..8, EXIF
    bit_depth: int  # 8 | 16
    image: pyvips.Image  # not decoded yet: for its metadata


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded upload: `rgb` (H, W, 3) is oriented sRGB, long side at most SIDE_MAX.

    `developed` is the whole picture where only this room can decode it.
    """

    header: Header
    rgb: Pixels
    developed: Developed | None = None


def read_header(data: bytes) -> Header:
    """Judge a file by its header, decoding no pixel.

    Raises MEDIA_TYPE_UNSUPPORTED, IMAGE_CORRUPT, IMAGE_TOO_LARGE.
    """
    media_type = sniff(data[:HEAD_BYTES])
    if media_type in RAW:
        width, height = raw_size(data)
        return Header(media_type, width, height, 1, 16, raw_header(data))
    if media_type not in LOADERS:
        raise error("MEDIA_TYPE_UNSUPPORTED")
    try:
        image = _open(data, media_type)
    except pyvips.Error:
        raise error("IMAGE_CORRUPT", "The header cannot be read.") from None
    if image.width * image.height > PIXELS_MAX:
        raise error("IMAGE_TOO_LARGE", f"The image has more than {PIXELS_MAX // 10**6} megapixels.")
    if image.get_typeof("n-pages") and image.get("n-pages") > FRAMES_MAX:
        raise error("IMAGE_TOO_LARGE", f"The image has more than {FRAMES_MAX} pages or frames.")
    if image.format not in ("uchar", "ushort"):
        raise error("IMAGE_CORRUPT", "The samples are neither 8 nor 16 bits wide.")
    orientation = int(image.get("orientation")) if image.get_typeof("orientation") else 1
    orientation = orientation if 1 <= orientation <= 8 else 1
    turned = orientation >= 5  # 5..8 swap rows and columns
    return Header(
        media_type=media_type,
        width=image.height if turned else image.width,
        height=image.width if turned else image.height,
        orientation=orientation,
        bit_depth=16 if image.format == "ushort" or _bits(image) > 8 else 8,
        image=image,
    )


def decode(data: bytes, header: Header) -> Photo:
    """Decode all of the file into a proxy. Raises IMAGE_CORRUPT where any part of it cannot be decoded."""
    developed = develop(data, header.media_type) if header.media_type in DEVELOPED else None
    try:
        rgb = _proxy(data, header) if developed is None else _reduced(developed.image)
    except pyvips.Error:
        raise error("IMAGE_CORRUPT", "The file is truncated or damaged.") from None
    return Photo(header, rgb, developed)


def shrunk(picture: Pixels, width: int, height: int) -> Pixels:
    """Means of areas, of the picture or of a part of it; fast by a whole number first, where its sides are divisible.

    OpenCV takes a tenth of the time for those, and what is left to do in fractions is then small.
    """
    down, across = picture.shape[0] // height, picture.shape[1] // width
    whole = [
        step for step in range(2, min(down, across) + 1) if not (picture.shape[0] % step or picture.shape[1] % step)
    ]
    if whole:
        size = picture.shape[1] // whole[-1], picture.shape[0] // whole[-1]
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _bits(image: pyvips.Image) -> int:
    return int(image.get("bits-per-sample")) if image.get_typeof("bits-per-sample") else 8


def _open(data: bytes, media_type: str, **options: Any) -> pyvips.Image:
    return pyvips.Operation.call(LOADERS[media_type], data, access="sequential", fail_on="error", **options)


def _proxy(data: bytes, header: Header) -> Pixels:
    side = max(header.width, header.height)
    image = header.image
    if header.media_type == "image/jpeg":
        shrink = next((k for k in (8, 4, 2) if side / k >= SIDE_GOOD), 1)
        if side / shrink <= SIDE_MAX and image.interpretation in ("srgb", "b-w") and not _profiled(image):
            return _turned(_jpeg(data, header, shrink), header.orientation)
        image = _open(data, header.media_type, shrink=shrink)
    return _reduced(image)


def _reduced(image: pyvips.Image) -> Pixels:
    if image.hasalpha():
        image = image.flatten(background=65535 if image.format == "ushort" else 255)
    if max(image.width, image.height) > SIDE_MAX:
        image = image.resize(SIDE_MAX / max(image.width, image.height))
    image = _srgb(image.copy_memory()).autorot()
    return np.ndarray((image.height, image.width, 3), np.uint8, image.write_to_memory())


def _jpeg(data: bytes, header: Header, shrink: int) -> Pixels:
    across, down = -(-header.image.width // shrink), -(-header.image.height // shrink)
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_width=across, min_height=down), np.uint8)
    except ValueError:
        raise error("IMAGE_CORRUPT", "The file is truncated or damaged.") from None


def _turned(rgb: Pixels, orientation: int) -> Pixels:
    """The picture as EXIF's orientation says: 2 and 4 are mirrored, 5 to 8 lie on a side."""
    match orientation:
        case 1:
            turned = rgb
        case 2:
            turned = rgb[:, ::-1]
        case 3:
            turned = rgb[::-1, ::-1]
        case 4:
            turned = rgb[::-1]
        case 5:
            turned = rgb.transpose(1, 0, 2)
        case 6:
            turned = rgb.transpose(1, 0, 2)[:, ::-1]
        case 7:
            turned = rgb[::-1, ::-1].transpose(1, 0, 2)
        case _:
            turned = rgb.transpose(1, 0, 2)[::-1]
    return np.ascontiguousarray(turned)


def _profiled(image: pyvips.Image) -> bool:
    """Whether there is a profile that changes colours: those called sRGB differ by a level, which no part looks at."""
    return exif.color_profile(image) not in (None, "sRGB")


def _srgb(image: pyvips.Image) -> pyvips.Image:
    """8-bit sRGB through the embedded profile. A profile that cannot be used is ignored, as browsers do."""
    if _profiled(image):
        try:
            return image.icc_transform("srgb", embedded=True, intent="relative").copy_memory()[:3]
        except pyvips.Error:
            return image.colourspace("srgb")[:3]
    return image.colourspace("srgb")[:3]
