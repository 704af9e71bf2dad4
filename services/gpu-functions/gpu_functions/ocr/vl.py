"""The engine `paddleocr-vl`: PaddleOCR-VL reads each block of a page as a whole, by vLLM, on a GPU.

Where blocks are, is found as on the CPU, by lines and white bands: the layout model of the full PaddleOCR-VL
pipeline (PP-DocLayoutV3) has never been held here. What is read is the language model's: lines of a block, cells
of a ruled table. Where it breaks a block into the lines that were found, they keep their places; where it does
not, its lines have none, and nothing it says has a confidence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from pydantic import JsonValue

from contracts.ocr import Block, Kind, Line
from gpu_functions.engine import ALONE, Facts, Output, Place, Work
from gpu_functions.ocr import layout, markup, scan, vllm
from gpu_functions.ocr.level import Level
from gpu_functions.ocr.lines import Found
from gpu_functions.ocr.ppocr import PpOcr

NAME: Final = "paddleocr-vl@1"
PREFIX: Final = "PaddleOCR-VL-1.6."  # of the names of its files on the shelf
READ, TABLE = "OCR:", "Table Recognition:"
TOGETHER: Final = 16  # blocks that are asked at once: vLLM batches them
CHARACTERS_MAX: Final = 20_000  # of a block
BLOCK_SIDE_MAX: Final = 2048  # pixels
RIM: Final = 0.3  # heights of a line around a block, so that no letter is cut


class PaddleOcrVl:
    """`image` -> `ocr`, `markdown`."""

    def __init__(self, place: Place, url: str = "") -> None:
        """Start vLLM with the files of `place`, and wait for it; with `url` one is there already.

        Raises ENGINE_UNAVAILABLE.
        """
        if url:
            self._client = vllm.Client(url)
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="safelight-vl-")
            model = vllm.as_folder(list(place.weights.values()), PREFIX, Path(self._folder.name))
            self._server = vllm.Server(model)
            self._client = self._server.client()
        self._eyes = PpOcr()

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, CALL_LOST, ANSWER_INVALID."""
        wanted = scan.OcrParameters.model_validate(parameters)
        pixels, size = scan.opened(inputs, wanted.max_side)
        upright, spots, rotation = self._eyes.upright(pixels)
        level = Level.of(spots, upright)
        groups = layout.arranged(level, upright, drawn_only=True)
        written = self._read(level.pixels(upright), groups, level.em, work)
        page = layout.bound(_blocks(groups, written, level), level, NAME, size, rotation, wanted.languages)
        return scan.outputs(page), scan.facts(page)

    def _read(self, pixels: scan.Scan, groups: list[list[layout.Unit]], em: float, work: Work) -> list[str]:
        """What the model writes of each group. The first that fails ends them all."""
        written: list[str] = []
        pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="vl")
        try:
            asked = [pool.submit(self._client.ask, _cut(pixels, units, em), _prompt(units)) for units in groups]
            for answer in asked:
                written.append(answer.result()[:CHARACTERS_MAX])
                work.tell(len(written) / len(asked))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return written


def _prompt(units: list[layout.Unit]) -> str:
    return TABLE if any(unit.cells for unit in units) else READ


def _cut(pixels: scan.Scan, units: list[layout.Unit], em: float) -> scan.Scan:
    """The part of the level page that the units cover, and a rim."""
    boxes, rim = np.array([unit.box for unit in units]), RIM * em
    height, width = pixels.shape[:2]
    left, top = np.clip(boxes[:, :2].min(axis=0) - rim, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(boxes[:, 2:].max(axis=0) + rim), (left + 1, top + 1), (width, height)).astype(int)
    part = pixels[top:bottom, left:right]
    shrink = min(1.0, BLOCK_SIDE_MAX / max(part.shape[:2]))
    size = max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA) if shrink < 1 else part, np.uint8)


def _blocks(groups: list[list[layout.Unit]], written: list[str], level: Level) -> list[Block]:
    read = [_filled(units, said) for units, said in zip(groups, written, strict=True)]
    letters = layout.letters_of([line for lines in read for line in lines])
    return [
        _block(units, said, lines, letters, level)
        for units, said, lines in zip(groups, written, read, strict=True)
        if said.strip()
    ]


def _filled(units: list[layout.Unit], said: str) -> list[Found]:
    """The lines that were found, with what was written of them; none when they are not as many."""
    texts = [" ".join(text.split()) for text in said.splitlines() if text.strip()]
    lines = [line for unit in units for line in unit.lines]
    if len(texts) != len(lines) or any(unit.cells for unit in units):
        return []
    return [replace(line, text=text) for line, text in zip(lines, texts, strict=True)]


def _block(units: list[layout.Unit], said: str, lines: list[Found], letters: float, level: Level) -> Block:
    """The block that was written. Cells lie where they were found when the table has as many rows and columns."""
    box = layout.hull(units, level)
    cells = markup.cells(said) if _prompt(units) == TABLE else []
    if cells:
        drawn = {(cell.row, cell.column): cell for unit in units for cell in unit.cells}
        alike = drawn.keys() == {(cell.row, cell.column) for cell in cells}
        places = {at: layout.box_of(cell.box, level) for at, cell in drawn.items()} if alike else {}
        placed = [cell.model_copy(update={"box": places.get((cell.row, cell.column))}) for cell in cells]
        return Block(kind=Kind.TABLE, box=box, cells=placed)
    kind = Kind.TITLE if lines and layout.is_title(lines, letters) else Kind.TEXT
    if lines:
        return Block(kind=kind, box=box, lines=[line.turned(level.back).line(*level.size) for line in lines])
    texts = (" ".join(text.split()) for text in said.splitlines())
    return Block(kind=kind, box=box, lines=[Line(text=text) for text in texts if text])
