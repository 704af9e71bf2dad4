"""The models that ship in rapidocr's wheel, and nothing that would have to be fetched.

rapidocr downloads what it is not given: here each part is given its file by name, and gets one thread.
"""

from __future__ import annotations

import logging
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

DETECTED_SIDE: Final = 960  # pixels of an A4 page's longer side, on which text is looked for; 2.8 GB without a limit
DETECTED_SIDE_MAX: Final = 4000
LINE_HEIGHT: Final = 48  # pixels, as the models were trained

# fmt: off
MODELS: Final = {
    "Det": "PP-OCRv6_det_small.onnx",                   # where text is
    "Rec": "PP-OCRv6_rec_small.onnx",                   # what it says
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",      # whether a line stands on its head
}
_SETTINGS: Final[dict[str, Any]] = {
    "Global.log_level":                              "critical",
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,     # one picture per process and core
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Det.limit_side_len":                            DETECTED_SIDE,
    "Det.limit_type":                                "max",
    "Rec.rec_img_shape":                             [3, LINE_HEIGHT, LINE_HEIGHT],  # the least width: no padding
    "Rec.rec_batch_num":                             1,
}
# fmt: on


def detected_side(width: int, height: int) -> int:
    """The longer side to shrink a page to: as many pixels in all as A4 has at 960, so that a receipt stays legible."""
    longer, shorter = max(width, height), max(1, min(width, height))
    stretched = max(1.0, longer / shorter / math.sqrt(2))
    return min(DETECTED_SIDE_MAX, round(DETECTED_SIDE * math.sqrt(stretched)))


def folder() -> Path:
    """Where the wheel keeps its models."""
    spec = find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


def config() -> Any:
    """rapidocr's settings, whose sections `Det`, `Rec` and `Cls` make a reader each."""
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)  # it speaks of what it reads
    from rapidocr import RapidOCR

    made = RapidOCR(params=_SETTINGS | {f"{part}.model_path": str(folder() / MODELS[part]) for part in MODELS}).cfg
    for part in MODELS:
        made[part].engine_cfg = made.EngineConfig.onnxruntime
        made[part].model_root_dir = str(folder())
    made.Rec.font_path = None
    return made
