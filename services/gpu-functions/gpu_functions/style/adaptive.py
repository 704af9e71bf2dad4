"""What a style does to pictures: of a learnt one the predictor looks at a thumbnail, and all becomes one LUT.

The predictor is a small ONNX model that comes with the style, so it is hostile until it is known not to be:
its inputs, outputs and operators must be those of a predictor. None of these loops, or reads a file; how much
memory and time it takes is held by the worker's limits, as for every picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from contracts.errors import SafelightError, error
from gpu_functions.engine import Facts
from gpu_functions.images import Pixels
from gpu_functions.style import cube, grid

# fmt: off
OPERATORS: Final = frozenset({
    "Abs", "Add", "And", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "Conv",
    "Div", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "Greater", "HardSwish", "Identity",
    "InstanceNormalization", "LeakyRelu", "Less", "Log", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not",
    "Or", "Pow", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "TopK", "Transpose", "Unsqueeze", "Where",
})
# fmt: on
NODES_MAX: Final = 512
_LENGTH: Final = bytes(4)  # the upper half of a safetensors header's length; no text has such bytes


@dataclass(frozen=True, slots=True)
class Look:
    """One LUT for one picture, and what a person may want to know of it."""

    lut: cube.Cube
    facts: Facts


def look_of(lut: bytes, pixels: Pixels) -> Look:
    """What `lut`, a .cube or a learnt style, does to this picture. Raises STYLE_INVALID."""
    return Looks(lut).of(pixels)


class Looks:
    """One style, read once, and asked for each picture. Threads may ask at the same time.

    The predictor sees one picture at a time, also of many: it is hostile, and could otherwise carry what one shows
    into another's colours. Nothing is lost by it (docs/performance.md).
    """

    def __init__(self, lut: bytes) -> None:
        """Of `lut`, a .cube or a learnt style. Raises STYLE_INVALID."""
        self._given: cube.Cube | None = None
        self._predictor: Predictor | None = None
        if lut[4:8] != _LENGTH:
            self._given = cube.parse(lut)
            return
        from gpu_functions.style import bundle  # here and not above: a .cube needs neither OpenCV nor safetensors

        self._style = bundle.read(lut)
        if self._style.predictor is not None:
            self._predictor = Predictor(self._style.predictor)

    def of(self, pixels: Pixels) -> Look:
        """What it does to this picture. Raises STYLE_INVALID.

        Of a learnt style `confidence` is the share of the picture's colours that the pairs had shown.
        """
        if self._given:
            return Look(self._given, {"kind": "fixed", "lut_size": int(self._given.table.shape[0])})
        from gpu_functions.style import bundle

        thumbnail = bundle.thumbnail(pixels)
        facts: Facts = {"kind": "fixed", "lut_size": grid.SIZE}
        gains, weights = np.ones(3, np.float32), np.ones(1, np.float32)
        if self._predictor:
            gains, weights = self._predictor.of(thumbnail)
            facts |= {"kind": "adaptive", "gains": [round(float(gain), 4) for gain in gains]}
        baked = bundle.baked(self._style, gains, weights)
        colours = grid.from_light(grid.to_light(thumbnail.transpose(1, 2, 0)) * gains)
        sure = float(grid.read(self._style.confidence, colours).mean())
        return Look(baked, facts | {"confidence": round(sure, 4)})


class Predictor:
    """The model of a style, ready to run."""

    def __init__(self, model: bytes) -> None:
        """Raises STYLE_INVALID."""
        import onnxruntime

        _expect_harmless(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # it would write to stderr what is in the model
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception:  # its errors share no base, and quote the model
            raise _invalid("its predictor does not run") from None

    def of(self, thumbnail: grid.Floats) -> tuple[grid.Floats, grid.Floats]:
        """Gains [3] and weights [K] for a picture by its thumbnail [3, 256, 256]. Raises STYLE_INVALID."""
        try:
            gains, weights = self._session.run(["gains", "weights"], {"thumbnail": thumbnail[None]})
        except Exception:
            raise _invalid("its predictor does not run") from None
        return _first(gains), _first(weights)


def _first(batch: npt.NDArray[Any]) -> grid.Floats:
    """The one row of an output. Raises STYLE_INVALID unless it is a row of floats."""
    if not isinstance(batch, np.ndarray) or batch.dtype != np.float32 or batch.ndim != 2 or len(batch) != 1:
        raise _invalid("its predictor gives something else than gains and weights")
    row: grid.Floats = batch[0]
    return row


def _expect_harmless(model: bytes) -> None:
    """Raises STYLE_INVALID for a model with an operator, a subgraph or a file that no predictor has."""
    import onnx

    try:
        graph = onnx.load_from_string(model).graph
    except Exception:  # protobuf's own, and whatever its parts raise
        raise _invalid("its predictor is no ONNX model") from None
    tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
    if (
        len(graph.node) > NODES_MAX
        or any(node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx") for node in graph.node)
        or any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute)
        or any(tensor.external_data or tensor.data_location for tensor in tensors)
    ):
        raise _invalid("its predictor does what no predictor needs to")


def _invalid(reason: str) -> SafelightError:
    return error("STYLE_INVALID", reason)
