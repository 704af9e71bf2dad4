"""Documents to send: PDFs and TIFFs of school papers whose text is known, and files that mean harm."""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pikepdf
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib.pagesizes import A4, A7
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from tests.documents import school
from tests.documents.school import Paper

GREY = 70  # of the table on which a page is photographed


@dataclass(frozen=True, slots=True)
class Scan:
    """A page that is a picture: a paper as it was worn."""

    paper: Paper
    wear: str = "scanned"


@dataclass(frozen=True, slots=True)
class Born:
    """A page that is text: each printed line where the paper has it, rules and all."""

    paper: Paper


@dataclass(frozen=True, slots=True)
class Blank:
    """A page with nothing on it."""


Page = Scan | Born | Blank


def pdf(pages: Sequence[Page]) -> bytes:
    """A PDF of these pages."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A4, invariant=True)
    for n, page in enumerate(pages):
        match page:
            case Scan(paper, wear):
                picture = ImageReader(io.BytesIO(school.worn(paper.pixels, n, school.WEAR[wear])))
                canvas.drawImage(picture, 0, 0, *A4)
            case Born(paper):
                _set(canvas, paper)
            case Blank():
                pass
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def slips(count: int, bytes_each: int) -> bytes:
    """A PDF of scanned slips of A7, each with its number: small to read, and as heavy as a scan of A4 is."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A7, invariant=True)
    face = ImageFont.load_default(size=24)
    for n in range(1, count + 1):
        page, picture = Image.new("L", (291, 413), 245), io.BytesIO()
        ImageDraw.Draw(page).text((30, 60), f"Slip number {n}\n\nTerm {n % 4 + 1}: present", 20, face)
        page.save(picture, "JPEG", quality=80)
        picture.write(random.Random(n).randbytes(bytes_each))  # behind the picture's end, where nobody looks
        picture.seek(0)
        canvas.drawImage(ImageReader(picture), 0, 0, *A7)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def _set(canvas: Canvas, paper: Paper) -> None:
    """Print the paper's lines as text. Pixels become points; a line's box tells its size and baseline."""
    height, width = paper.pixels.shape[:2]
    across, down = A4[0] / width, A4[1] / height
    for line in paper.lines:
        left, top, _, high = line.box
        size = 0.98 * high * down
        canvas.setFont("Helvetica", size)
        canvas.drawString(left * across, A4[1] - (top + high) * down + 0.2 * size, line.text)


def tiff(papers: Sequence[Paper]) -> bytes:
    """A TIFF with a page for each paper, in black and white as a fax or a copier makes them."""
    first, *rest = [
        Image.fromarray(paper.pixels).convert("L").point(lambda v: 255 * (v > 150), "1") for paper in papers
    ]
    out = io.BytesIO()
    first.save(out, "TIFF", save_all=True, append_images=rest, compression="group4", dpi=(200, 200))
    return out.getvalue()


def photograph(paper: Paper) -> bytes:
    """A JPEG of the page as it lies on a table, seen from a side."""
    height, width = paper.pixels.shape[:2]
    table = np.full((height + 600, width + 800, 3), GREY, np.uint8)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = np.array([[300, 200], [width + 150, 320], [width + 420, height + 350], [220, height + 250]], np.float32)
    view = cv2.getPerspectiveTransform(corners, seen)
    page = np.ascontiguousarray(paper.pixels[..., ::-1])
    cv2.warpPerspective(page, view, (width + 800, height + 600), dst=table, borderMode=cv2.BORDER_TRANSPARENT)
    done, data = cv2.imencode(".jpg", table, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    return data.tobytes()


# -- files that mean harm ------------------------------------------------------------------------


def locked(data: bytes) -> bytes:
    """The PDF behind a password."""
    return _saved(data, encryption=pikepdf.Encryption(owner="owner", user="secret"))


def of_many_pages(count: int) -> bytes:
    """A PDF of so many empty pages: each is twenty bytes of a compressed stream."""
    with pikepdf.new() as out:
        for _ in range(count):
            out.add_blank_page(page_size=(200, 200))
        written = io.BytesIO()
        out.save(written, object_stream_mode=pikepdf.ObjectStreamMode.generate)
        return written.getvalue()


def bomb() -> bytes:
    """A page whose content unfolds from some MB of zeros, three times over, to gigabytes of spaces."""
    with pikepdf.new() as out:
        page = out.add_blank_page(page_size=(200, 200))
        packed = b" " * (256 * 2**20)
        for _ in range(3):
            packed = zlib.compress(packed, 9)
        stream = pikepdf.Stream(out, b"")
        stream.write(packed, filter=pikepdf.Array([pikepdf.Name.FlateDecode] * 3))
        page.obj.Contents = pikepdf.Array([stream] * 40)
        written = io.BytesIO()
        out.save(written, compress_streams=False)
        return written.getvalue()


def huge_page() -> bytes:
    """A page of five by five metres: at 200 dots per inch, 1.6 gigapixels."""
    with pikepdf.new() as out:
        page = out.add_blank_page(page_size=(14400, 14400))
        page.obj.Contents = out.make_stream(b"0 0 m 14400 14400 l S")
        written = io.BytesIO()
        out.save(written)
        return written.getvalue()


def with_broken_page(data: bytes, number: int) -> bytes:
    """The PDF, where the object of this page (from 1) is none."""
    with pikepdf.open(io.BytesIO(data)) as out:
        kids = out.Root.Pages.Kids
        kids[number - 1] = out.make_indirect(pikepdf.Dictionary(Type=pikepdf.Name.Nothing))
        written = io.BytesIO()
        out.save(written)
        return written.getvalue()


def _saved(data: bytes, **how: object) -> bytes:
    with pikepdf.open(io.BytesIO(data)) as out:
        written = io.BytesIO()
        out.save(written, **how)  # type: ignore[arg-type]
        return written.getvalue()
