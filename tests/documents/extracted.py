"""The words of a PDF's page and where they are, by PDFium: a reader that knows nothing of who wrote the file."""

from __future__ import annotations

from typing import Any

import pypdfium2.raw as pdfium_c

Box = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the page as it is shown


def words(page: Any) -> list[tuple[str, Box]]:
    """What stands between spaces, in the order in which the file has it."""
    text_page = page.get_textpage()
    left, bottom, right, top = page.get_bbox()
    found: list[tuple[str, list[Box]]] = [("", [])]
    box = pdfium_c.FS_RECTF()
    for at in range(text_page.count_chars()):
        letter = text_page.get_text_range(at, 1)
        if not letter.strip():
            found.append(("", []))
            continue
        pdfium_c.FPDFText_GetLooseCharBox(text_page, at, box)
        text, boxes = found[-1]
        shares = (
            (box.left - left) / (right - left),
            (top - box.top) / (top - bottom),
            (box.right - left) / (right - left),
            (top - box.bottom) / (top - bottom),
        )
        found[-1] = (text + letter, [*boxes, shown(shares, page.get_rotation())])
    return [(text, hull(boxes)) for text, boxes in found if text]


def shown(box: Box, degrees: int) -> Box:
    """A box of a page after the page was turned clockwise."""
    left, top, right, bottom = box
    match degrees:
        case 90:
            return 1 - bottom, left, 1 - top, right
        case 180:
            return 1 - right, 1 - bottom, 1 - left, 1 - top
        case 270:
            return top, 1 - right, bottom, 1 - left
        case _:
            return box


def hull(boxes: list[Box]) -> Box:
    """The box around boxes."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def is_within(inner: Box, outer: Box, margin: float) -> bool:
    """Whether a box lies in another, give or take a margin."""
    return (
        inner[0] >= outer[0] - margin
        and inner[1] >= outer[1] - margin
        and inner[2] <= outer[2] + margin
        and inner[3] <= outer[3] + margin
    )
