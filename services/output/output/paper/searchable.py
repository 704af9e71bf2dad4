"""A PDF in which everything that was read can be searched and selected.

A PDF that came in keeps its pages as they are: what was read lies on top of them, invisible, and pages with a sound
text layer get nothing. Of pictures a PDF is made whose pages are those pictures, their JPEG bytes passed through.
What a file would do by itself when it is opened (scripts, actions) is taken out.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pikepdf

from contracts.documents import ReadPage, Reason
from contracts.errors import error
from contracts.ocr import Page, Point
from output.paper import layer
from output.paper.layer import Place

DPI: Final = 200  # of pictures, as pages are drawn for OCR
A4: Final = (595, 842)
_INHERITED_MAX: Final = 50  # levels of the tree of pages: a circle ends
_ON_OPENING: Final = ("/OpenAction", "/AA")


def pdf(pages: Iterator[ReadPage], original: bytes | None, pictures: Mapping[int, bytes]) -> tuple[bytes, int]:
    """The PDF, and how many words were laid on it. Raises DOCUMENT_CORRUPT, DOCUMENT_ENCRYPTED."""
    try:
        return _laid_over(pages, original) if original is not None else _bound(pages, pictures)
    except pikepdf.PasswordError:
        raise error("DOCUMENT_ENCRYPTED") from None
    except (pikepdf.PdfError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        # Whatever trips over a file that PDFium could read. The library's words quote the file.
        raise error("DOCUMENT_CORRUPT", "The document can be read, but not be written to.") from None


def _laid_over(pages: Iterator[ReadPage], original: bytes) -> tuple[bytes, int]:
    with pikepdf.open(io.BytesIO(original)) as out:
        font, laid = None, 0
        for read in pages:
            if read.page is None or not read.page.blocks or read.why is Reason.TEXT or read.number > len(out.pages):
                continue
            page = out.pages[read.number - 1]
            content, words = layer.content(read.page, _on_page(page, read.page))
            font = font or layer.font(out)
            _with_font(page, font)
            page.contents_add(out.make_stream(b"q\n"), prepend=True)
            page.contents_add(out.make_stream(b"\nQ\n" + content))
            laid += words
        return _saved(out), laid


def _bound(pages: Iterator[ReadPage], pictures: Mapping[int, bytes]) -> tuple[bytes, int]:
    with pikepdf.new() as out:
        font, laid = layer.font(out), 0
        for read in pages:
            picture = pictures.get(read.number)
            if picture is None:
                out.add_blank_page(page_size=A4)
                continue
            width, height, colours = _jpeg_header(picture)
            points = 72 * width / DPI, 72 * height / DPI
            page = out.add_blank_page(page_size=points)
            shown = pikepdf.Stream(out, picture)
            shown.stream_dict = pikepdf.Dictionary(
                Type=pikepdf.Name.XObject,
                Subtype=pikepdf.Name.Image,
                Width=width,
                Height=height,
                ColorSpace=pikepdf.Name.DeviceGray if colours == 1 else pikepdf.Name.DeviceRGB,
                BitsPerComponent=8,
                Filter=pikepdf.Name.DCTDecode,
            )
            page.obj.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(Page=shown))
            content = b"q %.3f 0 0 %.3f 0 0 cm /Page Do Q\n" % points
            if read.page is not None:
                _with_font(page, font)
                text, words = layer.content(read.page, _on_page(page, read.page))
                content, laid = content + text, laid + words
            page.obj.Contents = out.make_stream(content)
        return _saved(out), laid


def _saved(out: pikepdf.Pdf) -> bytes:
    for key in _ON_OPENING:
        if key in out.Root:
            del out.Root[key]
    if "/Names" in out.Root and "/JavaScript" in out.Root.Names:
        del out.Root.Names["/JavaScript"]
    written = io.BytesIO()
    out.save(written, object_stream_mode=pikepdf.ObjectStreamMode.generate, deterministic_id=True, encryption=False)
    return written.getvalue()


def _with_font(page: pikepdf.Page, font: Any) -> None:
    """Name the font in the page's resources, which may be those of a page above it."""
    holder: Any = page.obj
    for _ in range(_INHERITED_MAX):
        if "/Resources" in holder or "/Parent" not in holder:
            break
        holder = holder.Parent
    resources = holder.Resources if "/Resources" in holder else pikepdf.Dictionary()
    if "/Font" not in resources:
        resources.Font = pikepdf.Dictionary()
    resources.Font[layer.FONT] = font
    if "/Resources" not in holder:
        page.obj.Resources = resources


def _on_page(page: pikepdf.Page, read: Page) -> Place:
    """From shares of the page as OCR turned it upright, to the points of the page as it lies in the file."""
    x0, y0, x1, y1 = (float(value) for value in _box(page))
    left, right, bottom, top = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    turned = int(_inherited(page, "/Rotate", 0)) % 360

    def place(point: Point) -> Point:
        x, y = unturned(*unturned(*point, read.rotation), turned)
        return left + x * (right - left), top - y * (top - bottom)

    return place


def unturned(x: float, y: float, degrees: int) -> Point:
    """Where a point lay, in shares, before the page was turned clockwise."""
    match degrees:
        case 90:
            return y, 1 - x
        case 180:
            return 1 - x, 1 - y
        case 270:
            return 1 - y, x
        case _:
            return x, y


def _box(page: pikepdf.Page) -> Any:
    """What is shown of the page: its crop box, as far as the media box reaches."""
    media = [float(value) for value in _inherited(page, "/MediaBox", [0, 0, 612, 792])]
    crop = [float(value) for value in _inherited(page, "/CropBox", media)]
    left, bottom = (
        max(min(media[0], media[2]), min(crop[0], crop[2])),
        max(min(media[1], media[3]), min(crop[1], crop[3])),
    )
    right, top = (
        min(max(media[0], media[2]), max(crop[0], crop[2])),
        min(max(media[1], media[3]), max(crop[1], crop[3])),
    )
    return (left, bottom, right, top) if right > left and top > bottom else tuple(media)


def _inherited(page: pikepdf.Page, key: str, otherwise: Any) -> Any:
    holder: Any = page.obj
    for _ in range(_INHERITED_MAX):
        if key in holder:
            return holder[key]
        if "/Parent" not in holder:
            break
        holder = holder.Parent
    return otherwise


def _jpeg_header(data: bytes) -> tuple[int, int, int]:
    """Width, height and number of colours, from the frame's header. Raises ValueError for what is no JPEG."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, colours = struct.unpack(">HHB", data[at + 5 : at + 10])
            return width, height, colours
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise ValueError("this is no JPEG")
