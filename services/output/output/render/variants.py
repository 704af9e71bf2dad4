"""The forms in which a finished photo is delivered.

One decode to the largest box, then each size from the one before it, then every form of that size.
Measured behind the table, CPU ms for a 2048 px photo: AVIF effort 0 takes 99 (83 kB), 1 takes 189 (85 kB),
2 takes 543 (89 kB); the library's default 4 was seen to take 36 times what 0 takes. WebP effort 0 takes 44
(109 kB), 2 takes 84 (96 kB), 4 takes 201 (92 kB). At 400 px all are cheap, except AVIF from effort 3 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Final, Literal

import pyvips

from output.render.images import Rendered, decode, fitted, read_header, resized, to_8_bit, upright_size, with_blob
from output.render.metadata import credit_of, xmp_packet

WHITE: Final = [255, 255, 255]  # what a transparent picture is laid on where a format has no alpha
KEEP: Final = "xmp|icc"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row: fits into box x box pixels; `quality` is the format's own scale, `effort` 0 is the fastest."""

    name: str
    box: int
    format: Literal["jpeg", "webp", "avif"]
    quality: int
    effort: int
    media_type: str


VARIANTS: Final[tuple[Variant, ...]] = (
    #       name          box  format  quality  effort  media type      (larger boxes first)
    Variant("web.jpg",    2048, "jpeg", 82,      0,      "image/jpeg"),
    Variant("web.webp",   2048, "webp", 80,      2,      "image/webp"),
    Variant("web.avif",   2048, "avif", 60,      0,      "image/avif"),
    Variant("thumb.jpg",   400, "jpeg", 80,      0,      "image/jpeg"),
    Variant("thumb.webp",  400, "webp", 75,      4,      "image/webp"),
    Variant("thumb.avif",  400, "avif", 50,      1,      "image/avif"),
)  # fmt: skip


def variants(data: bytes, original: bytes | None = None) -> list[Rendered]:
    """Every row of VARIANTS for the image `data`, in the table's order; the same input gives the same bytes.

    Upright sRGB with its profile; creator and rights as XMP and no other metadata; never enlarged. The credit is read
    from `original` when the image is another: the phases in between hand on pixels only.
    Raises IMAGE_CORRUPT and IMAGE_TOO_LARGE.
    """
    whole = upright_size(read_header(data))
    image = decode(data, max(row.box for row in VARIANTS))
    packet = xmp_packet(credit_of(read_header(original) if original else image))
    rendered = []
    for box, rows in groupby(VARIANTS, key=lambda row: row.box):
        image = resized(image, *fitted(*whole, box)).copy_memory()
        ready = _with_credit_only(to_8_bit(image), packet)
        rendered += [_rendered(row, ready) for row in rows]
    return rendered


def _with_credit_only(image: pyvips.Image, packet: bytes | None) -> pyvips.Image:
    image = image.copy()
    for name in image.get_fields():
        if name.startswith(("exif-", "xmp-", "iptc-", "png-comment-", "gif-", "heif-")):
            image.remove(name)
    return with_blob(image, "xmp-data", packet) if packet else image


def _rendered(row: Variant, image: pyvips.Image) -> Rendered:
    match row.format:
        case "jpeg":
            opaque = image.flatten(background=WHITE) if image.hasalpha() else image
            data = opaque.jpegsave_buffer(Q=row.quality, optimize_coding=True, keep=KEEP)
        case "webp":
            data = image.webpsave_buffer(Q=row.quality, effort=row.effort, keep=KEEP)
        case "avif":
            data = image.heifsave_buffer(compression="av1", Q=row.quality, effort=row.effort, keep=KEEP)
    return Rendered(row.name, data, row.media_type, image.width, image.height)
