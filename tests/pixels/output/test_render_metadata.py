"""Reading a stranger's EXIF and XMP: whatever the bytes, an answer and no exception."""

from __future__ import annotations

import pytest
import pyvips
from hypothesis import given
from hypothesis import strategies as st

from output.render.images import with_blob
from output.render.metadata import TEXT_MAX, Credit, credit_of, xmp_packet
from tests.pixels.output.render_pictures import CREATOR, RIGHTS, encoded, exif, photo, xmp

BLANK = pyvips.Image.black(8, 8, bands=3)
PNG = encoded(photo(8, 8))


def credit(exif_bytes: bytes = b"", xmp_bytes: bytes = b"") -> Credit:
    return credit_of(with_blob(with_blob(BLANK, "exif-data", exif_bytes), "xmp-data", xmp_bytes))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        pytest.param("© Jané", "© Jané", id="UTF-8"),
        pytest.param("photographer\0editor", "photographer", id="the editor after NUL is left out"),
        pytest.param(" \0editor", "editor", id="an empty photographer"),
        pytest.param("a\x07b", "ab", id="what XML forbids is dropped"),
        pytest.param("x" * 5000, "x" * TEXT_MAX, id="a novel is cut"),
    ],
)
def test_copyright_is_read_from_exif(written: str, read: str) -> None:
    assert credit(exif(rights=written)).rights == read


def test_latin_1_is_read_where_it_is_no_utf_8() -> None:
    assert credit(exif(rights="Jane").replace(b"Jane", b"Jan\xe9")).rights == "Jané"


def test_each_line_of_the_credit_comes_from_where_it_is_stated() -> None:
    assert credit(exif(), xmp("", "held")) == Credit((CREATOR,), "held")
    assert credit(exif(), b"<not xml") == Credit((CREATOR,), RIGHTS)


@pytest.mark.parametrize(
    "written",
    [Credit(("Ø < & >", "b"), 'c "quoted" ]]>'), Credit((), "© only rights"), Credit(("only a creator",))],
    ids=["both, with markup in them", "rights alone", "a creator alone"],
)
def test_a_packet_reads_back_as_written(written: Credit) -> None:
    assert credit(xmp_bytes=xmp_packet(written) or b"") == written


def test_no_credit_no_packet() -> None:
    assert xmp_packet(credit()) is None


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(max_size=80))
def test_no_bytes_make_the_reader_fail(noise: bytes, at: int, packet: bytes) -> None:
    whole = exif().removeprefix(b"Exif\0\0")
    broken = whole[:at] + noise + whole[at + len(noise) :]
    for data in (noise, b"II*\0" + noise, broken):
        credit(data, packet)
