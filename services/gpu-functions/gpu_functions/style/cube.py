"""Read a .cube 3D LUT from hostile bytes, and write one.

The format is Adobe's "Cube LUT Specification 1.0" (2013): keywords, then N³ rows of three
numbers, red running fastest. Of it we take LUT_3D_SIZE, DOMAIN_MIN and DOMAIN_MAX (and
LUT_3D_INPUT_RANGE, DaVinci Resolve's word for the domain); TITLE and comments are skipped,
LUT_1D_SIZE is refused, and so is everything else. Sizes and lengths are checked before numbers
are read, so that a hostile file is refused in bounded time and memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from contracts.errors import SafelightError, error

BYTES_MAX: Final = 32 << 20  # 65³ rows of 3 long numbers are 11 MB; 32 MiB leaves room for any formatting
SIZE_MAX: Final = 65  # what cameras and grading tools write at most; 65³ × 12 bytes = 3.3 MB
VALUE_MAX: Final = 64.0  # graded values may leave 0..1, but nothing sane goes past a few stops
HEADER_LINES_MAX: Final = 10_000
ROW_BYTES_MAX: Final = 256  # three numbers of up to 80 digits; numpy pads every word to the longest one
_DOMAIN: Final = ("DOMAIN_MIN", "DOMAIN_MAX")
_NUMERIC: Final = frozenset(b"0123456789+-.")


@dataclass(frozen=True, slots=True)
class Cube:
    """`table[r, g, b]` is the RGB that an input colour becomes: float32 N×N×N×3.

    The axes of each channel run evenly from `low` to `high` (the DOMAIN); input outside is clamped.
    """

    table: npt.NDArray[np.float32]
    low: tuple[float, float, float]
    high: tuple[float, float, float]


def parse(data: bytes) -> Cube:
    """The LUT in `data`. Raises STYLE_INVALID with the reason, which never quotes the file."""
    if len(data) > BYTES_MAX:
        raise _invalid(f"the file is larger than {BYTES_MAX >> 20} MiB")
    size, low, high, start = _header(data)
    table = _rows(data[start:], size**3)
    # Rows run red fastest: C order gives [blue, green, red]; we index [red, green, blue].
    return Cube(np.ascontiguousarray(table.reshape(size, size, size, 3).transpose(2, 1, 0, 3)), low, high)


def write(cube: Cube, title: str) -> bytes:
    """The file of `cube`, for grading tools: seven decimals, the domain only where it is not 0..1.

    Of `title` only printable ASCII without quotes is written: what the format allows.
    """
    plain = "".join(letter for letter in title if " " <= letter <= "~" and letter != '"')
    head = [f'TITLE "{plain}"', f"LUT_3D_SIZE {cube.table.shape[0]}"]
    if (cube.low, cube.high) != ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        head += [
            f"{word} {r:.7f} {g:.7f} {b:.7f}" for word, (r, g, b) in zip(_DOMAIN, (cube.low, cube.high), strict=True)
        ]
    rows = cube.table.transpose(2, 1, 0, 3).reshape(-1, 3)
    body = [f"{r:.7f} {g:.7f} {b:.7f}" for r, g, b in rows.tolist()]
    return "\n".join([*head, *body, ""]).encode("ascii")


def _header(data: bytes) -> tuple[int, tuple[float, float, float], tuple[float, float, float], int]:
    """Size, domain, and where the rows begin."""
    size, low, high = 0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    at = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    for _ in range(HEADER_LINES_MAX):
        if at >= len(data):
            raise _invalid("there are no rows")
        end = data.find(b"\n", at) + 1 or len(data)
        line = data[at:end].strip()
        if line and line[0] in _NUMERIC:
            break
        match line.split():
            case []:
                pass
            case [word, *_] if word.startswith(b"#") or word == b"TITLE":
                pass
            case [b"LUT_1D_SIZE", *_]:
                raise _invalid("it is a 1D LUT; a 3D LUT is needed")
            case [b"LUT_3D_SIZE", number]:
                size = int(number) if number.isdigit() and len(number) < 5 else 0
                if not 2 <= size <= SIZE_MAX:
                    raise _invalid(f"LUT_3D_SIZE is not between 2 and {SIZE_MAX}")
            case [b"DOMAIN_MIN", r, g, b]:
                low = (_number(r), _number(g), _number(b))
            case [b"DOMAIN_MAX", r, g, b]:
                high = (_number(r), _number(g), _number(b))
            case [b"LUT_3D_INPUT_RANGE", lower, upper]:
                low, high = (_number(lower),) * 3, (_number(upper),) * 3
            case _:
                raise _invalid("a line of the header is not understood")
        at = end
    else:
        raise _invalid("the header does not end")
    if not size:
        raise _invalid("LUT_3D_SIZE is missing")
    if any(upper - lower < 1e-6 for lower, upper in zip(low, high, strict=True)):
        raise _invalid("DOMAIN_MAX is not above DOMAIN_MIN")
    return size, low, high, at


def _rows(body: bytes, count: int) -> npt.NDArray[np.float32]:
    """`count` rows of three finite numbers, float32."""
    lines = [line for line in (raw.partition(b"#")[0].strip() for raw in body.splitlines()) if line]
    if len(lines) != count:
        raise _invalid(f"there are {len(lines)} rows where the size asks for {count}")
    if any(len(line) > ROW_BYTES_MAX or len(line.split()) != 3 for line in lines):
        raise _invalid("a row has not three numbers")
    try:
        values = np.array(b" ".join(lines).split()).astype(np.float64)
    except ValueError:
        raise _invalid("a row holds something that is not a number") from None
    if not np.isfinite(values).all() or np.abs(values).max() > VALUE_MAX:
        raise _invalid("a value is not finite or far out of range")
    return values.astype(np.float32)


def _number(word: bytes) -> float:
    try:
        value = float(word)
    except ValueError:
        raise _invalid("a domain is not a number") from None
    if not abs(value) <= VALUE_MAX:  # this order refuses NaN too
        raise _invalid("a domain is not finite or far out of range")
    return value


def _invalid(reason: str) -> SafelightError:
    return error("STYLE_INVALID", reason)
