"""Given the first bytes of a file, when it is uploaded as a photo, then ..."""

from __future__ import annotations

import zlib
from io import BytesIO
from zipfile import ZipFile

import pytest

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
from tests.pixels.ingest.pictures import image, photo

SMALL = image(photo("china.jpg")).resize(0.1)
JPEG = SMALL.jpegsave_buffer()
PNG = SMALL.pngsave_buffer()
WEBP = SMALL.webpsave_buffer()
TIFF = SMALL.tiffsave_buffer()
AVIF = SMALL.heifsave_buffer(compression="av1", effort=0)


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
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50, "MEDIA_TYPE_UNSUPPORTED", id="a HEIC"),
        pytest.param(b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 99, "MEDIA_TYPE_UNSUPPORTED", id="a camera RAW of TIFF kind"),
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


def test_every_accepted_type_decodes_here_and_heic_does_not() -> None:
    answer = decodable()
    assert {kind for kind, works in answer.items() if works} == DECODABLE == set(LOADERS)
    assert set(SMALLEST_HEADER) == DECODABLE | {ZIP, PDF}
    assert answer["image/heic"] is False, "libvips learned HEIC: accept it and take this line away"


def test_refusals_are_rows_of_the_taxonomy_that_the_caller_can_mend() -> None:
    for verdict in (judge_head(b""), judge_head(b"text"), judge_length(2**40, 1)):
        assert isinstance(verdict, Refused)
        assert 400 <= ERRORS[verdict.code].status < 500


def test_a_name_is_never_looked_at() -> None:
    assert sniff(b"photo.jpg image/jpeg") is None
