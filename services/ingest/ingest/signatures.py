"""How the first bytes of a file tell what it is, where a common signature does not.

    camera RAW    a TIFF with a magic of its own (ORF, RW2), with a maker's mark (CR2), or with tags that no finished
                  picture has (DNG: its version; NEF, ARW: a reduced first picture and others below it); or a
                  container (RAF, CR3)
    HEIF          boxes as in MP4: which codec the pictures are in is said by the brands, the major or a compatible one

Pure. Offsets and counts are a stranger's: everything is read within the head or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

HEIC: Final = "image/heic"
AVIF: Final = "image/avif"
DNG: Final = "image/x-adobe-dng"
CR2: Final = "image/x-canon-cr2"
CR3: Final = "image/x-canon-cr3"
NEF: Final = "image/x-nikon-nef"
ARW: Final = "image/x-sony-arw"
RAF: Final = "image/x-fuji-raf"
RW2: Final = "image/x-panasonic-rw2"
ORF: Final = "image/x-olympus-orf"
RAW: Final = frozenset({DNG, CR2, CR3, NEF, ARW, RAF, RW2, ORF})

# fmt: off
_MAGIC: Final = (
    (b"IIRO",             ORF),
    (b"IIRS",             ORF),
    (b"MMOR",             ORF),
    (b"IIU\0",            RW2),
    (b"FUJIFILMCCD-RAW ", RAF),
)
_MAKERS: Final = (
    (b"NIKON",            NEF),
    (b"SONY",             ARW),
)
# fmt: on
_SUBFILE, _MAKE, _BELOW, _DNG_VERSION = 0x00FE, 0x010F, 0x014A, 0xC612  # TIFF 6.0, TIFF/EP, DNG 1.0
_ENTRIES_MAX: Final = 200
_HEIC_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis"})  # ISO/IEC 23008-12, B.4; "hevc" is a film
_AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})


def raw_type(head: bytes) -> str | None:
    """Which camera's RAW a file is, by its first bytes."""
    for magic, media_type in _MAGIC:
        if head.startswith(magic):
            return media_type
    if head[4:12] == b"ftypcrx ":
        return CR3
    if head[:4] not in (b"II*\0", b"MM\0*"):
        return None
    if head[8:10] == b"CR":
        return CR2
    tags = dict(_first_directory(head))
    if _DNG_VERSION in tags:
        return DNG
    if _BELOW in tags and _SUBFILE in tags and any(tags[_SUBFILE]):
        return next((media_type for maker, media_type in _MAKERS if tags.get(_MAKE, b"").startswith(maker)), None)
    return None


def heif_type(head: bytes) -> str | None:
    """What the still pictures of a HEIF file are coded in: HEVC (HEIC) or AV1 (AVIF)."""
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands & _HEIC_BRANDS:
        return HEIC
    return AVIF if brands & _AVIF_BRANDS else None


def _first_directory(head: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, value) of a TIFF's first directory, as far as the head holds them."""
    order = "<" if head[:1] == b"I" else ">"
    if len(head) < 10:
        return
    (start,) = struct.unpack_from(order + "I", head, 4)
    if start + 2 > len(head):
        return
    (count,) = struct.unpack_from(order + "H", head, start)
    for at in range(start + 2, min(start + 2 + 12 * min(count, _ENTRIES_MAX), len(head) - 11), 12):
        tag, _, size = struct.unpack_from(order + "HHI", head, at)
        inline = head[at + 8 : at + 12]
        (offset,) = struct.unpack(order + "I", inline)
        yield tag, head[offset : offset + min(size, 64)] if tag == _MAKE and size > 4 else inline
