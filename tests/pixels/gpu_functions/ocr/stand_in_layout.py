"""A file with the inputs and outputs of PP-DocLayoutV3's export: it answers every page with the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Rows = npt.NDArray[np.float32]

NOTHING: Rows = np.empty((0, 7), np.float32)


def export(path: Path, rows: Rows = NOTHING) -> Path:
    """Write the file. `rows`: class, score, left, top, right, bottom in pixels, rank."""
    answers = {
        "fetch_name_0": rows.astype(np.float32),
        "fetch_name_1": np.array([len(rows)], np.int32),
        "fetch_name_2": np.zeros((len(rows), 200, 200), np.int32),
    }
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("im_shape", [1, 2]), ("image", [1, 3, 800, 800]), ("scale_factor", [1, 2]))
    ]
    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(answer.dtype), answer.shape)
        for name, answer in answers.items()
    ]
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(answer))
        for name, answer in answers.items()
    ]
    graph = helper.make_graph(nodes, "layout", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path
