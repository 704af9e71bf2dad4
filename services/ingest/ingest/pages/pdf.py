"""PDF through PDFium: what each page holds, the words of its text layer, or its picture.

The file is opened anew for each page, since each page has its own child: a page that kills it kills only itself.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final

import cv2
import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from contracts.documents import PAGES_MAX, Reason, Sheet
from contracts.errors import error
from contracts.ocr import Page
from ingest.pages import Made, Rasterized, arrange, sheet, textlayer
from ingest.pages.arrange import Box, Word

DPI: Final = 200  # what OCR was measured at; a line of 8 points is 22 pixels high
SIDE_MAX: Final = 3508  # A4 at 300 dpi: what the engines read at most
OBJECTS_MAX: Final = 20_000  # of one page that are looked at
ENGINE: Final = "text-layer@1"
_PASSWORD: Final = pdfium_c.FPDF_ERR_PASSWORD
_INVISIBLE: Final = pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE


def inspect(data: bytes) -> list[Sheet]:
    """How each page is read. Raises DOCUMENT_ENCRYPTED, DOCUMENT_CORRUPT, DOCUMENT_TOO_LONG."""
    with _opened(data) as document:
        count = len(document)
        if count < 1:
            raise error("DOCUMENT_CORRUPT", "It has no pages.")
        if count > PAGES_MAX:
            raise error("DOCUMENT_TOO_LONG", f"It has {count} pages; at most {PAGES_MAX} are accepted.")
        return [sheet(at + 1, _reason(document, at)) for at in range(count)]


def rasterize(data: bytes, number: int, why: Reason) -> Rasterized:
    """The page of this number: read, where its text layer is sound, else drawn. Raises PAGE_UNREADABLE."""
    with _opened(data) as document, _page(document, number - 1) as page:
        if why.needs_ocr:
            return _drawn(page)
        return _read(page) if why is Reason.TEXT else _told(_empty(page))


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as problem:
        # PDFium's message says no more than its number does.
        raise error("DOCUMENT_ENCRYPTED" if problem.err_code == _PASSWORD else "DOCUMENT_CORRUPT") from None
    try:
        with contextlib.suppress(pdfium.PdfiumError):  # a broken form is no reason to refuse a page
            document.init_forms()
        yield document
    finally:
        document.close()


@contextlib.contextmanager
def _page(document: Any, at: int) -> Iterator[Any]:
    try:
        page = document[at]
    except (pdfium.PdfiumError, IndexError):
        raise error("PAGE_UNREADABLE") from None
    try:
        yield page
    finally:
        page.close()


# -- what a page holds ---------------------------------------------------------------------------


def _reason(document: Any, at: int) -> Reason:
    try:
        page = document[at]
    except pdfium.PdfiumError:
        return Reason.UNREADABLE
    try:
        return textlayer.judge(_layer(page))
    except pdfium.PdfiumError:
        return Reason.UNREADABLE
    finally:
        page.close()


def _layer(page: Any) -> textlayer.Layer:
    text_page = page.get_textpage()
    count = text_page.count_chars()
    if count > textlayer.CHARACTERS_MAX:
        return textlayer.Layer(" " * (textlayer.CHARACTERS_MAX + 1))
    text = text_page.get_text_range(0, count, errors="replace") if count else ""
    unmapped = sum(pdfium_c.FPDFText_HasUnicodeMapError(text_page, at) == 1 for at in range(count))
    texts = hidden = 0
    covered, drawn = 0.0, False
    whole = _area(page.get_bbox())
    for n, thing in enumerate(page.get_objects()):
        if n >= OBJECTS_MAX:
            break
        if thing.type == pdfium_c.FPDF_PAGEOBJ_TEXT:
            texts += 1
            hidden += pdfium_c.FPDFTextObj_GetTextRenderMode(thing) == _INVISIBLE
            continue
        drawn = True
        if thing.type == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            covered += _area(thing.get_bounds()) / max(whole, 1.0)
    return textlayer.Layer(text, unmapped, hidden / max(texts, 1), covered, drawn, _fields(page))


def _fields(page: Any) -> int:
    found = 0
    for at in range(min(pdfium_c.FPDFPage_GetAnnotCount(page), OBJECTS_MAX)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, at)
        if annotation:
            found += pdfium_c.FPDFAnnot_GetSubtype(annotation) == pdfium_c.FPDF_ANNOT_WIDGET
            pdfium_c.FPDFPage_CloseAnnot(annotation)
    return found


def _area(bounds: tuple[float, float, float, float]) -> float:
    left, bottom, right, top = bounds
    return max(0.0, right - left) * max(0.0, top - bottom)


# -- its picture ---------------------------------------------------------------------------------


def _drawn(page: Any) -> Rasterized:
    width, height = page.get_size()
    if width < 1 or height < 1:
        raise error("PAGE_UNREADABLE", "It has no size.")
    scale = min(DPI / 72, SIDE_MAX / max(width, height))
    try:
        pixels = page.render(scale=scale, fill_color=(255, 255, 255, 255), rev_byteorder=False).to_numpy()
    except pdfium.PdfiumError:
        raise error("PAGE_UNREADABLE") from None
    pixels = np.ascontiguousarray(pixels[..., :3] if pixels.ndim == 3 else pixels)
    data = jpeg(pixels)
    made = Made("image.jpg", data, "image/jpeg", pixels.shape[1], pixels.shape[0])
    return Rasterized([made], {"width": pixels.shape[1], "height": pixels.shape[0], "dpi": round(72 * scale)})


def jpeg(pixels: np.ndarray[Any, Any]) -> bytes:
    """BGR or grey pixels as a JPEG; a page without colour costs no colour."""
    if pixels.ndim == 3 and int(np.ptp(pixels[::4, ::4].astype(np.int16), axis=2).max(initial=0)) <= 12:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not done:
        raise error("PAGE_UNREADABLE", "It cannot be written as a picture.")
    return data.tobytes()


# -- its words -----------------------------------------------------------------------------------


def _read(page: Any) -> Rasterized:
    width, height = page.get_size()
    shown = _Shown(page)
    rules = [
        shown.box(thing.get_bounds())
        for n, thing in enumerate(page.get_objects([pdfium_c.FPDF_PAGEOBJ_PATH]))
        if n < OBJECTS_MAX
    ]
    blocks = arrange.blocks(list(_words(page, shown)), rules, width, height)
    return _told(_empty(page).model_copy(update={"blocks": blocks}))


def _empty(page: Any) -> Page:
    width, height = page.get_size()
    scale = DPI / 72
    return Page(engine=ENGINE, width=max(1, math.ceil(width * scale)), height=max(1, math.ceil(height * scale)))


def _told(page: Page) -> Rasterized:
    from contracts import ocr_text

    words = sum(len(line.words) for block in page.blocks for line in block.lines)
    return Rasterized(
        [
            Made("ocr.json", page.model_dump_json(exclude_none=True).encode(), "application/json"),
            Made("page.md", ocr_text.markdown(page).encode(), "text/markdown"),
        ],
        {"width": page.width, "height": page.height, "words": words, "blocks": len(page.blocks)},
    )


class _Shown:
    """From the page's own points, y up, to points of the page as it is shown, y down."""

    def __init__(self, page: Any) -> None:
        self._left, self._bottom, self._right, self._top = page.get_bbox()
        self._turned = page.get_rotation()

    def box(self, bounds: tuple[float, float, float, float]) -> Box:
        left, bottom, right, top = bounds
        x0, x1 = left - self._left, right - self._left
        y0, y1 = self._top - top, self._top - bottom
        width, height = self._right - self._left, self._top - self._bottom
        match self._turned:
            case 90:
                return height - y1, x0, height - y0, x1
            case 180:
                return width - x1, height - y1, width - x0, height - y0
            case 270:
                return y0, width - x1, y1, width - x0
            case _:
                return x0, y0, x1, y1


