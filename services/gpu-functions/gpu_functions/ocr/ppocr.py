"""The engine `ppocr-onnx`: PP-OCRv6 small on a CPU, by onnxruntime, with the models that ship in rapidocr's wheel.

Text is found on the page shrunk to 960 pixels and read at full size, each line for itself: padding short lines
to the width of long ones, as batches are, costs half as much again and reads no better (docs/quality.md).
A page that lies on its side or on its head is turned first: sideways when its lines stand, on its head when the
model that ships for that says so of most of its longest lines.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from pydantic import JsonValue

from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work
from gpu_functions.ocr import layout, scan
from gpu_functions.ocr.lines import UPRIGHT, Floats, Found

NAME: Final = "ppocr-onnx@1"
DETECTED_SIDE: Final = 960  # pixels; 751 MB at 960, 2.8 GB without a limit
LINE_HEIGHT: Final = 48  # pixels, as the model was trained
RATIO_MAX: Final = 60.0  # of a line's length to its height: a longer one is squeezed, and memory stays bounded
SURE_MIN: Final = 0.5  # a line of less confidence is noise
ASKED: Final = 12  # lines that are asked whether they stand on their head

MODELS: Final = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}


def folder() -> Path:
    """Where rapidocr's wheel keeps its models."""
    spec = find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


class PpOcr:
    """`image` -> `ocr`, `markdown`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Load three models, from files that are named: rapidocr fetches what it is not given."""
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)  # at WARNING it speaks of the pages
        from rapidocr import RapidOCR
        from rapidocr.ch_ppocr_cls import TextClassifier
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        config = RapidOCR(
            params=_SETTINGS | {f"{part}.model_path": str(folder() / MODELS[part]) for part in MODELS}
        ).cfg
        for part in MODELS:
            config[part].engine_cfg = config.EngineConfig.onnxruntime
            config[part].model_root_dir = str(folder())
        config.Rec.font_path = None
        self._find, self._judge, self._recognise = (
            TextDetector(config.Det),
            TextClassifier(config.Cls),
            TextRecognizer(config.Rec),
        )

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
        wanted = scan.OcrParameters.model_validate(parameters)
        pixels, size = scan.opened(inputs, wanted.max_side)
        upright, quads, rotation = self.upright(np.ascontiguousarray(pixels[..., ::-1]))
        found = []
        for done, line in enumerate(self.read(upright, quads), 1):
            found.append(line)
            work.tell(done / len(quads))
        page = layout.page(found, upright, NAME, size, rotation, wanted.languages)
        return scan.outputs(page), scan.facts(page)

    def upright(self, pixels: scan.Scan) -> tuple[scan.Scan, list[Floats], int]:
        """The page as it is read, the quads of its lines, and by how many degrees clockwise it was turned."""
        rotation = 0
        quads = self.quads(pixels)
        if _stands(quads):
            pixels, rotation = np.ascontiguousarray(np.rot90(pixels, -1)), 90
            quads = self.quads(pixels)
        if self._on_its_head(pixels, quads):
            pixels, rotation = np.ascontiguousarray(np.rot90(pixels, 2)), rotation + 180
            quads = self.quads(pixels)
        return pixels, quads, rotation

    def quads(self, pixels: scan.Scan) -> list[Floats]:
        """Where text is, in the direction of reading. `pixels` are BGR, as these models were trained."""
        boxes = self._find(pixels).boxes
        if boxes is None:
            return []
        quads = [np.asarray(box, np.float64) for box in boxes]
        high = float(np.median([min(_sides(quad)) for quad in quads]))
        # A box on end is a single letter when it is no higher than other lines; else its text runs down the page.
        return [
            np.roll(quad, -1, axis=0) if _is_on_end(quad) and _sides(quad)[1] > 2 * high else quad for quad in quads
        ]

    def read(self, pixels: scan.Scan, quads: list[Floats]) -> Iterator[Found]:
        """What stands in each quad; what is empty or unsure is not told."""
        from rapidocr.ch_ppocr_rec import TextRecInput

        for quad in quads:
            strip = _strip(pixels, quad)
            told = self._recognise(TextRecInput(img=[strip], return_word_box=True))
            text, sure, detail = (told.txts or ("",))[0], float(told.scores[0]), told.word_results[0]
            if text.strip() and sure >= SURE_MIN:
                yield Found(quad, text, sure, *_characters(text, detail))

    def _on_its_head(self, pixels: scan.Scan, quads: list[Floats]) -> bool:
        longest = sorted(quads, key=lambda quad: -_sides(quad)[0])[:ASKED]
        if not longest:
            return False
        answers = self._judge([_strip(pixels, quad) for quad in longest]).cls_res or ()
        return sum((score if label == "180" else -score) for label, score in answers) > 0


# fmt: off
_SETTINGS: Final[dict[str, Any]] = {
    "Global.log_level":                             "critical",
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,   # one picture per process and core
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "Det.limit_side_len":                           DETECTED_SIDE,
    "Det.limit_type":                               "max",
    "Rec.rec_img_shape":                            [3, LINE_HEIGHT, LINE_HEIGHT],  # the least width: see above
    "Rec.rec_batch_num":                            1,
}
# fmt: on


def _sides(quad: Floats) -> tuple[float, float]:
    """Length and height in pixels."""
    return float(np.linalg.norm(quad[1] - quad[0])), float(np.linalg.norm(quad[3] - quad[0]))


def _is_on_end(quad: Floats) -> bool:
    length, height = _sides(quad)
    return height >= UPRIGHT * length


def _stands(quads: list[Floats]) -> bool:
    """Whether most of the page's text, by its length, runs down or up the page."""
    longest = [max(_sides(quad)) for quad in quads]
    # `quads` has turned those around that are on end: their first side goes down the page.
    standing = [abs(quad[1, 1] - quad[0, 1]) > abs(quad[1, 0] - quad[0, 0]) for quad in quads]
    return sum(side for side, stands in zip(longest, standing, strict=True) if stands) > 0.5 * sum(longest)


def _strip(pixels: scan.Scan, quad: Floats) -> scan.Scan:
    """The line cut out and laid straight, no longer than the model may be given."""
    length, height = _sides(quad)
    high = max(1, min(round(height), 4 * LINE_HEIGHT))
    wide = max(1, round(high * min(length / max(height, 1.0), RATIO_MAX)))
    corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    lay = cv2.getPerspectiveTransform(quad.astype(np.float32), corners)
    flat = cv2.warpPerspective(pixels, lay, (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(flat, np.uint8)


def _characters(text: str, detail: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where along the line each character that is no space has its middle, and how sure the model is of it."""
    columns = [column for word in detail.word_cols for column in word]
    sure = [float(one) for character, one in zip(text, detail.confs, strict=False) if not character.isspace()]
    whole = max(float(detail.line_txt_len), 1.0)
    return tuple(min(1.0, (column + 0.5) / whole) for column in columns), tuple(sure)
