"""HEIC and camera RAW become a PNG that every later phase reads, and nothing of where and with what goes along."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from contracts.errors import SafelightError
from ingest.analysis import analyze, analyzed
from output.render.metadata import credit_in
from output.render.variants import variants
from tests.pixels.ingest.pictures import image, jpeg, photo, png
from tests.pixels.ingest.raw import CREATOR, HEIC, HEIC_DEEP, RIGHTS, SERIAL, dng


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def test_a_heic_is_developed_upright_with_its_profile() -> None:
    seen = analyzed(HEIC)
    image = opened(seen.image)
    assert (image.format, image.size) == ("PNG", (48, 64)) == ("PNG", (seen.width, seen.height))
    facts = seen.facts
    assert (facts["media_type"], facts["width"], facts["height"], facts["bit_depth"]) == ("image/heic", 48, 64, 8)
    assert (facts["color_profile"], facts["camera"], facts["captured_at"]) == (
        "Display P3",
        "Acme One",
        "2024-05-06T07:08:09",
    )
    assert len(image.info["icc_profile"]) == 480
    # Stored is red growing to the right and green downwards; turned by a quarter clockwise, red grows downwards.
    pixels = np.asarray(image).astype(int)
    assert pixels[60, 24, 0] - pixels[4, 24, 0] > 150
    assert pixels[32, 4, 1] - pixels[32, 44, 1] > 100


def test_ten_bits_of_a_heic_stay() -> None:
    seen = analyzed(HEIC_DEEP)
    assert seen.facts["bit_depth"] == 16
    assert (seen.image or b"")[24] == 16, "the bit depth of PNG's header"


@pytest.mark.parametrize(("orientation", "size"), [(1, (96, 64)), (6, (64, 96)), (3, (96, 64))])
def test_a_raw_is_developed_in_16_bit_and_upright(orientation: int, size: tuple[int, int]) -> None:
    seen = analyzed(dng(orientation=orientation))
    assert (seen.facts["media_type"], seen.facts["camera"]) == ("image/x-adobe-dng", "Acme Raw")
    assert (seen.facts["width"], seen.facts["height"]) == (seen.width, seen.height) == size
    assert (seen.image or b"")[24] == 16
    pixels = np.asarray(opened(seen.image).convert("RGB")).astype(int)
    if orientation == 6:  # the left side, red, is up now
        red, blue = pixels[10, 32], pixels[-10, 32]
    else:
        red, blue = (pixels[32, 10], pixels[32, -10])[:: 1 if orientation == 1 else -1]
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60


@pytest.mark.parametrize("data", [HEIC, dng()], ids=["HEIC", "RAW"])
def test_nothing_but_the_credit_of_the_original_goes_on(data: bytes) -> None:
    seen = analyzed(data)
    assert (credit_in(data).creators, credit_in(data).rights) == ((CREATOR,), RIGHTS)
    for made in [seen.image or b"", *(one.data or b"" for one in variants(seen.image or b"", data))]:
        assert SERIAL.encode() not in made
        assert b"Acme" not in made
    assert all(RIGHTS.encode() in (one.data or b"") for one in variants(seen.image or b"", data))
    assert SERIAL not in str(seen.facts)


def test_what_every_room_can_read_is_left_as_it_is() -> None:
    assert analyzed(png(photo("china.jpg"))).image is None


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.heic", HEIC)
    return file.getvalue()


def animated(frames: int) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", (8, 8), (n % 256, 0, n * 7 % 256)) for n in range(frames)]
    pictures[0].save(file, "WEBP", save_all=True, append_images=pictures[1:], duration=10)
    return file.getvalue()


def claiming(data: bytes, side: int) -> bytes:
    """A HEIF whose boxes say that its picture has `side` x `side` pixels (`ispe`, ISO/IEC 23008-12, 6.5.3)."""
    parts = data.split(b"ispe")
    return b"ispe".join([parts[0], *(part[:4] + side.to_bytes(4, "big") * 2 + part[12:] for part in parts[1:])])


AVIF = image(photo("china.jpg")).resize(0.1).heifsave_buffer(compression="av1", effort=0)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(zipped(), "MEDIA_TYPE_UNSUPPORTED", id="a ZIP called .heic"),
        pytest.param(b"GIF89a" + dng(), "MEDIA_TYPE_UNSUPPORTED", id="a GIF that goes on as a RAW"),
        pytest.param(HEIC[:40] + b"\0" * 99, "IMAGE_CORRUPT", id="a HEIC of a header"),
        *(pytest.param(HEIC[: int(len(HEIC) * k)], "IMAGE_CORRUPT", id=f"a HEIC cut at {k:.0%}") for k in (0.3, 0.9)),
        pytest.param(HEIC[:900] + b"\xff" * 300 + HEIC[1200:], "IMAGE_CORRUPT", id="a HEIC with foreign bytes inside"),
        *(pytest.param(dng()[: int(len(dng()) * k)], "IMAGE_CORRUPT", id=f"a RAW cut at {k:.0%}") for k in (0.3, 0.9)),
        pytest.param(dng(claims=(60_000, 60_000)), "IMAGE_TOO_LARGE", id="a RAW that claims 60000 x 60000"),
        pytest.param(b"IIRO\x08\0\0\0" + b"\0" * 500, "IMAGE_CORRUPT", id="an ORF of zeros"),
        pytest.param(b"FUJIFILMCCD-RAW 0201" + b"\xff" * 500, "IMAGE_CORRUPT", id="a RAF of ones"),
        pytest.param(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + b"\0" * 500, "IMAGE_CORRUPT", id="a CR3 of zeros"),
        pytest.param(claiming(AVIF, 60_000), "IMAGE_TOO_LARGE", id="an AVIF that claims 60000 x 60000"),
        pytest.param(claiming(HEIC, 60_000), "IMAGE_CORRUPT", id="a HEIC that claims 60000 x 60000"),
        pytest.param(AVIF.replace(b"ftypavif", b"ftypheic"), "IMAGE_CORRUPT", id="an AVIF that calls itself HEIC"),
        pytest.param(animated(101), "IMAGE_TOO_LARGE", id="101 frames"),
    ],
)
def test_a_hostile_file_ends_in_a_code(data: bytes, code: str) -> None:
    with pytest.raises(SafelightError) as refusal:
        analyze(data)
    assert refusal.value.code == code


def test_what_lies_behind_a_picture_is_no_part_of_it() -> None:
    both = jpeg(photo("china.jpg")) + zipped()
    assert analyze(both)["media_type"] == "image/jpeg"
    assert not [made.name for made in variants(both) if b"photo.heic" in (made.data or b"")]


def test_of_a_few_frames_the_first_counts() -> None:
    assert analyze(animated(3))["width"] == 8
