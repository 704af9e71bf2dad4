"""Where the blocks of a page are, what they are and in which order one reads them: PP-DocLayoutV3, by onnxruntime.

The layout model of PaddleOCR-VL's own pipeline (a detector of the RT-DETR family that ranks what it finds), in its
publisher's export. What comes out is treated as PaddleX does for that pipeline (`PaddleOCR-VL-1.6.yaml`): only what is
sure, each thing once, nothing inside of a title or a formula. PaddleX itself would bring 20 s of imports and another
OpenCV for these few lines; a test holds them to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from contracts.ocr import Kind
from gpu_functions.ocr.lines import Floats
from gpu_functions.ocr.scan import Scan

SIDE: Final = 800  # pixels: the page is squeezed into a square
SURE_MIN: Final = 0.3
SAME, OTHER = 0.6, 0.98  # intersection over union of two of a class, of two classes, from which they are one thing
INSIDE_MIN: Final = 0.9  # of a box that lies in one of WHOLE: it is a part of that
COVERED_MAX: Final = 0.7  # of the smaller of two boxes, whatever they are
WORDS_COVERED_MAX: Final = 0.5  # of a formula in a line of text, which is read with its line
SIDE_MIN: Final = 6  # pixels
PAGE_SHARE: Final = (0.82, 0.93)  # of a wide page, of a tall one, beyond which a picture is the page itself

# fmt: off
LABELS: Final = (  # as the model counts them
    "abstract", "algorithm", "aside_text", "chart", "content", "display_formula", "doc_title", "figure_title", "footer",
    "footer_image", "footnote", "formula_number", "header", "header_image", "image", "inline_formula", "number",
    "paragraph_title", "reference", "reference_content", "seal", "table", "text", "vertical_text", "vision_footnote",
)
WHOLE: Final = ("chart", "display_formula", "doc_title", "inline_formula", "paragraph_title")
PICTURES: Final = {"image", "table", "seal", "chart"}  # may hold others, or be held
KINDS: Final = {  # all others are text
    "doc_title": Kind.TITLE,        "paragraph_title": Kind.TITLE,
    "table": Kind.TABLE,
    "display_formula": Kind.FORMULA, "inline_formula": Kind.FORMULA,
    "image": Kind.FIGURE,           "chart": Kind.FIGURE,           "seal": Kind.FIGURE,
    "header_image": Kind.FIGURE,    "footer_image": Kind.FIGURE,
    "header": Kind.OTHER,           "footer": Kind.OTHER,           "number": Kind.OTHER,
    "aside_text": Kind.OTHER,       "formula_number": Kind.OTHER,
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Region:
    """A block of the page. `box` is left, top, right, bottom in pixels."""

    label: str
    box: Floats

    @property
    def kind(self) -> Kind:
        """What the schema calls it."""
        return KINDS.get(self.label, Kind.TEXT)

    def holds(self, box: Floats) -> bool:
        """Whether the middle of `box` lies in it."""
        x, y = (box[:2] + box[2:]) / 2
        return bool(self.box[0] <= x <= self.box[2] and self.box[1] <= y <= self.box[3])


class Regions:
    """The model, loaded from its file."""

    def __init__(self, model: Path) -> None:
        """On a GPU where this onnxruntime knows one, else on the CPU: one look at a page takes a second there."""
        import onnxruntime

        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        known = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self._session: Any = onnxruntime.InferenceSession(str(model), providers=known)

    def of(self, pixels: Scan) -> list[Region]:
        """The regions of a level page (BGR), in the order of reading."""
        height, width = pixels.shape[:2]
        square = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        given = {
            "im_shape": np.array([[SIDE, SIDE]], np.float32),
            "image": np.ascontiguousarray((square.astype(np.float32) / 255).transpose(2, 0, 1)[None]),
            "scale_factor": np.array([[SIDE / height, SIDE / width]], np.float32),
        }
        names = [one.name for one in self._session.get_inputs()]  # an export leaves out what it does not use
        rows = np.asarray(self._session.run(None, {name: given[name] for name in names})[0], np.float64)
        return regions(rows, width, height)


def regions(rows: Floats, width: int, height: int) -> list[Region]:
    """Of the model's rows (class, score, left, top, right, bottom in pixels, rank) those that are blocks, in order."""
    rows = rows[(rows[:, 1] > SURE_MIN) & (rows[:, 0] >= 0) & (rows[:, 0] < len(LABELS))]
    rows = np.column_stack([rows[:, :2], rows[:, 2:6].round(), rows[:, 6]])
    rows = rows[list(_once(rows))]
    rows = rows[~_is_page(rows, width, height) & ~_is_part(rows)]
    rows = rows[np.argsort(rows[:, 6], kind="stable")]
    boxes = np.clip(rows[:, 2:6], 0, [width, height, width, height])
    found = [Region(LABELS[int(row[0])], box) for row, box in zip(rows, boxes, strict=True)]
    return _apart([one for one in found if (one.box[2:] > one.box[:2]).all() and one.label != "reference"])


