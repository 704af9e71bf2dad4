"""What nothing installed here writes: a RAW, made as DNG by hand, and two small HEIC, made with pillow-heif."""

from __future__ import annotations

import struct
from base64 import b64decode

import numpy as np
from numpy.typing import NDArray

CREATOR, RIGHTS, SERIAL = "Jané Doe", "© 2024 Jané Doe", "SERIAL-4711"
_PACKED = {3: "H", 4: "I", 5: "II", 10: "ii"}
_ONE, _NONE = (1, 1), (0, 1)
_Value = bytes | list[int] | list[tuple[int, int]]


def mosaic(width: int, height: int) -> NDArray[np.uint16]:
    """What a sensor of RGGB sees of a wall that is red to the left and blue to the right."""
    y, x = np.mgrid[0:height, 0:width]
    left = x < width // 2
    red, blue = np.where(left, 30000, 6000), np.where(left, 6000, 30000)
    seen = np.where((y % 2 == 0) & (x % 2 == 0), red, np.where((y % 2 == 1) & (x % 2 == 1), blue, 9000))
    return seen.astype(np.uint16)


def dng(width: int = 96, height: int = 64, orientation: int = 1, claims: tuple[int, int] | None = None) -> bytes:
    """A DNG 1.4 (Adobe, 2012) of 16 bit without compression; `claims` is the size that its header lies about."""
    across, down = claims or (width, height)
    pixels = mosaic(width, height).astype("<u2").tobytes()
    tags: list[tuple[int, int, _Value]] = [
        (0x00FE, 4, [0]),
        (0x0100, 4, [across]),
        (0x0101, 4, [down]),
        (0x0102, 3, [16]),
        (0x0103, 3, [1]),
        (0x0106, 3, [32803]),  # a mosaic
        (0x010F, 2, b"Acme\0"),
        (0x0110, 2, b"Acme Raw\0"),
        (0x0111, 4, []),  # where the strip is
        (0x0112, 3, [orientation]),
        (0x0115, 3, [1]),
        (0x0116, 4, [down]),
        (0x0117, 4, [len(pixels)]),
        (0x013B, 2, CREATOR.encode() + b"\0"),
        (0x828D, 3, [2, 2]),
        (0x828E, 1, bytes([0, 1, 1, 2])),  # red, green, green, blue
        (0x8298, 2, RIGHTS.encode() + b"\0"),
        (0xC612, 1, bytes([1, 4, 0, 0])),
        (0xC614, 2, b"Acme Raw\0"),
        (0xC61A, 3, [0]),
        (0xC61D, 3, [65535]),
        (0xC621, 10, [_ONE, _NONE, _NONE, _NONE, _ONE, _NONE, _NONE, _NONE, _ONE]),
        (0xC628, 5, [_ONE, _ONE, _ONE]),
        (0xC62F, 2, SERIAL.encode() + b"\0"),
        (0xC65A, 3, [21]),  # daylight
    ]
    values = [_value(kind, value) for _, kind, value in tags]
    behind = 8 + 2 + 12 * len(tags) + 4
    strip = behind + sum(len(value) for value in values if len(value) > 4)
    rows, far = [], b""
    for (tag, kind, given), value in zip(tags, values, strict=True):
        inline = value if given else struct.pack("<I", strip)
        if len(inline) > 4:
            inline, far = struct.pack("<I", behind + len(far)), far + inline
        rows.append(struct.pack("<HHI", tag, kind, len(given) or 1) + inline.ljust(4, b"\0"))
    return b"".join([b"II*\0", struct.pack("<IH", 8, len(tags)), *rows, bytes(4), far, pixels])


def _value(kind: int, value: _Value) -> bytes:
    if isinstance(value, bytes):
        return value
    parts = (one if isinstance(one, tuple) else (one,) for one in value)
    return b"".join(struct.pack("<" + _PACKED[kind], *part) for part in parts)


