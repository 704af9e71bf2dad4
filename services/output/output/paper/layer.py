"""What was read on a page -> the content of a PDF page that shows nothing and says all of it. Pure.

Each word is written in render mode 3 (PDF 32000-1, 9.3.6: neither filled nor stroked) in a font whose glyphs are
empty boxes half as wide as they are high. Its text matrix maps that box onto the word's quad, whatever way it lies,
so that what is selected is what is seen. Between two words of a line stands a space that reaches from one to the next.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Final

import pikepdf

from contracts.ocr import Block, Box, Page, Point, Quad

FONT: Final = "/SafelightGlyphless"
ADVANCE: Final = 0.5  # of the height
SPACE_MIN: Final = 0.1  # of the height: less is no gap that an extractor would see
# A TrueType font of one glyph, made with fontTools' FontBuilder: 320 bytes. Its contour goes along the diagonal and
# back: it has no area that could be painted, but a box, without which PDFium drops words of one letter.
_FILE: Final = b64decode(
    "AAEAAAAHAEAAAgAwY21hcAAMAEYAAAD8AAAALGdseWYF3TbeAAABLAAAABRoZWFkYQpEyAAAAHwAAAA2aGhlYQXdAfYAAAC0AAAAJGhtdHgB9AAA"
    "AAAA+AAAAARsb2NhAAAACgAAASgAAAAEbWF4cAADAAQAAADYAAAAIAABAAAAAQAA9jG6dF8PPPUAAwPoAAAAAAAAAAAAAAAAAAAAAAAAAAAB9APo"
    "AAAAAwACAAAAAAAAAAEAAAPoAAAAAAH0AAAAAAH0AAEAAAAAAAAAAAAAAAAAAAABAAEAAAABAAIAAQAAAAAAAgAAAAAAAAAAAAAAAAAAAAAB9AAA"
    "AAAAAgAAAAMAAAAUAAMAAQAAABQABAAYAAAAAgACAAAAAP//AAD//wABAAAAAAAKAAEAAAAAAfQD6AABAAAxAQH0A+g="
)
_UNSEEN: Final = dict.fromkeys((*range(32), *range(127, 160), 65534, 65535))

Place = Callable[[Point], Point]  # from shares of the upright page, y down, to the points of a PDF page, y up


def content(page: Page, place: Place) -> tuple[bytes, int]:
    """The content of the page's invisible text, and how many words are in it."""
    parts, words = [b"q BT 3 Tr %s 1 Tf\n" % FONT.encode()], 0
    for block in page.blocks:
        for run in _runs(block):
            before: Quad | None = None
            for text, quad in run:
                if before is not None:
                    parts.append(_shown(" ", _between(before, quad), place))
                parts.append(_shown(text, quad, place))
                before = quad
                words += 1
    parts.append(b"ET Q\n")
    return b"".join(parts), words


def font(pdf: pikepdf.Pdf) -> pikepdf.Object:
    """The font, as an object of this PDF. Its codes are UTF-16."""
    descriptor = pikepdf.Dictionary(
        Type=pikepdf.Name.FontDescriptor,
        FontName=pikepdf.Name.Glyphless,
        Flags=5,
        FontBBox=[0, 0, 500, 1000],
        ItalicAngle=0,
        Ascent=1000,
        Descent=0,
        CapHeight=1000,
        StemV=80,
        FontFile2=pdf.make_stream(_FILE, Length1=len(_FILE)),
    )
    descendant = pikepdf.Dictionary(
        Type=pikepdf.Name.Font,
        Subtype=pikepdf.Name.CIDFontType2,
        BaseFont=pikepdf.Name.Glyphless,
        CIDSystemInfo=pikepdf.Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0),
        CIDToGIDMap=pdf.make_stream(bytes(2 * 65536)),
        DW=round(1000 * ADVANCE),
        FontDescriptor=pdf.make_indirect(descriptor),
    )
    return pdf.make_indirect(
        pikepdf.Dictionary(
            Type=pikepdf.Name.Font,
            Subtype=pikepdf.Name.Type0,
            BaseFont=pikepdf.Name.Glyphless,
            Encoding=pikepdf.Name("/Identity-H"),
            DescendantFonts=[pdf.make_indirect(descendant)],
            ToUnicode=pdf.make_stream(_to_unicode()),
        )
    )


def _to_unicode() -> bytes:
    rows = [f"<{high:02X}00> <{high:02X}FF> <{high:02X}00>" for high in range(256)]
    ranges = "\n".join(
        f"{len(some)} beginbfrange\n" + "\n".join(some) + "\nendbfrange"
        for some in (rows[:100], rows[100:200], rows[200:])
    )
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n"
        "/CMapName /Adobe-Identity-UCS def /CMapType 2 def\n"
        "1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
        f"{ranges}\nendcmap CMapName currentdict /CMap defineresource pop end end\n"
    ).encode()


def _shown(text: str, quad: Quad, place: Place) -> bytes:
    # A code is two bytes: what lies beyond the basic plane (emoji, old scripts) is told as a letter that is not known.
    seen = "".join(one if ord(one) < 0x10000 else "\ufffd" for one in text.translate(_UNSEEN))
    codes = seen.encode("utf-16-be", "replace")
    (x, y), (right, down), (left, up) = place(quad[3]), place(quad[2]), place(quad[0])
    if not codes or (x, y) == (right, down):
        return b""
    across = ADVANCE * len(codes) / 2
    matrix = (right - x) / across, (down - y) / across, left - x, up - y, x, y
    return b"%s Tm <%s> Tj\n" % (" ".join(f"{value:.4f}" for value in matrix).encode(), codes.hex().encode())


def _between(before: Quad, after: Quad) -> Quad:
    """Where a space stands: from one word to the next, and over the end of the first where they touch."""
    (x, y), (x_, y_) = before[2], after[3]
    high = math.hypot(before[3][0] - before[0][0], before[3][1] - before[0][1])
    if math.hypot(x_ - x, y_ - y) > SPACE_MIN * high:
        return before[1], after[0], after[3], before[2]
    share = 1 - min(0.3, 0.3 / max(1.0, (before[2][0] - before[3][0]) / max(high, 1e-6)))
    return _along(before[0], before[1], share), after[0], after[3], _along(before[3], before[2], share)


def _along(one: Point, other: Point, share: float) -> Point:
    return one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])


# -- words with places -------------------------------------------------------------------------

Run = list[tuple[str, Quad]]


def _runs(block: Block) -> Iterator[Run]:
    """The words of each line with their quads; where an engine tells no place, as if lines were evenly apart."""
    if not block.lines:
        for cell in block.cells:
            yield from _unplaced(cell.text.splitlines(), cell.box or block.box)
        return
    unplaced = [line for line in block.lines if line.quad is None and not line.words]
    for line in block.lines:
        if line.words:
            yield [(word.text, word.quad) for word in line.words if word.text]
        elif line.quad is not None and line.text:
            yield [(line.text, line.quad)]
    if unplaced:
        yield from _unplaced([line.text for line in unplaced], block.box)


def _unplaced(lines: list[str], box: Box) -> Iterator[Run]:
    left, top, width, height = box
    for n, text in enumerate(lines):
        y, y_ = top + height * n / len(lines), top + height * (n + 1) / len(lines)
        if text.strip():
            yield [(text.strip(), ((left, y), (left + width, y), (left + width, y_), (left, y_)))]