def _once(rows: Floats) -> Iterator[int]:
    """Of several boxes of one thing the surest."""
    left = list(np.argsort(-rows[:, 1], kind="stable"))
    while left:
        best, *rest = left
        yield int(best)
        alike = _shared(rows[best, 2:6], rows[rest, 2:6], 1.0)
        alike = alike / (_area(rows[best, 2:6], 1.0) + _area(rows[rest, 2:6], 1.0) - alike)
        limit = np.where(rows[rest, 0] == rows[best, 0], SAME, OTHER)
        left = [one for one, keeps in zip(rest, alike < limit, strict=True) if keeps]


def _is_page(rows: Floats, width: int, height: int) -> Any:
    """Of each row, whether it is a picture of the whole page; of none where nothing else would be left."""
    boxes = np.clip(rows[:, 2:6], 0, [width, height, width, height])
    large = _area(boxes) > PAGE_SHARE[width <= height] * width * height
    whole = (rows[:, 0] == LABELS.index("image")) & large
    return np.zeros(len(rows), bool) if whole.all() else whole


def _is_part(rows: Floats) -> Any:
    """Of each row, whether it lies in another that is read as a whole."""
    whole = np.isin(rows[:, 0], [LABELS.index(label) for label in WHOLE])
    parts = np.zeros(len(rows), bool)
    for one in np.flatnonzero(whole):
        inside = _shared(rows[one, 2:6], rows[:, 2:6]) >= INSIDE_MIN * np.maximum(_area(rows[:, 2:6]), 1e-9)
        inside[one] = False
        parts |= inside
    return parts


def _apart(found: list[Region]) -> list[Region]:
    """Without those that another one covers; a picture may hold text, and stays."""
    gone: set[int] = set()
    for i, one in enumerate(found):
        if (one.box[2:] - one.box[:2]).min() < SIDE_MIN:
            gone.add(i)
        for j, other in enumerate(found[i + 1 :], i + 1):
            if i in gone or j in gone:
                continue
            areas = _area(one.box), _area(other.box)
            covered = _shared(one.box, other.box[None])[0] / min(areas)
            labels = {one.label, other.label}
            if "inline_formula" in labels:
                if covered > WORDS_COVERED_MAX:
                    gone.update(k for k in (i, j) if found[k].label == "inline_formula")
            elif covered > COVERED_MAX and not (
                len(labels) > 1 and labels & PICTURES and ("table" not in labels or labels <= PICTURES)
            ):
                gone.add(j if areas[0] >= areas[1] else i)
    return [one for i, one in enumerate(found) if i not in gone]


def _area(boxes: Floats, rim: float = 0.0) -> Any:
    sides = boxes[..., 2:] - boxes[..., :2] + rim
    return sides[..., 0] * sides[..., 1]


def _shared(one: Floats, many: Floats, rim: float = 0.0) -> Any:
    """The areas that `one` shares with each of `many`."""
    sides = np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2]) + rim
    return np.clip(sides, 0, None).prod(axis=1)
