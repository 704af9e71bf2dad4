"""Whose picture it is stays with it; where and with what it was taken does not leave the house.

    the original        variants
    EXIF                -
    XMP                 a new packet: creator and rights only
    creator, rights     from XMP, else from EXIF

libvips rewrites EXIF text through libexif and turns every non-ASCII letter, the sign © included,
into "?". So the few tags that matter are read from the EXIF bytes themselves.
Sources: TIFF 6.0 section 2 (directories), EXIF 2.32 (tags), XMP parts 1 and 3.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pyvips

from output.render.images import blob_of, read_header

ARTIST, COPYRIGHT = 0x013B, 0x8298
XMP: Final = 0x02BC  # the tag of a TIFF that holds its packet
ASCII = 2
TEXT_MAX: Final = 512  # characters of one name or notice; longer is no credit
CREATORS_MAX: Final = 8

_RDF: Final = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_DC: Final = "{http://purl.org/dc/elements/1.1/}"
_PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">{body}</rdf:Description>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)
_HEAD_BYTES: Final = 1 << 20  # of a RAW: its first directory, and the texts behind it
_CAMERAS: Final = (b"IIRO", b"IIRS", b"IIU\0", b"MMOR")  # what Olympus and Panasonic make of a TIFF's first bytes
_NOT_IN_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Credit:
    """Who made the picture and who holds what right in it."""

    creators: tuple[str, ...] = ()
    rights: str = ""


def credit_of(image: pyvips.Image) -> Credit:
    """The credit that the image's metadata states; XMP, being Unicode, before EXIF."""
    xmp, exif = _xmp_credit(blob_of(image, "xmp-data")), _exif_credit(exif_of(image))
    return Credit(xmp.creators or exif.creators, xmp.rights or exif.rights)


def credit_in(data: bytes) -> Credit:
    """The credit that a file states, one that only its first phase could decode included: HEIC, camera RAW.

    Raises IMAGE_CORRUPT for what is neither an image nor a RAW.
    """
    head = data[:_HEAD_BYTES]
    if head.startswith(b"FUJIFILMCCD-RAW "):  # it holds a JPEG of its own, whose place is at 84
        start = int.from_bytes(data[84:88], "big")
        return credit_of(read_header(data[start : start + int.from_bytes(data[88:92], "big")]))
    if head[4:12] == b"ftypcrx ":  # Canon's CR3: a box holds the first directory, as a TIFF
        return _exif_credit(head[max(head.find(b"CMT1"), 0) + 4 :])
    if head[:4] in (b"II*\0", b"MM\0*"):  # the directory of a plain TIFF may be at its end
        return _tiff_credit(data)
    if head[:4] in _CAMERAS:
        return _tiff_credit((b"MM\0*" if head[:1] == b"M" else b"II*\0") + head[4:])
    return credit_of(read_header(data))


def xmp_packet(credit: Credit) -> bytes | None:
    """An XMP packet that says `credit` and nothing else; None when there is nothing to say."""
    body = ""
    if credit.creators:
        names = "".join(f"<rdf:li>{escape(name)}</rdf:li>" for name in credit.creators)
        body += f"<dc:creator><rdf:Seq>{names}</rdf:Seq></dc:creator>"
    if credit.rights:
        notice = f'<rdf:li xml:lang="x-default">{escape(credit.rights)}</rdf:li>'
        body += f"<dc:rights><rdf:Alt>{notice}</rdf:Alt></dc:rights>"
    return _PACKET.format(body=body).encode() if body else None


def exif_of(image: pyvips.Image) -> bytes:
    """The TIFF structure of the image's EXIF, empty when there is none."""
    return blob_of(image, "exif-data").removeprefix(b"Exif\0\0")


def _byte_order(exif: bytes) -> str:
    return "<" if exif[:2] == b"II" else ">"


def _ifd0(exif: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, value) of the first directory's ASCII entries and of its XMP, as far as they lie inside."""
    if exif[:4] not in (b"II*\0", b"MM\0*") or len(exif) < 8:
        return
    order = _byte_order(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return
    (count,) = struct.unpack_from(order + "H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, size = struct.unpack_from(order + "HHI", exif, at)
        offset = at + 8 if size <= 4 else struct.unpack_from(order + "I", exif, at + 8)[0]
        if (kind == ASCII or tag == XMP) and 0 < size <= len(exif) - offset:
            yield tag, exif[offset : offset + size]


def _exif_credit(exif: bytes) -> Credit:
    text = {tag: _text(value) for tag, value in _ifd0(exif)}
    artist = text.get(ARTIST, "")
    return Credit((artist,) if artist else (), text.get(COPYRIGHT, ""))


def _tiff_credit(tiff: bytes) -> Credit:
    xmp, exif = _xmp_credit(dict(_ifd0(tiff)).get(XMP, b"")), _exif_credit(tiff)
    return Credit(xmp.creators or exif.creators, xmp.rights or exif.rights)


def _text(raw: bytes) -> str:
    # EXIF says ASCII and cameras write UTF-8 or Latin-1; Copyright may hold "photographer NUL editor NUL".
    first = next((part for part in raw.split(b"\0") if part.strip()), b"")
    try:
        return _clean(first.decode("utf-8"))
    except UnicodeDecodeError:
        return _clean(first.decode("latin-1"))


def _clean(text: str | None) -> str:
    return _NOT_IN_XML.sub("", text or "").strip()[:TEXT_MAX]


def _xmp_credit(xmp: bytes) -> Credit:
    # No honest packet has a document type, and without one XML cannot define an entity that explodes.
    if not xmp or b"<!" in xmp.replace(b"<!--", b""):
        return Credit()
    try:
        root = ElementTree.fromstring(xmp.strip(b"\0 \n"))  # noqa: S314 (see above)
    except (ElementTree.ParseError, ValueError, LookupError):
        return Credit()
    creators = tuple(filter(None, (_clean(item.text) for item in root.findall(f".//{_DC}creator//{_RDF}li"))))
    rights = next(filter(None, (_clean(item.text) for item in root.findall(f".//{_DC}rights//{_RDF}li"))), "")
    return Credit(creators[:CREATORS_MAX], rights)
