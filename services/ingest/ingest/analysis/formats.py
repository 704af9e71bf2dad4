"""Which image types this installation really decodes, found out by decoding one of each.

No camera's file is small enough to be carried along: of RAW it is only asked whether LibRaw is new enough.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Final

import pyvips
import rawpy

from contracts.errors import SafelightError
from ingest.analysis.decode import LOADERS
from ingest.analysis.develop import develop
from ingest.signatures import HEIC, RAW

# A grey HEIC of 16 x 16 pixels, made for this check (pillow-heif 1.x): nothing that is installed writes one.
_HEIC: Final = b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
    "AAAAAERAAAEAAQAAAAABoAABAAAAAAAAACoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/Glw"
    "cnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AA"
    "AAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABA"
    "AAAAQAAAAChjbGFwAAAAEAAAAAEAAAAQAAAAAf///9AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYEC"
    "AwWEAAAAMm1kYXQAAAAmKAGvEyEtlvhOUKf/1OjNDJVMWrlPpXPdClCTcn64/vKHk8ViguA="
)

# fmt: off
_SAVERS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    # media type    libvips operation, its options
    "image/jpeg":   ("jpegsave_buffer", {}),
    "image/png":    ("pngsave_buffer", {}),
    "image/webp":   ("webpsave_buffer", {}),
    "image/tiff":   ("tiffsave_buffer", {"compression": "lzw"}),
    "image/avif":   ("heifsave_buffer", {"compression": "av1"}),
}
# fmt: on


def decodable() -> dict[str, bool]:
    """For each image type that photos come in, whether this installation decodes it. About 20 ms."""
    patch = pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb")
    answer = {HEIC: _develops(), **dict.fromkeys(RAW, rawpy.libraw_version >= (0, 20, 0))}  # since then it knows CR3
    for media_type, (save, options) in _SAVERS.items():
        try:
            sample = pyvips.Operation.call(save, patch, **options)
        except pyvips.Error:
            answer[media_type] = False
        else:
            answer[media_type] = _decodes(LOADERS[media_type], sample)
    return answer


def _develops() -> bool:
    try:
        develop(_HEIC, HEIC)
    except SafelightError:
        return False
    return True


def _decodes(load: str, sample: bytes) -> bool:
    try:
        pyvips.Operation.call(load, sample, fail_on="error").avg()
    except pyvips.Error:
        return False
    return True