def _words(page: Any, shown: _Shown) -> Iterator[Word]:
    """What stands between spaces, with the box around its letters. What lies beside the page is not on it."""
    text_page = page.get_textpage()
    box = pdfium_c.FS_RECTF()
    letters: list[str] = []
    bounds: list[float] = []

    def done() -> Iterator[Word]:
        if letters and bounds[2] > bounds[0] and bounds[3] > bounds[1]:
            yield Word("".join(letters), shown.box((bounds[0], bounds[1], bounds[2], bounds[3])))
        letters.clear()
        bounds.clear()

    for at in range(text_page.count_chars()):
        code = pdfium_c.FPDFText_GetUnicode(text_page, at)
        letter = chr(code) if code and code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else ""
        if not letter or letter.isspace():
            yield from done()
            continue
        if not pdfium_c.FPDFText_GetLooseCharBox(text_page, at, box):
            continue
        mine = [box.left, box.bottom, box.right, box.top]
        if bounds and (mine[0] - bounds[2] > mine[3] - mine[1] or bounds[1] > mine[3] or mine[1] > bounds[3]):
            yield from done()  # far off, or another line, though no space says so
        letters.append(letter)
        bounds[:] = (
            [min(bounds[0], mine[0]), min(bounds[1], mine[1]), max(bounds[2], mine[2]), max(bounds[3], mine[3])]
            if bounds
            else mine
        )
    yield from done()
