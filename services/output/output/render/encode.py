"""Pixels into the forms that browsers take, each with its profile and the credit, and nothing else beside the pixels.

JPEG is written by jpegli where there is a wheel of it: a fifth fewer bytes than libjpeg-turbo's at the same quality,
in a third of the time that optimal Huffman tables cost there. It writes pixels only, so what goes before them is
put there here (ITU-T T.81 B.1.1; ICC.1:2022 B.4; XMP part 3, 1.1.3). Elsewhere libvips writes the whole file.

AVIF and WebP have one effort each. AVIF of 400 pixels takes 14 ms at 0 and 640 at libvips' own 4, for 6 % fewer bytes;
WebP of 1024 takes 30 at 0, 48 at 2 and 102 at 4, for 120, 105 and 102 kB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyvips

from contracts.variants import Format
from output.render.images import blob_of, with_blob

try:
    import pyjpegli
except ImportError:  # not built for this platform
    pyjpegli = None

WHITE: Final = [255, 255, 255]  # what a transparent picture is laid on where a format has no alpha
KEEP: Final = "xmp|icc"
WEBP_EFFORT: Final = 2
AVIF_EFFORT: Final = 0
JPEG_ENCODER: Final = "turbo" if pyjpegli is None else "jpegli"

_JFIF: Final = b"JFIF\0\x01\x02\0\0\x01\0\x01\0\0"
_ICC: Final = b"ICC_PROFILE\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_SEGMENT_MAX: Final = 65_533  # bytes behind a segment's length of two, which counts itself


def encoded(image: pyvips.Image, form: Format, quality: int) -> bytes:
    """`image` of 8 bit with the fields `icc-profile-data` and, where there is a credit, `xmp-data`."""
    data: bytes
    match form:
        case "jpeg":
            opaque = image.flatten(background=WHITE) if image.hasalpha() else image
            data = _jpeg(opaque, quality)
        case "webp":
            data = image.webpsave_buffer(Q=quality, effort=WEBP_EFFORT, keep=KEEP)
        case "avif":
            data = image.heifsave_buffer(compression="av1", Q=quality, effort=AVIF_EFFORT, keep=KEEP)
    return data


def bare(image: pyvips.Image, packet: bytes | None) -> pyvips.Image:
    """`image` with its profile and `packet` (XMP), and no other metadata."""
    image = image.copy()
    for name in image.get_fields():
        if name.startswith(("exif-", "xmp-", "iptc-", "png-comment-", "gif-", "heif-")):
            image.remove(name)
    return with_blob(image, "xmp-data", packet) if packet else image


def _jpeg(image: pyvips.Image, quality: int) -> bytes:
    if pyjpegli is None:
        turbo: bytes = image.jpegsave_buffer(Q=quality, optimize_coding=True, keep=KEEP)
        return turbo
    pixels: bytes = pyjpegli.encode(image.write_to_memory(), image.width, image.height, quality)
    start, rest = pixels[:2], pixels[2:]
    return b"".join([start, *_segments(blob_of(image, "icc-profile-data"), blob_of(image, "xmp-data")), rest])


def _segments(profile: bytes, xmp: bytes) -> Iterator[bytes]:
    yield _segment(0xE0, _JFIF)
    if xmp and len(_XMP) + len(xmp) <= _SEGMENT_MAX:
        yield _segment(0xE1, _XMP + xmp)
    room = _SEGMENT_MAX - len(_ICC) - 2
    parts = [profile[at : at + room] for at in range(0, len(profile), room)]
    if len(parts) <= 255:  # a profile of more than 16 MB is none
        for number, part in enumerate(parts, 1):
            yield _segment(0xE2, _ICC + bytes([number, len(parts)]) + part)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
