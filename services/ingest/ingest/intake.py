"""Whether an upload is acceptable, decided from its first bytes and from declared sizes.

The law of this file: content decides, never a name or a declared type, and everything that
can be refused is refused as early as the facts allow:

    fact                      known                      refused by
    declared length           before any byte is read    judge_length
    first HEAD_BYTES bytes    after the first chunk      judge_head
    bytes so far, then all    while and after streaming  judge_size
    bytes beside the file     while streaming            judge_envelope

Pure: no I/O, no clock. A refusal is a value whose code is a row of contracts.errors.
Whether the bytes behind a good head decode is found out by the `analyze` phase, which runs
in a process of its own; no decoder touches hostile bytes here. Not every pipeline takes every type:
which one takes what is known when the whole form is (`catalog`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import filetype

from ingest.signatures import AVIF, HEIC, RAW, heif_type, raw_type

HEAD_BYTES: Final = 4096
# What `judge_head` needs at most: the first directory of a camera's TIFF, some 30 entries of 12 bytes, and its maker's
# name behind them. An AVIF's `ftyp` box is 16 bytes and 4 for each compatible brand; files have 3 to 8.

BYTES_MAX_DEFAULT: Final = 512 * 2**20
# 120 MP of 16-bit RGB without compression are 120e6 * 3 * 2 = 720 MB; every camera and every
# lossless compression stays under 70 % of that.

PIXELS_MAX: Final = 120_000_000
# 100 MP is today's largest camera sensor (11,656 x 8,742 = 101.9 MP); 120 MP of 8-bit RGB are
# 360 MB, which the largest decoder that cannot stream (WebP, AVIF) has to hold at once.

CUBE: Final = "application/x-cube-lut"
ZIP: Final = "application/zip"
PDF: Final = "application/pdf"

CUBE_BYTES_MAX: Final = 32 * 2**20
# 65 points a side are the most that tools write: 65³ rows of 3 long numbers are 11 MB; more is no look.

PDF_BYTES_MAX: Final = 128 * 2**20
# 500 pages of A4 scanned in colour at 200 dpi are 500 * 200 kB = 100 MB. The file is held in memory, and by a child.

ENVELOPE_BYTES: Final = 64 * 2**10
# A multipart body is longer than its file: boundaries, part headers, and a few short fields.


@dataclass(frozen=True, slots=True)
class Accepted:
    """The head is of a type that some pipeline works with."""

    media_type: str


@dataclass(frozen=True, slots=True)
class Refused:
    """`code` is a row of contracts.errors; `detail` says what the caller can do, without user data."""

    code: str
    detail: str


# fmt: off
SMALLEST_HEADER: Final[dict[str, int]] = {
    # media type    bytes: a shorter head cannot become an image, whatever it begins with
    "image/jpeg":    20,  # SOI 2 + one segment of marker 2, length 2 and the 14 bytes of the shortest APP0
    "image/png":     33,  # signature 8 + IHDR 25
    "image/webp":    30,  # RIFF 12 + chunk 8 + VP8 frame header 10
    "image/tiff":    26,  # header 8 + IFD count 2 + one entry 12 + next offset 4
    AVIF:            20,  # ftyp box: size 4, name 4, brand 4, version 4, one compatible brand 4
    HEIC:            20,
    ZIP:             30,  # the header of the first file in it
    PDF:             67,  # the smallest that any reader opens: a header, a trailer, one page without content
}

# What analysis.formats can decode: a test holds the two together. A pipeline says which of them it takes.
DECODABLE: Final = frozenset({"image/jpeg", "image/png", "image/webp", "image/tiff", AVIF, HEIC}) | RAW

# A ZIP of pairs that a style is learnt from, and a look from another tool. What is in them is a worker's to find out.
TAKEN: Final = DECODABLE | {ZIP, CUBE, PDF}

MOST: Final = {CUBE: CUBE_BYTES_MAX, PDF: PDF_BYTES_MAX}  # fewer than any file may have

ADVICE: Final[dict[str, str]] = {
    # media type            why not, and what to send instead
    "image/gif":            "GIF holds 256 colours and is no photo format; send JPEG, PNG or WebP.",
}
# fmt: on


def sniff(head: bytes) -> str | None:
    """The media type that the first bytes (up to HEAD_BYTES) prove, or None.

    `filetype` reads signatures only, and knows too little of cameras (`signatures`); a head too short to hold its own
    type's header is None.
    """
    known = raw_type(head) or heif_type(head)
    found: str | None = known or filetype.guess_mime(head) or (CUBE if _begins_as_cube(head) else None)
    if found is None or len(head) < SMALLEST_HEADER.get(found, 0):
        return None
    return found


def _begins_as_cube(head: bytes) -> bool:
    """A text whose first line is a comment or a keyword of Adobe's "Cube LUT Specification 1.0"; it has no magic."""
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return first.startswith((b"#", b"TITLE", b"LUT_", b"DOMAIN_")) and b"\0" not in head


def judge_length(content_length: int | None, bytes_max: int) -> Refused | None:
    """Refuse a request by its declared Content-Length, before a byte is read. None: go on, and count."""
    if content_length is not None and content_length > bytes_max + ENVELOPE_BYTES:
        return _too_large(bytes_max)
    return None


def judge_head(head: bytes) -> Accepted | Refused:
    """Decide by content. `head` is the file's first HEAD_BYTES, or the whole file where it is shorter."""
    if not head:
        return Refused("UPLOAD_EMPTY", "The file has no bytes.")
    media_type = sniff(head)
    if media_type in TAKEN:
        return Accepted(media_type)
    expected = ", ".join(sorted(TAKEN))
    why = ADVICE.get(media_type or "", f"The content is none of: {expected}.")
    return Refused("MEDIA_TYPE_UNSUPPORTED", why)


def judge_size(size: int, bytes_max: int, media_type: str | None = None, *, complete: bool) -> Refused | None:
    """Refuse by the file's bytes counted so far, at each chunk and once more when `complete`."""
    bytes_max = min(bytes_max, MOST.get(media_type or "", bytes_max))
    if size > bytes_max:
        return _too_large(bytes_max)
    if complete and size == 0:
        return Refused("UPLOAD_EMPTY", "The file has no bytes.")
    return None


def judge_envelope(beside_file: int) -> Refused | None:
    """Refuse by the body's bytes, counted so far, that are not the file's: part headers have no end of their own."""
    if beside_file > ENVELOPE_BYTES:
        return Refused("REQUEST_INVALID", f"The body has more than {ENVELOPE_BYTES:,} bytes beside its file.")
    return None


def _too_large(bytes_max: int) -> Refused:
    return Refused("UPLOAD_TOO_LARGE", f"The file is larger than {bytes_max:,} bytes.")
