"""Numbers and a description in one safetensors file, read as hostile bytes.

The description is JSON under the one metadata key `style`: one key, because the order of several is not
promised, and the same content must give the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors.numpy import save

from gpu_functions.engine import Facts

HEADER_BYTES_MAX: Final = 1 << 20  # the metrics of 200 pairs are 100 kB
TENSORS_MAX: Final = 128
Tensors = dict[str, npt.NDArray[Any]]
_TYPES: Final[dict[str, Any]] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def pack(tensors: Mapping[str, npt.NDArray[Any]], told: Facts) -> bytes:
    """The file of `tensors` (float32, uint8) and `told`. Raises ValueError for a number that JSON has not."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
    return bytes(save(whole, {"style": json.dumps(told, sort_keys=True, allow_nan=False)}))


def unpack(data: bytes, bytes_max: int) -> tuple[Tensors, Facts]:
    """What `pack` wrote. Raises ValueError with a reason that does not quote the file; checks every number.

    Lengths are bounded before anything is parsed; that shapes, types and offsets fit the file, the library checks.
    """
    if len(data) > bytes_max:
        raise ValueError(f"the file is larger than {bytes_max >> 20} MiB")
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(HEADER_BYTES_MAX, len(data) - 8):
        raise ValueError("it is no safetensors file, or its header is too long")
    return _tensors(data), _told(data[8 : 8 + length])


def _told(text: bytes) -> Facts:
    try:
        header = _JSON.decode(text.decode())
        told = _JSON.decode(header["__metadata__"]["style"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError("its header holds no description") from None
    if not isinstance(told, dict) or len(header) > TENSORS_MAX + 1:
        raise ValueError("its header is not what a style has")
    return cast(Facts, told)


def _tensors(data: bytes) -> Tensors:
    try:
        found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        raise ValueError("its tensors do not fit its header") from None
    tensors: Tensors = {}
    for name, tensor in found:
        if tensor["dtype"] not in _TYPES:
            raise ValueError("it holds a tensor that no style has")
        tensors[name] = np.frombuffer(tensor["data"], _TYPES[tensor["dtype"]]).reshape(tensor["shape"])
        if not np.isfinite(tensors[name]).all():
            raise ValueError("a value is not finite")
    return tensors


def _no_number(_: str) -> None:
    raise ValueError


_JSON: Final = json.JSONDecoder(parse_constant=_no_number)
