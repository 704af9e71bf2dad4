"""Opening somebody else's bytes as upright sRGB pixels.

The law: the header is read before any pixel is, and decides. After that one pass
    decode -> resize -> colour to sRGB -> turn upright
leaves an image in memory; nothing that follows reads the uploaded bytes again. Colour is
converted after the resize (45 ms instead of 370 ms for 24 MP) and 16-bit samples stay 16-bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import numpy as np
import pyvips
import simplejpeg
from pydantic import JsonValue

from contracts.errors import error

PIXELS_MAX: Final = 120_000_000  # 16-bit RGB of this is 720 MB

# What an upload or a phase may hand over. Everything else that libvips can read (SVG, GIF, FITS,
# its own formats, ...) is attack surface that no pipeline needs.
LOADERS: Final = frozenset(f"{kind}load_buffer" for kind in ("jpeg", "png", "webp", "heif", "tiff"))

SRGB_PROFILE: Final[bytes] = pyvips.Operation.call("profile_load", "srgb")  # 480 bytes, built into libvips
RGB_INTERPRETATIONS: Final = frozenset({"srgb", "rgb16"})

# These hold for the whole process: one file on one core, nothing remembered between files.
pyvips.block_untrusted_set(True)  # what VIPS_BLOCK_UNTRUSTED=1 does
pyvips.concurrency_set(1)
pyvips.cache_set_max(0)
logging.getLogger("pyvips").setLevel(logging.CRITICAL)  # its warnings quote the file


@dataclass(frozen=True, slots=True)
class Rendered:
    """One picture to store. `data` is None when the input's own bytes already are this picture.

    `name` is the artifact's name within its phase, `width` and `height` are its pixels.
    """

    name: str
    data: bytes | None = field(repr=False)
    media_type: str
    width: int
    height: int
    facts: dict[str, JsonValue] = field(default_factory=dict)


def read_header(data: bytes, **options: Any) -> pyvips.Image:
    """The image of `data` before any pixel is decoded; reading its pixels fails if the file is cut short.

    Raises IMAGE_CORRUPT for what is no image of LOADERS and IMAGE_TOO_LARGE above PIXELS_MAX.
    """
    with _corrupt_when_unreadable():
        # thumbnail_buffer would be shorter, but it accepts a JPEG that was cut at 2 % of its bytes.
        # "error" includes "truncated", which alone lets an uncompressed TIFF pass that ends early.
        image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="error", **options)
    if image.get("vips-loader") not in LOADERS:
        raise error("IMAGE_CORRUPT", "The content is of no image type that is rendered.")
    if image.width * image.height > PIXELS_MAX:
        raise error("IMAGE_TOO_LARGE", f"{image.width} x {image.height} pixels; at most {PIXELS_MAX:,} are accepted.")
    return image


def decode(data: bytes, size: tuple[int, int] | None = None, *, keep_profile: bool = False) -> pyvips.Image:
    """Upright sRGB pixels (3 bands, or 4 with alpha; 8 or 16 bit) in memory, at `size`: width and height, upright.

    The image carries an sRGB profile, or with `keep_profile` the RGB profile that the file has. The file's other
    metadata may be gone. Raises IMAGE_CORRUPT and IMAGE_TOO_LARGE.
    """
    header = read_header(data)
    width, height = size or upright_size(header)
    if is_turned(header):
        width, height = height, width
    with _corrupt_when_unreadable():
        image = (
            header if (width, height) == (header.width, header.height) else _scaled_jpeg(data, header, width, height)
        )
        # Rows arrive once and in order, but turning needs them in any order: hence first into memory.
        return to_srgb(resized(image, width, height), keep=keep_profile).copy_memory().autorot()


def is_turned(header: pyvips.Image) -> bool:
    """Whether its orientation tag swaps the sides: 5 to 8 do."""
    return bool(header.get_typeof("orientation") and header.get("orientation") >= 5)


def upright_size(header: pyvips.Image) -> tuple[int, int]:
    """Width and height after the image is turned as its orientation tag says."""
    return (header.height, header.width) if is_turned(header) else (header.width, header.height)


def fitted(width: int, height: int, box: int | None) -> tuple[int, int]:
    """The size of width x height fitted into a box x box square: rounded, at least 1, never enlarged."""
    if box is None or max(width, height) <= box:
        return width, height
    scale = box / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(image: pyvips.Image, width: int, height: int) -> pyvips.Image:
    """`image` at exactly width x height (Lanczos 3, in gamma-coded light); colours do not bleed out of transparency."""
    if (image.width, image.height) == (width, height):
        return image
    across, down = width / image.width, height / image.height
    if not image.hasalpha():
        return image.resize(across, vscale=down)
    return image.premultiply().resize(across, vscale=down).unpremultiply().rint().cast(image.format)


def to_srgb(image: pyvips.Image, *, keep: bool = False) -> pyvips.Image:
    """`image` as sRGB with the sRGB profile; an image without a profile is taken for sRGB, gray or plain CMYK.

    A profile that does not fit the pixels is ignored, as browsers do. With `keep` an RGB image with an RGB profile
    stays as it is.
    """
    deep = image.format != "uchar"
    profile = blob_of(image, "icc-profile-data")
    rgb = image.interpretation in RGB_INTERPRETATIONS
    if keep and rgb and profile[16:20] == b"RGB ":  # ICC.1:2022, 7.2.8
        return image.extract_band(0, n=min(image.bands, 4))
    if image.interpretation == "cmyk" or (profile and not (rgb and is_srgb(profile))):
        fallback = "cmyk" if image.interpretation == "cmyk" else "srgb"
        image = image.icc_transform(
            "srgb", embedded=True, input_profile=fallback, black_point_compensation=True, depth=16 if deep else 8
        )
    image = image.colourspace("rgb16" if deep else "srgb")
    image = image.extract_band(0, n=min(image.bands, 4))  # a TIFF may bring masks and spot colours besides alpha
    return with_blob(image, "icc-profile-data", SRGB_PROFILE)


def is_srgb(profile: bytes) -> bool:
    """Whether an RGB profile means sRGB, whatever it is called: 27 colours come back through it within one level."""
    if profile == SRGB_PROFILE:
        return True
    colours = np.array(list(product((0, 128, 255), repeat=3)), np.uint8)[np.newaxis]
    patch = with_blob(pyvips.Image.new_from_array(colours, interpretation="srgb"), "icc-profile-data", profile)
    try:
        # A broken profile makes libvips fall back; to one that is not sRGB, so that the answer is no.
        seen = patch.icc_transform("srgb", embedded=True, input_profile="p3").numpy()
    except pyvips.Error:
        return False
    return int(np.abs(seen.astype(int) - colours).max()) <= 1


def to_8_bit(image: pyvips.Image) -> pyvips.Image:
    """16-bit samples rounded to 8 (libvips' own conversion cuts off, which darkens by half a level)."""
    return image if image.format == "uchar" else (image / 257).rint().cast("uchar").copy(interpretation="srgb")


def blob_of(image: pyvips.Image, field_name: str) -> bytes:
    """The bytes of a metadata field, none when the field is missing or empty."""
    try:
        return bytes(image.get(field_name)) if image.get_typeof(field_name) else b""
    except RuntimeError:  # pyvips cannot read a field of no bytes
        return b""


def with_blob(image: pyvips.Image, field_name: str, blob: bytes) -> pyvips.Image:
    """A copy of `image` with a metadata field set. The copy is needed: savers miss changes to an image used before."""
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, field_name, blob)
    return image


