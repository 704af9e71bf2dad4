"""Pictures of pages: a TIFF with as many pages as it has, or a photo, which is laid flat first.

What comes out is the page upright, grey where it has no colour, no larger than the engines read, and without
anything that the file says besides its pixels.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import pyvips

from contracts.documents import PAGES_MAX
from contracts.errors import error
from ingest.analysis.decode import (  # also sets libvips to one thread, no cache, no untrusted loader
    LOADERS,
    read_header,
)
from ingest.analysis.develop import DEVELOPED, develop
from ingest.intake import HEAD_BYTES, PIXELS_MAX, sniff
from ingest.pages import Made, Rasterized, flatten
from ingest.pages.pdf import SIDE_MAX, jpeg

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
TIFF: Final = "image/tiff"


def count(data: bytes, media_type: str) -> int:
    """How many pages there are. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, DOCUMENT_TOO_LONG, MEDIA_TYPE_UNSUPPORTED."""
    if sniff(data[:HEAD_BYTES]) != TIFF:  # of any other picture the first frame is the page
        read_header(data)
        return 1
    try:
        first: Any = pyvips.Operation.call(LOADERS[TIFF], data, access="sequential", fail_on="error")
    except pyvips.Error:
        raise error("IMAGE_CORRUPT", "The header cannot be read.") from None
    pages = int(first.get("n-pages")) if first.get_typeof("n-pages") else 1
    if pages > PAGES_MAX:
        raise error("DOCUMENT_TOO_LONG", f"It has {pages} pages; at most {PAGES_MAX} are accepted.")
    return max(1, pages)


def rasterize(data: bytes, media_type: str, number: int) -> Rasterized:
    """The page of this number, upright; a photo of one laid flat."""
    scanned = sniff(data[:HEAD_BYTES]) == TIFF
    pixels = _pixels(data, number - 1)
    facts: dict[str, Any] = {}
    if scanned:
        pixels, angle = flatten.level(pixels)
        facts["skew"] = round(angle, 2)
    else:
        laid = flatten.lay(pixels)
        pixels = laid.pixels
        facts |= {"skew": round(laid.skew, 2), "flattened": laid.flattened}
    made = Made("image.jpg", jpeg(pixels), "image/jpeg", pixels.shape[1], pixels.shape[0])
    return Rasterized([made], {"width": made.width, "height": made.height, **facts})


def _pixels(data: bytes, page: int) -> Pixels:
    """Upright BGR pixels. Raises IMAGE_CORRUPT where any part of the page cannot be decoded."""
    media_type = sniff(data[:HEAD_BYTES])
    if media_type not in LOADERS:
        raise error("MEDIA_TYPE_UNSUPPORTED")
    options: dict[str, Any] = {"page": page} if media_type == TIFF else {}
    try:
        image: Any = (
            develop(data, media_type).image
            if media_type in DEVELOPED
            else pyvips.Operation.call(LOADERS[media_type], data, access="sequential", fail_on="error", **options)
        )
        if image.width * image.height > PIXELS_MAX:
            raise error("IMAGE_TOO_LARGE", f"The page has more than {PIXELS_MAX // 10**6} megapixels.")
        if image.hasalpha():
            image = image.flatten(background=65535 if image.format == "ushort" else 255)
        across = SIDE_MAX / max(image.width, image.height)
        down = across * _squeezed(image)
        if across < 1 or down != across:
            across = min(across, 1.0)
            image = image.resize(across, vscale=across * _squeezed(image))
        image = image.copy_memory().autorot().colourspace("srgb")[:3].cast("uchar")
        rgb = np.ndarray((image.height, image.width, 3), np.uint8, image.write_to_memory())
    except pyvips.Error:
        raise error("IMAGE_CORRUPT", "The page is truncated or damaged.") from None
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)


def _squeezed(image: Any) -> float:
    """How much taller the page is than its pixels say: a fax has twice as many across as down."""
    ratio = image.xres / image.yres if image.xres > 0 and image.yres > 0 else 1.0
    return float(ratio) if 1.2 < ratio < 3 else 1.0