# Stored as 64 x 48 and turned to 48 x 64; Display P3; EXIF with a creator, rights, a place and a serial number.
HEIC = b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAA6FtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAADxQABAAAAAAAAAjAAAgAAAAAF9QABAAAAAAAAAQwAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAC4GlwcnAAAAK/aXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAHsY29s"
    "cnByb2YAAAHgbGNtcwQgAABtbnRyUkdCIFhZWiAH4gADABQACQAOAB1hY3NwTVNGVAAAAABzYXdzY3RybAAAAAAAAAAAAAAAAAAA9tYAAQAAAADT"
    "LWhhbmSC4qhyi4o/9yU+uZLuJNauAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAApkZXNjAAAA/AAAACRjcHJ0AAABIAAAACJ3dHB0AAAB"
    "RAAAABRjaGFkAAABWAAAACxyWFlaAAABhAAAABRnWFlaAAABmAAAABRiWFlaAAABrAAAABRyVFJDAAABwAAAACBnVFJDAAABwAAAACBiVFJDAAAB"
    "wAAAACBtbHVjAAAAAAAAAAEAAAAMZW5VUwAAAAgAAAAcAHMAUAAzAENtbHVjAAAAAAAAAAEAAAAMZW5VUwAAAAYAAAAcAEMAQwAwAABYWVogAAAA"
    "AAAA9tYAAQAAAADTLXNmMzIAAAAAAAEMQgAABd7///MlAAAHkwAA/ZD///uh///+TgAAA5oAAMAUWFlaIAAAAAAAAIPfAAA9vwAAAABYWVogAAAA"
    "AAAASr8AALE3AAAKtVhZWiAAAAAAAAAoOAAAEQoAAMh4cGFyYQAAAAAAAwAAAAJmaQAA8qcAAA1ZAAAT0AAAClsAAAAUaXNwZQAAAAAAAABAAAAA"
    "QAAAAChjbGFwAAAAQAAAAAEAAAAwAAAAAQAAAAAAAAAC////8AAAAAIAAAAQcGl4aQAAAAADCAgIAAAACWlyb3QDAAAAGWlwbWEAAAAAAAAAAQAB"
    "BoECAwWEhgAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQABAAADRG1kYXQAAAIsKAGvBjjj4HzBanhksUqtoB9ANAPUQQyHP0CRtvxwHbCytAhVTNvh"
    "hZzEVx4O9Jzt3ZhmfdLJ4tbCWYRY2u04fbU2WtmrdQw9FIboTiT/n3//98nnH1u+Mrw77RL+J4XXlTjaDqSBRlZRwECBNz90oPOSfehbGn8J6Pzf"
    "9OxjrU4bTOw3uVlgkqiFzd9Gihx7bK9l9Ay6aRf+FO+3r/EXWHyvc4md9W7zJswuisypOg39/+5Rgv7VF9IYtRAabhTTD90zQ8xCySo1Spda9ibb"
    "zy2KKFsNoKHjiwEWnHOBkJ1moCMg6Oc2pnwv2p6DOa4qwG44DnHwRBhm1loGIkBrXFLCvR//+e+Yq/H0sS6v4+Emdjs9/HuS0n8aaHss1nmid94w"
    "L7bhE1mz+6y6GxHyCZh1zL84iogItDZ1V1dmk5YmYWVnCCz4ViZfb/43H/iOgckEoWivub/MhfKouJ1TTWFQU73Zj4VH5v/EP+EA2zHpidUIe21P"
    "ZG0a0uyUoW/hhBzOj50chF4M0E0xro6XK7ynL1CVPi+ypxC/X8+rRK2H8jCXPnBGDNn2dAzk8dLNXjLCGUvthIjOXp7DRSeetxpJuRwIJTAyFOOz"
    "Yhhe2oWXrr89z5t4cnUMjnQNUpYUMKweV2u8ZJNOyu2QI+Mea9QDesFU7+56Ogz3TazjJfpUrKIijudi/4esrjfyqtWNTu4pCAJVfqPEDU5pBTSq"
    "SzWYg0bZlGbUe1Rf8AAAAAZFeGlmAABNTQAqAAAACAAHAQ8AAgAAAAUAAABiARAAAgAAAAkAAABoARIAAwAAAAEABgAAATsAAgAAAAoAAABygpgA"
    "AgAAABIAAAB8h2kABAAAAAEAAACOiCUABAAAAAEAAADMAAAAAEFjbWUAAEFjbWUgT25lAABKYW7DqSBEb2UAwqkgMjAyNCBKYW7DqSBEb2UAAAKQ"
    "AwACAAAAFAAAAKykMQACAAAADAAAAMAAAAAAMjAyNDowNTowNiAwNzowODowOQBTRVJJQUwtNDcxMQAAAgABAAIAAAACTgAAAAACAAUAAAADAAAA"
    "6gAAAAAAAAAyAAAAAQAAAAcAAAABAAAAKwAAAAI="
)
# 64 x 48 pixels of 10 bit.
HEIC_DEEP = b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABoAABAAAAAAAAAV0AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAAAADc"
    "aXBjbwAAAHVodmNDAQQIAAAAnbgAAAAAHvAA/P36+gAADwNgAAEAF0ABDAH//wQIAAADAJ24AAADAAAeugJAYQABACpCAQEECAAAAwCduAAAAwAA"
    "HqAggQTZbq5Ka5uAhoMCAAADADIAAAMAAhBiAAEABkQBwXPAiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFw"
    "AAAAQAAAAAEAAAAwAAAAAQAAAAAAAAAC////8AAAAAIAAAAQcGl4aQAAAAADCgoKAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAABZW1kYXQAAAFZ"
    "KAGvBriybk5hOJcNHoCL1GHEzsoIeocgLbikqY74C9jRCbsFcFv31/8xpvfF22d/M43hnn6cCQjf0i+66LwcMZEHiw5J54t7qNZquoX29/eZ7+Gm"
    "sstWuryjwWjEy13fgK3A/Cdr9Vc+7ntvgXCNYqF9D68Os6ZDe+1VpQwF1vZ3P/F+Z0/6SgNWj2yBdvBFVN6JYyA09Dn2UhkBMWn+Z83HFM1ukKzC"
    "Sdk210Phk/wGdwIIx2cb0bwyYk2/+LLjRkBIyuGOxZ7xPcOVnnD3vVnX1uukL9rLYQ4rAftTSNKCs6sJ1OUO6BZsUfhO/tYY4HovD5hgLbHRXcDO"
    "qsxxN+2Z71oenMrMYmIP3XcGLzE5rTFBMZDl0kunZuhtn7jO+p6/qb27PYU/cb0iuM9yZjZVeCn8f/0IP/LoyZqHJE/T33FYytp7hH9o+AqLa7gE"
    "bUuuv7719xne"
)
