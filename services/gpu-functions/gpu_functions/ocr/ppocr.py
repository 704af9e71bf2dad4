"""The engine `ppocr-onnx`: PP-OCRv6 small on a CPU, by onnxruntime, with the models that ship in rapidocr's wheel.

Text is found on the page shrunk to 960 pixels (of A4; a receipt has more) and read at full size, each line for
itself: padding short lines to the width of long ones, as batches are, costs half as much again and reads no better
(docs/quality.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from pydantic import JsonValue

from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work
from gpu_functions.ocr import layout, scan, shipped
from gpu_functions.ocr.lines import Found
from gpu_functions.ocr.upright import Upright, directed, strip

NAME: Final = "ppocr-onnx@1"
SURE_MIN: Final = 0.5  # a line of less confidence is noise


class PpOcr:
    """`image` -> `ocr`, `markdown`."""

    def __init__(self, place: Place = OWN_CPU) -> None:
        """Load three small models."""
        config = shipped.config()
        from rapidocr.ch_ppocr_det import TextDetector
        from rapidocr.ch_ppocr_rec import TextRecognizer

        self._find, self._recognise, self._upright = (
            TextDetector(config.Det),
            TextRecognizer(config.Rec),
            Upright(config),
        )

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE."""
        wanted = scan.OcrParameters.model_validate(parameters)
        pixels, size = scan.opened(inputs, wanted.max_side)
        upright, spots, rotation = self.upright(pixels)
        found = []
        for done, line in enumerate(self._read(upright, spots), 1):
            found.append(line)
            work.tell(done / len(spots))
        page = layout.page(found, upright, NAME, size, rotation, wanted.languages)
        return scan.outputs(page), scan.facts(page)

    def upright(self, pixels: scan.Scan) -> tuple[scan.Scan, list[Found], int]:
        """The page upright and in BGR, where text is on it, and by how many degrees clockwise it was turned."""
        return self._upright.turned(np.ascontiguousarray(pixels[..., ::-1]), self._look, self._sure)

    def _look(self, pixels: scan.Scan) -> list[Found]:
        """Where text is; nothing of it is read yet."""
        self._find.limit_side_len = shipped.detected_side(pixels.shape[1], pixels.shape[0])
        boxes = self._find(pixels).boxes
        quads = directed([np.asarray(box, np.float64) for box in boxes]) if boxes is not None else []
        return [Found(quad) for quad in quads]

    def _sure(self, pixels: scan.Scan, spots: list[Found]) -> float:
        """The mean confidence of these lines; what is not read has none."""
        return sum(line.confidence or 0.0 for line in self._read(pixels, spots)) / max(1, len(spots))

    def _read(self, pixels: scan.Scan, spots: list[Found]) -> Iterator[Found]:
        """What stands in each spot; what is empty or unsure is not told."""
        from rapidocr.ch_ppocr_rec import TextRecInput

        for spot in spots:
            told = self._recognise(TextRecInput(img=[strip(pixels, spot.quad)], return_word_box=True))
            text, sure = (told.txts or ("",))[0], min(1.0, float(told.scores[0]))
            if text.strip() and sure >= SURE_MIN:
                places, each = _characters(text, told.word_results[0])
                yield replace(spot, text=text, confidence=sure, places=places, sure=each)


def _characters(text: str, detail: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Where along the line each character that is no space has its middle, and how sure the model is of it."""
    columns = [column for word in detail.word_cols for column in word]
    sure = [float(one) for character, one in zip(text, detail.confs, strict=False) if not character.isspace()]
    whole = max(float(detail.line_txt_len), 1.0)
    return tuple(min(1.0, (column + 0.5) / whole) for column in columns), tuple(sure)
