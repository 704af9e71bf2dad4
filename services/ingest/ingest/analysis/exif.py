"""The few facts of a file's own metadata that the product needs, by allow-list.

What is not named here never leaves this module: no position, no serial number, no owner,
artist or comment, no file name. Text is reduced to what the names of cameras and colour
profiles need, because a text field of a hostile file can hold anything.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import pyvips

# libvips renders a field as "value (raw, type, n components, n bytes)"; for text, value and raw are the same.
_RENDERED: Final = re.compile(r"^(?P<value>.*) \((?P=value), ASCII, \d+ components, \d+ bytes\)$", re.DOTALL)
_RENDERED_CHARS_MAX: Final = 1000  # matching is quadratic in what a hostile file may write
_CAMERA_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9 .+/()-]")
_CAMERA_CHARS_MAX: Final = 60  # "OLYMPUS IMAGING CORP. E-M1MarkII" and the like have up to 45

# fmt: off
_PROFILES: Final = (
    # in the description, lower case   our name
    ("display p3",                     "Display P3"),
    ("sp3",                            "Display P3"),  # "sP3C": the 480-byte profile that libvips embeds
    ("dci-p3",                         "DCI-P3"),
    ("dci(p3)",                        "DCI-P3"),
    ("adobe rgb",                      "Adobe RGB"),
    ("prophoto",                       "ProPhoto RGB"),
    ("romm",                           "ProPhoto RGB"),
    ("2020",                           "Rec. 2020"),
    ("srgb",                           "sRGB"),
)
_SPACES: Final = {
    # header bytes 16..19 (ICC.1:2022, 7.2.8)   our name
    b"CMYK":                                   "CMYK",
    b"GRAY":                                   "Grey",
}
# fmt: on


def camera(image: pyvips.Image) -> str | None:
    """ "Make Model", without the make where the model begins with it."""
    make, model = _text(image, "exif-ifd0-Make"), _text(image, "exif-ifd0-Model")
    name = model if make and model.lower().startswith(make.lower()) else f"{make} {model}"
    name = " ".join(_CAMERA_FORBIDDEN.sub(" ", name).split())
    return name[:_CAMERA_CHARS_MAX].rstrip() or None


def captured_at(image: pyvips.Image) -> str | None:
    """When the shutter opened, ISO 8601; with the zone where the camera wrote one (EXIF 2.31, OffsetTimeOriginal)."""
    taken = _text(image, "exif-ifd2-DateTimeOriginal")
    try:
        moment = datetime.strptime(taken, "%Y:%m:%d %H:%M:%S")  # EXIF times may have no zone
        zone = _text(image, "exif-ifd2-OffsetTimeOriginal")
        return datetime.fromisoformat(moment.isoformat() + zone).isoformat()
    except ValueError:
        return None


def color_profile(image: pyvips.Image) -> str | None:
    """The embedded ICC profile's name where it is a well-known one, "other" where not, None without a profile."""
    if not image.get_typeof("icc-profile-data"):
        return None
    profile = bytes(image.get("icc-profile-data"))
    space = _SPACES.get(profile[16:20])
    if space is not None:
        return space
    description = _description(profile).lower()
    return next((name for mark, name in _PROFILES if mark in description), "other")


def _text(image: pyvips.Image, field: str) -> str:
    if not image.get_typeof(field):
        return ""
    try:
        rendered = str(image.get(field))
    except (pyvips.Error, UnicodeDecodeError):
        return ""
    found = _RENDERED.match(rendered) if len(rendered) <= _RENDERED_CHARS_MAX else None
    return found["value"].strip("\0 ") if found else ""


def _description(profile: bytes) -> str:
    """The `desc` tag's text (ICC.1:2022, 7.3 tag table of 12-byte entries; 9.2.41): `desc` is ASCII, `mluc` UTF-16."""
    count = min(int.from_bytes(profile[128:132], "big"), 100)
    for at in range(132, 132 + 12 * count, 12):
        if profile[at : at + 4] == b"desc":
            start, size = (int.from_bytes(profile[at + k : at + k + 4], "big") for k in (4, 8))
            tag = profile[start : start + min(size, 512)]
            encoding = "utf-16-be" if tag[:4] == b"mluc" else "latin-1"
            return tag[12:].decode(encoding, "replace").replace("\0", "")
    return ""
