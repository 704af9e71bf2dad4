"""Small pages to read, and what was read of them."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from contracts.ocr import Block, Line, Page, Point
from gpu_functions.engine import Output
from tests.documents import school

Bytes = npt.NDArray[np.uint8]


def small(language: str = "en", seed: int = 3) -> school.Paper:
    """A report card of three subjects, at 100 dots per inch: 827×1169."""
    return school.report_card(seed, language, dpi=100, subjects=3)


def png(pixels: Bytes) -> bytes:
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    assert done
    return data.tobytes()


def page_of(outputs: dict[str, Output]) -> Page:
    """The output `ocr`, as any reader of the schema takes it."""
    assert outputs["ocr"].media_type == "application/json"
    return Page.model_validate_json(outputs["ocr"].data)


def lines(page: Page) -> Iterator[tuple[Block, Line]]:
    for block in page.blocks:
        for line in block.lines:
            yield block, line


def bounds(points: tuple[Point, ...]) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def flat(text: str) -> str:
    return " ".join(text.split())
