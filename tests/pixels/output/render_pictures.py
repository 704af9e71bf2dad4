"""Pictures for the render tests, made with Pillow and numpy so that libvips does not judge itself."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from skimage import data as photos

SECRETS = (b"MAKERNOTE-OF-ACME", b"SERIAL-4711", b"Acme Camera", b"GPSLatitude")
RIGHTS = "© 2024 Jané Doe"
CREATOR = "Jané Doe"


def encoded(pixels: NDArray[np.uint8] | Image.Image, format: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def pixels(data: bytes | None) -> NDArray[np.int64]:
    return np.asarray(opened(data).convert("RGB")).astype(np.int64)


@cache
def photo(width: int = 640, height: int = 480) -> Image.Image:
    astronaut = Image.fromarray(photos.astronaut())  # type: ignore[no-untyped-call]
    return astronaut.resize((width, height), Image.Resampling.LANCZOS)


def psnr(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Peak signal to noise in dB of two 8-bit pictures."""
    return float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int = 1, rights: str = RIGHTS) -> bytes:
    """EXIF with everything that must not leave, and the credit that must."""
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x8298], tags[0x013B] = (
        orientation,
        "Acme Camera",
        rights.encode(),
        CREATOR.encode(),
    )
    camera = tags.get_ifd(0x8769)
    camera[0xA431], camera[0x927C] = "SERIAL-4711", b"MAKERNOTE-OF-ACME" * 3
    place = tags.get_ifd(0x8825)
    place[1], place[2] = "N", (50.0, 7.0, 21.5)
    return tags.tobytes()


def xmp(creator: str, rights: str, extra: str = "") -> bytes:
    return (
        f'{extra}<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
        f'exif:GPSLatitude="50,7.3N"><dc:creator><rdf:Seq><rdf:li>{creator}</rdf:li></rdf:Seq></dc:creator>'
        f'<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{rights}</rdf:li></rdf:Alt></dc:rights>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def png_16_bit(samples: NDArray[np.uint16], profile: bytes | None = None) -> bytes:
    """A 16-bit RGB PNG of [y, x, 3] samples: Pillow cannot write one."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    icc = _chunk(b"iCCP", b"p\0\0" + zlib.compress(profile)) if profile else b""
    return _png(samples.shape[1], samples.shape[0], 16, icc + _chunk(b"IDAT", zlib.compress(rows)))


def lying_png(width: int, height: int) -> bytes:
    """A PNG of some bytes whose header claims width x height."""
    return _png(width, height, 8, _chunk(b"IDAT", zlib.compress(b"\0" * 100)))


def _png(width: int, height: int, depth: int, chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunks + _chunk(b"IEND", b"")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
