"""The analysis of one photo: bytes in, facts out. Nothing is kept, logged or written.

It runs in a child process that its caller can kill, because here hostile bytes meet decoders.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from ingest.analysis import exif
from ingest.analysis.alike import phash
from ingest.analysis.cull import cull
from ingest.analysis.decode import Pixels, decode, read_header
from ingest.analysis.eyes import judge
from ingest.analysis.faces import find_faces
from ingest.analysis.horizon import horizon
from ingest.analysis.quality import at_size, blur, exposure, noise
from ingest.analysis.signs import find_signs
from ingest.analysis.wires import find_wires


def taken_at(data: bytes) -> str | None:
    """When a photo was taken, as its camera wrote it. Only the header is read. Raises as `analyze` does."""
    return exif.captured_at(read_header(data).image)


class Analyzed(NamedTuple):
    """`facts`, and where no other room can decode the original, `image`: the whole picture as `image.png`."""

    facts: dict[str, Any]
    image: bytes | None
    width: int
    height: int


def analyze(data: bytes) -> dict[str, Any]:
    """The facts of `analyzed`."""
    return analyzed(data).facts


def analyzed(data: bytes) -> Analyzed:
    """Facts of one photo: plain JSON values, coordinates normalised 0..1 to the oriented image.

    Raises SafelightError: MEDIA_TYPE_UNSUPPORTED, IMAGE_TOO_LARGE (before anything is decoded),
    IMAGE_CORRUPT (wherever in the file the damage is).
    """
    header = read_header(data)
    photo = decode(data, header)
    facts = {
        "width": header.width,
        "height": header.height,
        "media_type": header.media_type,
        "orientation": header.orientation,
        "bit_depth": header.bit_depth,
        "color_profile": exif.color_profile(header.image),
        "captured_at": exif.captured_at(header.image),
        "camera": exif.camera(header.image),
        **looked_at(photo.rgb),
    }
    if photo.developed is None:
        return Analyzed(facts, None, header.width, header.height)
    height, width = photo.developed.pixels.shape[:2]
    return Analyzed(facts | {"width": width, "height": height}, photo.developed.png(), width, height)


def looked_at(rgb: Pixels) -> dict[str, Any]:
    """What the pixels (H, W, 3) of an upright proxy show."""
    grey = at_size(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8))
    sharp, light, grain = blur(grey), exposure(grey), noise(grey)
    faces = judge(rgb, find_faces(rgb))
    return {
        "blur": sharp,
        "exposure": light,
        "noise": grain,
        "horizon": horizon(grey),
        "phash": phash(grey),
        "faces": faces,
        "detections": [*find_wires(rgb), *find_signs(rgb)],
        "cull": cull(sharp["score"], light["score"], grain["score"], faces),
    }