def _scaled_jpeg(data: bytes, header: pyvips.Image, width: int, height: int) -> pyvips.Image:
    """An RGB or grey JPEG in the fewest eighths that are not below width x height, anything else as its header is.

    The decoder itself shrinks, by any eighth where libvips knows only halves: for 2048 of 6000 pixels that is a third
    less work. It reads the whole entropy-coded stream, so damage is found wherever it is.
    """
    colours = {"srgb": "RGB", "b-w": "GRAY"}.get(header.interpretation)
    if header.get("vips-loader") != "jpegload_buffer" or colours is None:
        return header
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, min_width=width, min_height=height)
    except ValueError as problem:
        raise error("IMAGE_CORRUPT") from problem
    image = pyvips.Image.new_from_array(pixels, interpretation=header.interpretation)
    for name in ("icc-profile-data", "orientation"):
        if header.get_typeof(name):
            image.set_type(header.get_typeof(name), name, header.get(name))
    return image


@contextmanager
def _corrupt_when_unreadable() -> Iterator[None]:
    try:
        yield
    except pyvips.Error as problem:
        if "out of memory" in str(problem):
            raise MemoryError from problem  # the process' limit, not the file's fault
        # libvips' message quotes the file; the code says all that may leave the room.
        raise error("IMAGE_CORRUPT") from problem
