"""The engine `paddleocr`: PaddleOCR's own pipeline with PP-OCRv6 medium, by onnxruntime, on a GPU.

It does what the CPU's engine does with larger models and its own cutting and batching; what is found becomes
blocks and tables by the same layout, so that only the reading differs. PaddlePaddle itself is not needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import JsonValue

from contracts.errors import error
from gpu_functions.engine import ALONE, Facts, Output, Place, Work
from gpu_functions.ocr import layout, scan, shipped
from gpu_functions.ocr.lines import Found
from gpu_functions.ocr.upright import Upright, directed

NAME: Final = "paddleocr@1"
DETECTOR, READER = "PP-OCRv6_det_medium.onnx", "PP-OCRv6_rec_medium.onnx"
SURE_MIN: Final = 0.5
BATCH: Final = {"cpu": 1, "gpu": 32}  # lines at once

_DECODE: Final = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
_HALF: Final = [0.5, 0.5, 0.5]


class PaddleOcr:
    """`image` -> `ocr`, `markdown`."""

    def __init__(self, place: Place) -> None:
        """Load the two models of `place.weights`, and the small one that tells which way up a page is.

        Raises ENGINE_UNAVAILABLE on a GPU that onnxruntime cannot compute on: its wheel must be onnxruntime-gpu.
        """
        import onnxruntime

        if place.device == "gpu" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise error("ENGINE_UNAVAILABLE", "this onnxruntime computes on no GPU: it must be onnxruntime-gpu")
        PaddleOCR = _library()  # noqa: N806  # a class
        with tempfile.TemporaryDirectory(prefix="safelight-ocr-") as folder:
            detector, reader = (_as_folder(place.weights[name], Path(folder)) for name in (DETECTOR, READER))
            self._pipeline: Any = PaddleOCR(
                text_detection_model_name=detector.name,
                text_detection_model_dir=str(detector),
                text_recognition_model_name=reader.name,
                text_recognition_model_dir=str(reader),
                text_recognition_batch_size=BATCH[place.device],
                text_det_limit_side_len=shipped.DETECTED_SIDE,
                text_det_limit_type="max",
                text_rec_score_thresh=SURE_MIN,
                use_doc_orientation_classify=False,
                use_doc_unwarping=False,
                use_textline_orientation=False,
                engine="onnxruntime",
                engine_config={"intra_op_num_threads": 1} if place.device == "cpu" else None,
                device=place.device,
            )
        self._upright = Upright(shipped.config())

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
        wanted = scan.OcrParameters.model_validate(parameters)
        pixels, size = scan.opened(inputs, wanted.max_side)
        upright, found, rotation = self._upright.turned(np.ascontiguousarray(pixels[..., ::-1]), self._look, _sure)
        page = layout.page(found, upright, NAME, size, rotation, wanted.languages)
        return scan.outputs(page), scan.facts(page)

    def _look(self, pixels: scan.Scan) -> list[Found]:
        """What is read on a page. The words within a line are told by their length: nothing better is said."""
        (told,) = self._pipeline.predict(
            pixels, text_det_limit_side_len=shipped.detected_side(pixels.shape[1], pixels.shape[0])
        )
        quads = directed([np.asarray(quad, np.float64) for quad in told["rec_polys"]])
        return [
            Found(quad, text, min(1.0, float(sure)))
            for quad, text, sure in zip(quads, told["rec_texts"], told["rec_scores"], strict=True)
            if text.strip()
        ]


def _sure(_: scan.Scan, found: list[Found]) -> float:
    return sum(line.confidence or 0.0 for line in found) / max(1, len(found))


def _library() -> Any:
    """The class of paddleocr. It asks for OpenCV by the name of one wheel; ours brings the same module headless."""
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")  # it would ask hubs whether they live
    version = importlib.metadata.version

    def known(name: str) -> str:
        return version(f"{name}-headless" if name == "opencv-contrib-python" else name)

    importlib.metadata.version = known  # type: ignore[assignment]
    try:
        from paddleocr import PaddleOCR
    finally:
        importlib.metadata.version = version
    for name in ("paddlex", "ppocr", "paddleocr"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they speak of what they read
    return PaddleOCR


def _as_folder(model: Path, folder: Path) -> Path:
    """A folder such as PaddleX loads, of one ONNX file: its settings are those that the model was trained with.

    The characters that a reader knows are written in the file itself.
    """
    family, part, size = model.stem.rsplit("_", 2)  # PP-OCRv6_det_medium
    place = folder / f"{family}_{size}_{part}"
    place.mkdir()
    (place / "inference.onnx").symlink_to(model.resolve())
    settings = _reads(model) if part == "rec" else _finds()
    (place / "inference.yml").write_text(json.dumps({"Global": {"model_name": place.name}, **settings}))  # JSON is YAML
    return place


def _finds() -> dict[str, Any]:
    steps = [
        _DECODE,
        {"DetResizeForTest": {"resize_long": shipped.DETECTED_SIDE}},
        {"NormalizeImage": {"mean": _HALF, "std": _HALF, "scale": 1 / 255, "order": "hwc"}},
        {"ToCHWImage": None},
    ]
    after = {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.5, "max_candidates": 1000, "unclip_ratio": 1.6}
    return {"PreProcess": {"transform_ops": steps}, "PostProcess": after}


def _reads(model: Path) -> dict[str, Any]:
    import onnx

    written = {entry.key: entry.value for entry in onnx.load(model, load_external_data=False).metadata_props}
    steps = [_DECODE, {"RecResizeImg": {"image_shape": [3, shipped.LINE_HEIGHT, 320]}}]
    after = {"name": "CTCLabelDecode", "character_dict": written["character"].splitlines()}
    return {"PreProcess": {"transform_ops": steps}, "PostProcess": after}
