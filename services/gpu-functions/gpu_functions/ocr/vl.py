"""The engine `paddleocr-vl`: PaddleOCR-VL reads each block of a page as a whole, by vLLM, on a GPU.

Where blocks are, what they are and in which order, PP-DocLayoutV3 says, as in the model's own pipeline; where lines
are, the CPU's detector. What is read is the language model's: lines of a block, cells of a table. Where it breaks a
block into the lines that were found, they keep their places; where it does not, its lines have none, and nothing it
says has a confidence. Lines that lie in no region are grouped by white bands and read too, after the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from pydantic import JsonValue

from contracts.ocr import Block, Kind, Line
from gpu_functions.engine import ALONE, Facts, Output, Place, Work
from gpu_functions.ocr import layout, markup, scan, vllm
from gpu_functions.ocr.level import Level
from gpu_functions.ocr.lines import Floats, Found
from gpu_functions.ocr.ppocr import PpOcr
from gpu_functions.ocr.regions import Region, Regions
from gpu_functions.weights import PADDLEOCR_VL_LAYOUT

NAME: Final = "paddleocr-vl@2"
PREFIX: Final = "PaddleOCR-VL-1.6."  # of the names of its files on the shelf
READ, TABLE, FORMULA = "OCR:", "Table Recognition:", "Formula Recognition:"
TOGETHER: Final = 16  # blocks that are asked at once: vLLM batches them
CHARACTERS_MAX: Final = 20_000  # of a block
BLOCK_SIDE_MAX: Final = 2048  # pixels
RIM: Final = 0.3  # heights of a line around a block, so that no letter is cut


@dataclass(frozen=True, slots=True)
class Part:
    """What is read at once: where on the level page, what it is if a model has said so, and the lines found in it."""

    box: Floats
    units: list[layout.Unit]
    kind: Kind | None = None

    @property
    def prompt(self) -> str:
        """What the model is asked."""
        if self.kind is Kind.TABLE or any(unit.cells for unit in self.units):
            return TABLE
        return FORMULA if self.kind is Kind.FORMULA else READ


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
            files = [file for name, file in place.weights.items() if name.startswith(PREFIX)]
            model = vllm.as_folder(files, PREFIX, Path(self._folder.name))
            self._server = vllm.Server(model)
            self._client = self._server.client()
        self._regions = Regions(place.weights[PADDLEOCR_VL_LAYOUT])
        self._eyes = PpOcr()

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises IMAGE_CORRUPT, IMAGE_TOO_LARGE, CALL_LOST, ANSWER_INVALID."""
        wanted = scan.OcrParameters.model_validate(parameters)
        pixels, size = scan.opened(inputs, wanted.max_side)
        upright, spots, rotation = self._eyes.upright(pixels)
        level = Level.of(spots, upright)
        flat = level.pixels(upright)
        found = parts(self._regions.of(flat), layout.arranged(level, upright, drawn_only=True))
        written = self._read(flat, found, level.em, work)
        page = layout.bound(_blocks(found, written, level), level, NAME, size, rotation, wanted.languages)
        return scan.outputs(page), scan.facts(page)

    def _read(self, pixels: scan.Scan, found: list[Part], em: float, work: Work) -> list[str]:
        """What the model writes of each part. The first that fails ends them all."""
        written: list[str] = []
        pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="vl")
        try:
            asked = [pool.submit(self._client.ask, _cut(pixels, part.box, em), part.prompt) for part in found]
            for answer in asked:
                written.append(answer.result()[:CHARACTERS_MAX])
                work.tell(len(written) / len(asked))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return written


def parts(regions: list[Region], groups: list[list[layout.Unit]]) -> list[Part]:
    """The parts of a page: regions with the units in their middle, then what no region holds, by `groups`.

    A picture is read where there are lines in it: a stamp, a legend.
    """
    left = [list(group) for group in groups]
    found = []
    for region in regions:
        held = [unit for group in left for unit in group if region.holds(unit.box)]
        left = [[unit for unit in group if not region.holds(unit.box)] for group in left]
        if held or region.kind is not Kind.FIGURE:
            found.append(Part(region.box, held, region.kind))
    return found + [Part(_around(units), units) for units in left if units]


def _around(units: list[layout.Unit]) -> Floats:
    boxes = np.array([unit.box for unit in units])
    return np.array([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)])


def _cut(pixels: scan.Scan, box: Floats, em: float) -> scan.Scan:
    """The part of the level page in the box, and a rim."""
    rim = RIM * em
    height, width = pixels.shape[:2]
    left, top = np.clip(box[:2] - rim, 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(box[2:] + rim), (left + 1, top + 1), (width, height)).astype(int)
    part = pixels[top:bottom, left:right]
    shrink = min(1.0, BLOCK_SIDE_MAX / max(part.shape[:2]))
    size = max(1, round(part.shape[1] * shrink)), max(1, round(part.shape[0] * shrink))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA) if shrink < 1 else part, np.uint8)


def _blocks(found: list[Part], written: list[str], level: Level) -> list[Block]:
    read = [_filled(part, said) for part, said in zip(found, written, strict=True)]
    letters = layout.letters_of([line for lines in read for line in lines])
    return [
        _block(part, said, lines, letters, level)
        for part, said, lines in zip(found, written, read, strict=True)
        if said.strip()
    ]


def _filled(part: Part, said: str) -> list[Found]:
    """The lines that were found, with what was written of them; none when they are not as many."""
    texts = [" ".join(text.split()) for text in said.splitlines() if text.strip()]
    lines = [line for unit in part.units for line in unit.lines]
    if len(texts) != len(lines) or part.prompt != READ:
        return []
    return [replace(line, text=text) for line, text in zip(lines, texts, strict=True)]


def _block(part: Part, said: str, lines: list[Found], letters: float, level: Level) -> Block:
    """The block that was written. Cells lie where they were found when the table has as many rows and columns."""
    box = layout.box_of(part.box, level)
    cells = markup.cells(said) if part.prompt == TABLE else []
    if cells:
        drawn = {(cell.row, cell.column): cell for unit in part.units for cell in unit.cells}
        alike = drawn.keys() == {(cell.row, cell.column) for cell in cells}
        places = {at: layout.box_of(cell.box, level) for at, cell in drawn.items()} if alike else {}
        placed = [cell.model_copy(update={"box": places.get((cell.row, cell.column))}) for cell in cells]
        return Block(kind=Kind.TABLE, box=box, cells=placed)
    kind = Kind.TITLE if lines and layout.is_title(lines, letters) else Kind.TEXT
    if part.kind is not None and part.kind is not Kind.TABLE:  # what is no table after all is text
        kind = part.kind
    if lines:
        return Block(kind=kind, box=box, lines=[line.turned(level.back).line(*level.size) for line in lines])
    texts = (" ".join(text.split()) for text in said.splitlines())
    return Block(kind=kind, box=box, lines=[Line(text=text) for text in texts if text])
