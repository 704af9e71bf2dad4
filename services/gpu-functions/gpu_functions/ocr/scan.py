"""What goes into every OCR engine, and what comes out: parameters, pixels of bounded size, outputs and facts.

Facts are numbers: what stands on a page is in the outputs and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from contracts import ocr_text
from contracts.ocr import Block, Page
from gpu_functions import images
from gpu_functions.engine import Facts, Output, input_of

Scan = npt.NDArray[np.uint8]  # H×W×3 RGB, on white where the page was transparent

SIDE_MAX: Final = 8000
A4_300_DPI: Final = 3508  # more pixels do not read better, and cost memory

Language = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]


class OcrParameters(BaseModel):
    """`languages` are hints (BCP 47); a page with a longer side than `max_side` pixels is read shrunk to it."""

    languages: list[Language] = Field(default_factory=list, max_length=8)
    max_side: int = Field(default=A4_300_DPI, ge=320, le=SIDE_MAX)


def opened(inputs: Mapping[str, bytes], max_side: int) -> tuple[Scan, tuple[int, int]]:
    """The pixels of the input `image`, and the width and height that it came with.

    Raises MESSAGE_INVALID, IMAGE_CORRUPT, IMAGE_TOO_LARGE, DECODE_LIMIT.
    """
    picture = images.read(input_of(inputs, "image"))
    width, height = picture.size
    shrink = min(1.0, max_side / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    pixels = _eight_bit(picture.pixels, size)
    if picture.alpha is not None:
        share = _eight_bit(picture.alpha, size)[..., None].astype(np.float32) / 255
        pixels = np.asarray(pixels * share + 255 * (1 - share), np.uint8)
    return np.ascontiguousarray(pixels), (width, height)


def outputs(page: Page) -> dict[str, Output]:
    """`ocr`: the page as JSON; `markdown`: the same to read."""
    return {
        "ocr": Output(page.model_dump_json(exclude_none=True).encode(), "application/json"),
        "markdown": Output(ocr_text.markdown(page).encode(), "text/markdown"),
    }


def facts(page: Page) -> Facts:
    """How much was read and how surely; never what. `confidence` is the mean of the lines', by their length."""
    lines = [line for block in page.blocks for line in block.lines]
    sure = [(line.confidence, len(line.text)) for line in lines if line.confidence is not None and line.text]
    whole = sum(length for _, length in sure)
    return {
        "blocks": len(page.blocks),
        "tables": sum(bool(block.cells) for block in page.blocks),
        "lines": len(lines),
        "words": sum(map(_words, page.blocks)),
        "confidence": round(sum(one * length for one, length in sure) / whole, 4) if whole else None,
        "rotation": page.rotation,
        "skew": round(page.skew, 2),
    }


def _words(block: Block) -> int:
    """Words of the lines; of the cells, where an engine tells no lines of a table."""
    if block.lines:
        return sum(len(line.words) or len(line.text.split()) for line in block.lines)
    return sum(len(cell.text.split()) for cell in block.cells)


def _eight_bit(plane: images.Pixels, size: tuple[int, int]) -> Scan:
    """The plane in 8 bit, and no larger than `size`: width, height."""
    if size != (plane.shape[1], plane.shape[0]):
        plane = np.asarray(cv2.resize(plane, size, interpolation=cv2.INTER_AREA), plane.dtype)
    return np.asarray(plane if plane.dtype == np.uint8 else plane >> 8, np.uint8)
