"""A style as one file: what training writes and `style.apply` reads.

A safetensors file with the tensors `bases`, `confidence`, `predictor` (the bytes of an ONNX model, absent
from a fixed style) and `network.*`, and a description (`packed.py`). Reading takes the file for hostile:
lengths are bounded before anything is parsed; then shapes, types and every number are checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import cv2
import numpy as np
import numpy.typing as npt

from contracts.errors import error
from gpu_functions.engine import Facts
from gpu_functions.images import Pixels
from gpu_functions.style import grid, packed
from gpu_functions.style.cube import VALUE_MAX, Cube
from gpu_functions.style.grid import SIZE, Floats

FORMAT: Final = 1
THUMBNAIL: Final = 256  # pixels a side that the predictor looks at
BASES_MAX: Final = 8
BYTES_MAX: Final = 32 << 20  # 8 bases are 3.5 MB, a predictor 2 MB
PREDICTOR_BYTES_MAX: Final = 8 << 20
GAIN_MAX: Final = 16.0  # four stops, either way: a predictor that asks for more is broken


@dataclass(frozen=True, slots=True)
class Style:
    """A learnt look of K bases on grids of 33³.

    `bases` float32 [K, 33, 33, 33, 3]: what a colour [r][g][b] becomes, RGB. `confidence` float32 [33, 33, 33]
    in 0..1: 1 where the pairs showed that colour, after the gains. `predictor`: an ONNX model; input
    `thumbnail` float32 [B, 3, 256, 256] (sRGB 0..1), outputs `gains` [B, 3] (factors on linear light) and
    `weights` [B, K]; None of a fixed style (K = 1, gains 1, weight 1). `network`: the tensors that the
    predictor was made of. `metrics` and `provenance` are plain JSON.
    """

    bases: Floats
    confidence: Floats
    predictor: bytes | None = None
    network: Mapping[str, Floats] = field(default_factory=dict)
    metrics: Facts = field(default_factory=dict)
    provenance: Facts = field(default_factory=dict)


def write(style: Style) -> bytes:
    """The file of a style; the same style gives the same bytes."""
    tensors: packed.Tensors = {"bases": style.bases, "confidence": style.confidence}
    if style.predictor is not None:
        tensors["predictor"] = np.frombuffer(style.predictor, np.uint8)
    tensors |= {f"network.{name}": tensor for name, tensor in style.network.items()}
    return packed.pack(tensors, {"format": FORMAT, "metrics": style.metrics, "provenance": style.provenance})


def read(data: bytes) -> Style:
    """The style in `data`. Raises STYLE_INVALID with the reason, which never quotes the file."""
    try:
        tensors, told = packed.unpack(data, BYTES_MAX)
    except ValueError as problem:
        raise error("STYLE_INVALID", str(problem)) from None
    metrics, provenance = told.get("metrics"), told.get("provenance")
    if told.get("format") != FORMAT or not isinstance(metrics, dict) or not isinstance(provenance, dict):
        _refuse("its header describes a style of another format")
    bases, confidence = tensors.pop("bases", None), tensors.pop("confidence", None)
    predictor = tensors.pop("predictor", None)
    if bases is None or bases.dtype != np.float32 or bases.shape[1:] != (SIZE, SIZE, SIZE, 3):
        _refuse(f"it has no bases of {SIZE} points a side")
    if not 1 <= len(bases) <= BASES_MAX:
        _refuse(f"it has not 1 to {BASES_MAX} bases")
    if confidence is None or confidence.dtype != np.float32 or confidence.shape != (SIZE, SIZE, SIZE):
        _refuse(f"it has no confidence of {SIZE} points a side")
    if np.abs(bases).max() > VALUE_MAX:
        _refuse("a value is far out of range")
    if confidence.min() < 0.0 or confidence.max() > 1.0:
        _refuse("a confidence is not between 0 and 1")
    if predictor is None and len(bases) != 1:
        _refuse("it has several bases and nothing that weighs them")
    if predictor is not None and (predictor.dtype != np.uint8 or not 0 < predictor.size <= PREDICTOR_BYTES_MAX):
        _refuse("its predictor is no model, or too large")
    if any(not name.startswith("network.") or tensor.dtype != np.float32 for name, tensor in tensors.items()):
        _refuse("it holds a tensor that no style has")
    network = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    model = None if predictor is None else predictor.tobytes()
    return Style(bases, confidence, model, network, metrics, provenance)


def is_bundle(data: bytes) -> bool:
    """Whether these bytes set out to be such a file, and no .cube: a length of eight bytes, then `{`."""
    return data[4:9] == b"\0\0\0\0{"


def thumbnail(pixels: Pixels) -> Floats:
    """What the predictor sees of a picture (H×W×3, uint8 or uint16): float32 [3, 256, 256], sRGB 0..1."""
    small = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    return np.ascontiguousarray((small / np.float32(np.iinfo(pixels.dtype).max)).transpose(2, 0, 1))


def baked(style: Style, gains: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Cube:
    """The whole look of one picture as one LUT: `gains` [3] first, then the bases by `weights` [K].

    Where confidence is low a colour is left as it is after the gains, which hold for all colours alike.
    Raises STYLE_INVALID when a predictor gave numbers that no picture can need.
    """
    gains, weights = np.asarray(gains, np.float32), np.asarray(weights, np.float32)
    if gains.shape != (3,) or not (gains.min() >= 1 / GAIN_MAX and gains.max() <= GAIN_MAX):
        _refuse("its predictor gave gains far out of range")
    if weights.shape != (len(style.bases),) or not np.abs(weights).max() <= VALUE_MAX:
        _refuse("its predictor gave weights far out of range")
    gained = grid.identity()
    if (gains != 1.0).any():
        gained = grid.from_light(grid.to_light(gained) * gains)
    look = np.tensordot(weights, style.bases, axes=1).astype(np.float32)
    sure = style.confidence[..., None]
    if (gains != 1.0).any():
        look, sure = grid.read(look, gained), grid.read(style.confidence, gained)[..., None]
    return Cube(gained + sure * (look - gained), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _refuse(reason: str) -> NoReturn:
    raise error("STYLE_INVALID", reason)
