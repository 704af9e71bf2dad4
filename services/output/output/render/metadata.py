"""Whose picture it is stays with it; where and with what it was taken does not leave the house.

    input               intermediate PNG (crop)              variants
    EXIF                byte for byte, orientation upright    -
    XMP                 as it is                              a new packet: creator and rights only
    creator, rights     in the above                          from XMP, else from EXIF

libvips rewrites EXIF text through libexif and turns every non-ASCII letter, the sign © included,
into "?". So the few tags that matter are read from the EXIF bytes themselves.
Sources: TIFF 6.0 section 2 (directories), EXIF 2.32 (tags), XMP parts 1 and 3, PNG 3 (eXIf, iTXt).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pyvips

from output.render.images import blob_of

ORIENTATION, ARTIST, COPYRIGHT = 0x0112, 0x013B, 0x8298
ASCII, SHORT = 2, 3
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


def with_metadata(png: bytes, exif: bytes, xmp: bytes) -> bytes:
    """`png` with EXIF, its orientation set to upright, and XMP. EXIF whose first directory is unreadable is left out.

    By hand, because libvips rewrites EXIF (see above) and puts XMP where XMP's standard does not look for it.
    """
    tags = list(_ifd0(exif))
    upright = bytearray(exif)
    for tag, kind, _, at in tags:
        if tag == ORIENTATION and kind == SHORT:
            struct.pack_into(_byte_order(exif) + "H", upright, at, 1)
    chunks = _chunk(b"eXIf", bytes(upright)) if tags else b""
    chunks += _chunk(b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + xmp) if xmp else b""
    after_ihdr = 8 + 4 + 4 + 13 + 4  # signature, then IHDR: length, type, 13 bytes, checksum
    return b"".join((png[:after_ihdr], chunks, memoryview(png)[after_ihdr:]))  # one copy: it may be half a gigabyte


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _byte_order(exif: bytes) -> str:
    return "<" if exif[:2] == b"II" else ">"


def _ifd0(exif: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, bytes of the value, its offset) of the first directory's SHORT and ASCII entries that lie inside."""
    if exif[:4] not in (b"II*\0", b"MM\0*") or len(exif) < 8:
        return
    order = _byte_order(exif)
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return
    (count,) = struct.unpack_from(order + "H", exif, start)
    for at in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, items = struct.unpack_from(order + "HHI", exif, at)
        size = items * {ASCII: 1, SHORT: 2}.get(kind, 0)
        offset = at + 8 if size <= 4 else struct.unpack_from(order + "I", exif, at + 8)[0]
        if 0 < size <= len(exif) - offset:
            yield tag, kind, size, offset


def _exif_credit(exif: bytes) -> Credit:
    text = {tag: _text(exif[at : at + size]) for tag, kind, size, at in _ifd0(exif) if kind == ASCII}
    artist = text.get(ARTIST, "")
    return Credit((artist,) if artist else (), text.get(COPYRIGHT, ""))


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
