"""Pictures that nothing after this can read, as a PNG: HEIC and camera RAW, decoded once.

    HEIC    libheif and libde265 (pi-heif): the primary picture, turned as its boxes say, 8 or 16 bit, its own profile
    RAW     LibRaw (rawpy): demosaiced, the camera's white balance, 16 bit of sRGB, turned as the camera was held

The header is judged before pixels are decoded, as everywhere. The PNG is what the following phases get as their image
(ADR 0004); no metadata goes along.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import pi_heif
import pyvips
import rawpy
from numpy.typing import NDArray

from contracts.errors import error
from ingest.intake import PIXELS_MAX
from ingest.signatures import HEIC, RAW

DEVELOPED: Final = RAW | {HEIC}
CLIPPED: Final = 0.001  # of a RAW's pixels may become white when it is brightened: LibRaw's own hundredth is too many

_HEAD_BYTES: Final = 60_000  # of a TIFF's: its directories, and what fits into a JPEG's segment
_DIRECTORIES: Final = {b"IIRO": b"II*\0", b"IIRS": b"II*\0", b"IIU\0": b"II*\0", b"MMOR": b"MM\0*"}


@dataclass(frozen=True, slots=True)
class Developed:
    """`pixels` (H, W, 3) in 8 or 16 bit, upright; `profile` is what their colours mean, none for sRGB."""

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    profile: bytes

    @property
    def image(self) -> pyvips.Image:
        """The same for libvips, in memory."""
        deep = self.pixels.dtype == np.uint16
        image = pyvips.Image.new_from_array(self.pixels, interpretation="rgb16" if deep else "srgb")
        if self.profile:
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", self.profile)
        return image

    def png(self) -> bytes:
        """Level 1, with its profile."""
        image = self.image
        named = {} if self.profile else {"profile": "srgb"}
        data: bytes = image.pngsave_buffer(compression=1, filter="up", keep="icc", **named)
        return data


def develop(data: bytes, media_type: str) -> Developed:
    """Decode all of it. Raises IMAGE_CORRUPT and IMAGE_TOO_LARGE."""
    return _from_heic(data) if media_type == HEIC else _from_raw(data)


def raw_header(data: bytes) -> pyvips.Image:
    """An image that carries what a RAW says about camera and time, and no pixels of it; 1 x 1."""
    blank: bytes = pyvips.Image.black(1, 1).jpegsave_buffer()
    head = data[:_HEAD_BYTES]
    if head.startswith(b"FUJIFILMCCD-RAW "):  # it holds a JPEG of its own, whose place is at 84
        start = int.from_bytes(data[84:88], "big")
        preview = data[start : start + min(int.from_bytes(data[88:92], "big"), 1 << 20)]
        try:
            return pyvips.Image.jpegload_buffer(preview)
        except pyvips.Error:
            return pyvips.Image.jpegload_buffer(blank)
    if head[4:8] == b"ftyp":  # a CR3: a box holds the first directory, as a TIFF
        at = head.find(b"CMT1")
        head = head[at + 4 :] if at > 0 else b""
    tiff = b"Exif\0\0" + _DIRECTORIES.get(head[:4], head[:4]) + head[4:]
    segment = b"\xff\xe1" + (len(tiff) + 2).to_bytes(2, "big") + tiff
    return pyvips.Image.jpegload_buffer(blank[:2] + segment + blank[2:])


def raw_size(data: bytes) -> tuple[int, int]:
    """Width and height of a RAW's picture, upright, by its header. Raises IMAGE_CORRUPT."""
    with _opened(data) as raw:
        sizes = raw.sizes
        turned = sizes.flip in (5, 6)  # LibRaw's: by 90 degrees to either side
        return (sizes.height, sizes.width) if turned else (sizes.width, sizes.height)


def _from_raw(data: bytes) -> Developed:
    with _opened(data) as raw:
        try:
            pixels = raw.postprocess(use_camera_wb=True, output_bps=16, auto_bright_thr=CLIPPED)
        except (rawpy.LibRawError, ValueError):
            raise error("IMAGE_CORRUPT", "The file is truncated or damaged.") from None
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise error("IMAGE_CORRUPT", "The sensor's colours are not three.")
    return Developed(pixels, b"")


def _opened(data: bytes) -> rawpy.RawPy:
    try:
        raw = rawpy.imread(io.BytesIO(data))
    except rawpy.LibRawError:
        raise error("IMAGE_CORRUPT", "The header cannot be read.") from None
    if raw.sizes.raw_width * raw.sizes.raw_height > PIXELS_MAX:
        raw.close()
        raise error("IMAGE_TOO_LARGE", f"The image has more than {PIXELS_MAX // 10**6} megapixels.")
    return raw


def _from_heic(data: bytes) -> Developed:
    try:
        file = pi_heif.open_heif(data, convert_hdr_to_8bit=False)
        pixels = np.array(file)  # a copy: its own memory goes with the file
    except (ValueError, SyntaxError, EOFError, RuntimeError):
        raise error("IMAGE_CORRUPT", "The file is truncated or damaged.") from None
    if pixels.ndim == 2:
        pixels = np.dstack([pixels] * 3)
    profile = file.info.get("icc_profile") or b""
    return Developed(np.ascontiguousarray(pixels[..., :3]), bytes(profile))
