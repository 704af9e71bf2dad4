"""Which way up a page is: on its side when its lines stand, on its head when its longest lines say so.

Whether a line stands on its head is asked of the small model that ships for that. It errs on pages of short words:
so the page is turned to try, and stays turned only when its longest lines are read with more confidence than before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import cv2
import numpy as np

from gpu_functions.ocr.lines import Floats, Found
from gpu_functions.ocr.scan import Scan
from gpu_functions.ocr.shipped import LINE_HEIGHT

ON_END: Final = 1.5  # a box that is higher than wide by this much holds text that runs down the page, or one letter
ASKED: Final = 12  # lines that are asked whether they stand on their head
RATIO_MAX: Final = 60.0  # of a line's length to its height: a longer one is squeezed, and memory stays bounded

Look = Callable[[Scan], list[Found]]  # where text is on a page
Sure = Callable[[Scan, list[Found]], float]  # the mean confidence with which these lines are read


class Upright:
    """Turns pages. `pixels` are BGR, as the models were trained."""

    def __init__(self, config: Any) -> None:
        """Load the model. `config` is `shipped.config()`."""
        from rapidocr.ch_ppocr_cls import TextClassifier

        self._judge = TextClassifier(config.Cls)

    def turned(self, pixels: Scan, look: Look, sure: Sure) -> tuple[Scan, list[Found], int]:
        """The page upright, what `look` finds on it, and by how many degrees clockwise it was turned."""
        found, rotation = look(pixels), 0
        if _stand(found):
            pixels, rotation = np.ascontiguousarray(np.rot90(pixels, -1)), 90
            found = look(pixels)
        if self._on_its_head(pixels, found):
            other = np.ascontiguousarray(np.rot90(pixels, 2))
            seen = look(other)
            if sure(other, longest(seen)) > sure(pixels, longest(found)):
                pixels, found, rotation = other, seen, rotation + 180
        return pixels, found, rotation

    def _on_its_head(self, pixels: Scan, found: Sequence[Found]) -> bool:
        if not found:
            return False
        answers = self._judge([strip(pixels, line.quad) for line in longest(found)]).cls_res or ()
        return sum((score if label == "180" else -score) for label, score in answers) > 0


def longest(found: Sequence[Found]) -> list[Found]:
    """The lines that are asked for all."""
    return sorted(found, key=lambda line: -line.size[0])[:ASKED]


def directed(quads: Sequence[Floats]) -> list[Floats]:
    """The quads, each begun where its text begins. A box on end that is no higher than other lines is one letter."""
    if not quads:
        return []
    high = float(np.median([min(Found(quad).size) for quad in quads]))
    return [np.roll(quad, -1, axis=0) if _is_on_end(quad, high) else quad for quad in quads]


def strip(pixels: Scan, quad: Floats) -> Scan:
    """The line cut out and laid straight, no longer than a model may be given."""
    length, height = Found(quad).size
    high = max(1, min(round(height), 4 * LINE_HEIGHT))
    wide = max(1, round(high * min(length / max(height, 1.0), RATIO_MAX)))
    corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
    lay = cv2.getPerspectiveTransform(quad.astype(np.float32), corners)
    flat = cv2.warpPerspective(pixels, lay, (wide, high), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(flat, np.uint8)


def _is_on_end(quad: Floats, high: float) -> bool:
    length, height = Found(quad).size
    return height >= ON_END * length and height > 2 * high


def _stand(found: Sequence[Found]) -> bool:
    """Whether most of the page's text, by its length, runs down or up the page."""
    along = [np.abs(line.quad[1] - line.quad[0]) for line in found]
    lengths = [line.size[0] for line in found]
    return sum(length for (x, y), length in zip(along, lengths, strict=True) if y > x) > 0.5 * sum(lengths)
