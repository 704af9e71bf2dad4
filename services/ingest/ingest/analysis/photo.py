"""The analysis of one photo: bytes in, facts out. Nothing is kept, logged or written.

It runs in a child process that its caller can kill, because here hostile bytes meet decoders.
"""

from __future__ import annotations

from typing import Any

from ingest.analysis import exif
from ingest.analysis.alike import phash
from ingest.analysis.cull import cull
from ingest.analysis.decode import decode, read_header
from ingest.analysis.eyes import judge
from ingest.analysis.faces import find_faces
from ingest.analysis.horizon import horizon
from ingest.analysis.quality import at_size, blur, exposure, noise
from ingest.analysis.signs import find_signs
from ingest.analysis.wires import find_wires


def taken_at(data: bytes) -> str | None:
    """When a photo was taken, as its camera wrote it. Only the header is read. Raises as `analyze` does."""
    return exif.captured_at(read_header(data).image)


def analyze(data: bytes) -> dict[str, Any]:
    """Facts of one photo: plain JSON values, coordinates normalised 0..1 to the oriented image.

    Raises SafelightError: MEDIA_TYPE_UNSUPPORTED, IMAGE_TOO_LARGE (before anything is decoded),
    IMAGE_CORRUPT (wherever in the file the damage is).
    """
    header = read_header(data)
    photo = decode(data, header)
    grey = at_size(photo.grey)
    sharp, light, grain = blur(grey), exposure(grey), noise(grey)
    faces = judge(photo.rgb, find_faces(photo.rgb))
    return {
        "width": header.width,
        "height": header.height,
        "media_type": header.media_type,
        "orientation": header.orientation,
        "bit_depth": header.bit_depth,
        "color_profile": exif.color_profile(header.image),
        "captured_at": exif.captured_at(header.image),
        "camera": exif.camera(header.image),
        "blur": sharp,
        "exposure": light,
        "noise": grain,
        "horizon": horizon(grey),
        "phash": phash(grey),
        "faces": faces,
        "detections": [*find_wires(photo.rgb), *find_signs(photo.rgb)],
        "cull": cull(sharp["score"], light["score"], grain["score"], faces),
    }
