"""Given the first bytes of a file, when it is uploaded as a photo, then ..."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from zipfile import ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ERRORS
from ingest.analysis.decode import LOADERS
from ingest.analysis.formats import decodable
from ingest.intake import (
    CUBE,
    CUBE_BYTES_MAX,
    DECODABLE,
    ENVELOPE_BYTES,
    HEAD_BYTES,
    PDF,
    PDF_BYTES_MAX,
    SMALLEST_HEADER,
    ZIP,
    Accepted,
    Refused,
    judge_head,
    judge_length,
    judge_size,
    sniff,
)
from ingest.signatures import ARW, CR2, CR3, DNG, HEIC, NEF, ORF, RAF, RAW, RW2
from tests.pixels.ingest.pictures import image, photo
from tests.pixels.ingest.raw import dng

SMALL = image(photo("china.jpg")).resize(0.1)
JPEG = SMALL.jpegsave_buffer()
PNG = SMALL.pngsave_buffer()
WEBP = SMALL.webpsave_buffer()
TIFF = SMALL.tiffsave_buffer()
AVIF = SMALL.heifsave_buffer(compression="av1", effort=0)


def tiff_of(make: str, reduced: int, order: str = "<") -> bytes:
    """The first directory of a TIFF: whether its first picture is a reduced one, its maker, and a picture below."""
    text = make.encode() + b"\0"
    entries = [
        (0x00FE, 4, 1, struct.pack(order + "I", reduced)),
        (0x010F, 2, len(text), None),
        (0x014A, 4, 1, bytes(4)),
    ]
    after = 8 + 2 + 12 * len(entries) + 4
    rows = [
        struct.pack(order + "HHI", tag, kind, count) + (value or struct.pack(order + "I", after))
        for tag, kind, count, value in entries
    ]
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join([magic, struct.pack(order + "IH", 8, len(entries)), *rows, bytes(4), text, bytes(50)])


def zipped(name: str = "before/1.jpg") -> bytes:
    file = BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr(name, "nothing")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        pytest.param(JPEG, "image/jpeg", id="a JPEG is taken"),
        pytest.param(PNG, "image/png", id="a PNG is taken"),
        pytest.param(WEBP, "image/webp", id="a WebP is taken"),
        pytest.param(TIFF, "image/tiff", id="a TIFF is taken"),
        pytest.param(AVIF, "image/avif", id="an AVIF is taken"),
        pytest.param(
            b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf" + b"\0" * 50, "image/avif", id="an AVIF of brand mif1 is taken"
        ),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50, HEIC, id="a HEIC"),
        pytest.param(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heixmiaf" + b"\0" * 50, HEIC, id="a HEIC of brand mif1"),
        pytest.param(b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 99, CR2, id="a CR2"),
        pytest.param(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + b"\0" * 50, CR3, id="a CR3"),
        pytest.param(b"FUJIFILMCCD-RAW 0201" + b"\0" * 99, RAF, id="a RAF"),
        pytest.param(b"IIU\0\x18\0\0\0" + b"\0" * 99, RW2, id="an RW2"),
        pytest.param(b"IIRO\x08\0\0\0" + b"\0" * 99, ORF, id="an ORF"),
        pytest.param(dng(), DNG, id="a DNG"),
        pytest.param(tiff_of("NIKON CORPORATION", reduced=1), NEF, id="a NEF"),
        pytest.param(tiff_of("SONY", reduced=1, order=">"), ARW, id="an ARW"),
        pytest.param(tiff_of("NIKON CORPORATION", reduced=0), "image/tiff", id="a finished TIFF of a camera's maker"),
        pytest.param(tiff_of("Acme", reduced=1), "image/tiff", id="a TIFF of somebody else"),
        pytest.param(zipped(), ZIP, id="a ZIP of pairs is taken"),
        pytest.param(b'TITLE "x"\nLUT_3D_SIZE 2\n', CUBE, id="a LUT is taken"),
        pytest.param(b"\xef\xbb\xbf\r\n# made by hand\r\nLUT_3D_SIZE 2\r\n", CUBE, id="a LUT from Windows is taken"),
    ],
)
def test_a_file_is_known_by_its_content(data: bytes, media_type: str) -> None:
    assert judge_head(data[:HEAD_BYTES]) == Accepted(media_type)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "UPLOAD_EMPTY", id="zero bytes"),
        pytest.param(b"Dear photo,\nI am a text named .jpg.\n" * 20, "MEDIA_TYPE_UNSUPPORTED", id="a text named .jpg"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "MEDIA_TYPE_UNSUPPORTED", id="an SVG"),
        pytest.param(b'<?xml version="1.0"?><svg/>', "MEDIA_TYPE_UNSUPPORTED", id="an SVG behind an XML declaration"),
        pytest.param(zipped()[:29], "MEDIA_TYPE_UNSUPPORTED", id="a ZIP without a whole header"),
        pytest.param(b"PK\5\6" + b"\0" * 18, "MEDIA_TYPE_UNSUPPORTED", id="a ZIP with nothing in it"),
        pytest.param(zipped("word/document.xml"), "MEDIA_TYPE_UNSUPPORTED", id="an office document"),
        pytest.param(b"LUT_3D_SIZE 2\0", "MEDIA_TYPE_UNSUPPORTED", id="a LUT that is no text"),
        pytest.param(b"0 0 0\n" * 8, "MEDIA_TYPE_UNSUPPORTED", id="rows of a LUT without its header"),
        pytest.param(b"%PDF-1.7\n" + b" " * 20, "MEDIA_TYPE_UNSUPPORTED", id="a PDF too short to be one"),
        pytest.param(b"\n%PDF-1.7\n" + b" " * 99, "MEDIA_TYPE_UNSUPPORTED", id="a PDF that does not begin as one"),
        pytest.param(SMALL.gifsave_buffer(), "MEDIA_TYPE_UNSUPPORTED", id="a GIF"),
        pytest.param(b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc" + b"\0" * 50, "MEDIA_TYPE_UNSUPPORTED", id="a film"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf" + b"\0" * 50, "MEDIA_TYPE_UNSUPPORTED", id="neither"),
        pytest.param(zlib.compress(PNG), "MEDIA_TYPE_UNSUPPORTED", id="a compressed PNG"),
        pytest.param(b"\0" * HEAD_BYTES, "MEDIA_TYPE_UNSUPPORTED", id="zeros"),
        *(
            pytest.param(data[:keep], "MEDIA_TYPE_UNSUPPORTED", id=f"{name} cut after {keep} bytes")
            for name, data in (("JPEG", JPEG), ("PNG", PNG), ("WebP", WEBP), ("TIFF", TIFF), ("AVIF", AVIF))
            for keep in (1, 4, 12, 19)
        ),
    ],
)
def test_what_is_no_photo_is_refused(data: bytes, code: str) -> None:
    verdict = judge_head(data[:HEAD_BYTES])
    assert isinstance(verdict, Refused)
    assert verdict.code == code


@pytest.mark.parametrize(
    ("content_length", "refused"),
    [
        pytest.param(None, False, id="a chunked request goes on and is counted"),
        pytest.param(100, False, id="a short one goes on"),
        pytest.param(1000 + ENVELOPE_BYTES, False, id="the largest file in its envelope goes on"),
        pytest.param(1001 + ENVELOPE_BYTES, True, id="a byte more is refused unread"),
        pytest.param(2**30, True, id="a declared gigabyte is refused unread"),
    ],
)
def test_a_declared_length_is_judged_before_any_byte(content_length: int | None, refused: bool) -> None:
    verdict = judge_length(content_length, bytes_max=1000)
    assert (verdict is not None) == refused
    assert verdict is None or verdict.code == "UPLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("size", "complete", "code"),
    [
        pytest.param(0, False, None, id="nothing has come yet"),
        pytest.param(0, True, "UPLOAD_EMPTY", id="nothing came"),
        pytest.param(1000, True, None, id="exactly the limit"),
        pytest.param(1001, False, "UPLOAD_TOO_LARGE", id="over the limit while it streams"),
    ],
)
def test_bytes_are_counted_while_they_come(size: int, complete: bool, code: str | None) -> None:
    verdict = judge_size(size, 1000, complete=complete)
    assert (verdict.code if verdict else None) == code


def test_a_look_may_be_no_larger_than_looks_are() -> None:
    assert judge_size(CUBE_BYTES_MAX, 2**30, CUBE, complete=True) is None
    for media_type, refused in ((CUBE, True), (ZIP, False), (None, False)):
        verdict = judge_size(CUBE_BYTES_MAX + 1, 2**30, media_type, complete=False)
        assert (verdict is not None) == refused


def test_a_document_may_be_no_larger_than_memory_holds() -> None:
    assert judge_size(PDF_BYTES_MAX, 2**30, PDF, complete=True) is None
    refused = judge_size(PDF_BYTES_MAX + 1, 2**30, PDF, complete=False)
    assert refused is not None
    assert refused.code == "UPLOAD_TOO_LARGE"


def test_every_accepted_type_decodes_here() -> None:
    assert {kind for kind, works in decodable().items() if works} == DECODABLE == set(LOADERS) | RAW
    assert set(SMALLEST_HEADER) == DECODABLE - RAW | {ZIP, PDF}


@given(st.binary(max_size=200), st.sampled_from([b"II*\0", b"MM\0*", b"\0\0\0\x20ftyp", b"IIRO", b""]))
def test_whatever_the_bytes_there_is_an_answer(tail: bytes, head: bytes) -> None:
    assert sniff(head + tail) in {None, *DECODABLE, ZIP, PDF, CUBE} or not head


def test_refusals_are_rows_of_the_taxonomy_that_the_caller_can_mend() -> None:
    for verdict in (judge_head(b""), judge_head(b"text"), judge_length(2**40, 1)):
        assert isinstance(verdict, Refused)
        assert 400 <= ERRORS[verdict.code].status < 500


def test_a_name_is_never_looked_at() -> None:
    assert sniff(b"photo.jpg image/jpeg") is None
