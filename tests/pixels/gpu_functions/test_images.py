"""Whatever comes in, engines see upright sRGB pixels, and nothing that matters is lost on the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pyvips
from skimage import color

from contracts.errors import SafelightError
from gpu_functions import images
from tests.pixels.gpu_functions.pictures import deepen, encode, vips

P3_TO_XYZ = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0.0, 0.04511, 1.04394]])


@pytest.fixture(scope="module")
def small() -> Any:
    """24×32: dark left, bright right, a red corner at the top left."""
    ramp = np.repeat(np.linspace(30, 220, 32).astype(np.uint8)[None, :, None], 24, axis=0).repeat(3, axis=2)
    ramp[:8, :8] = (200, 20, 20)
    return ramp


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright_once(small: Any, orientation: int) -> None:
    turn = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2), 8: lambda a: np.rot90(a, 1),
    }  # fmt: skip
    stored = vips(small).copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    picture = images.read(stored.write_to_buffer(".tif"))
    assert (picture.pixels == turn[orientation](small)).all()  # type: ignore[no-untyped-call]

    again = images.read(images.png(picture).data)  # a second phase must not turn it again
    assert (again.pixels == picture.pixels).all()


def test_display_p3_becomes_the_same_colours_in_srgb(small: Any) -> None:
    muted = (small * 0.5 + 60).astype(np.uint8)  # inside the sRGB gamut, so that no clipping hides a mistake
    picture = images.read(encode(muted, ".png", profile="p3"))
    linear = np.where(muted / 255 <= 0.04045, muted / 255 / 12.92, ((muted / 255 + 0.055) / 1.055) ** 2.4)
    wanted = color.xyz2rgb(linear @ P3_TO_XYZ.T) * 255
    assert np.abs(picture.pixels - wanted).max() <= 1.6
    assert np.abs(picture.pixels.astype(int) - muted).max() >= 5  # it was converted at all


def test_a_cmyk_jpeg_is_read_through_its_profile(small: Any) -> None:
    cmyk = vips(small).icc_transform("cmyk", input_profile="srgb")
    picture = images.read(cmyk.write_to_buffer(".jpg", Q=95))
    assert picture.pixels.shape == small.shape
    assert np.abs(picture.pixels[12:20, 14:].astype(int) - small[12:20, 14:]).mean() < 12  # ink has a smaller range


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_becomes_rgb_of_the_same_depth(small: Any, depth: int) -> None:
    grey = small[..., 1] if depth == 8 else deepen(small[..., 1])
    image = vips(grey).copy(interpretation="b-w" if depth == 8 else "grey16")
    picture = images.read(image.write_to_buffer(".png"))
    assert picture.white == 2**depth - 1
    assert all((picture.pixels[..., channel] == grey).all() for channel in range(3))


@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
@pytest.mark.parametrize("bands", [3, 4], ids=["opaque", "with alpha"])
def test_writing_and_reading_again_changes_no_bit(deep: bool, bands: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (37, 53, bands), dtype=np.uint8)
    stored = deepen(pixels) if deep else pixels
    first = images.read(encode(stored))
    again = images.read(images.png(first).data)
    assert (again.pixels == stored[..., :3]).all()
    assert (first.alpha is None) == (bands == 3)
    if bands == 4:
        assert again.alpha is not None
        assert (again.alpha == stored[..., 3]).all()


def test_a_picture_is_turned_once_and_hands_on_no_metadata(small: Any) -> None:
    stored = vips(small).copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", 6)
    stored.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Copyright", "The Author")
    stored.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", encode(small, ".jpg", keep="none"))
    first = images.read(stored.write_to_buffer(".jpg"))
    content = images.png(first).data
    assert (images.read(content).pixels == first.pixels).all()
    written = pyvips.Image.new_from_buffer(content, "")
    assert written.get_typeof("icc-profile-data")
    assert not [name for name in written.get_fields() if name.startswith("exif-") or name == "jpeg-thumbnail-data"]
    assert b"The Author" not in content


def jpeg() -> bytes:
    return encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), ".jpg")


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param(b"", "IMAGE_CORRUPT", id="no bytes"),
        pytest.param(b"hello, world" * 50, "IMAGE_CORRUPT", id="a text"),
        pytest.param(jpeg()[: len(jpeg()) // 2], "IMAGE_CORRUPT", id="half a JPEG"),
        pytest.param(jpeg()[:400], "IMAGE_CORRUPT", id="a JPEG's header only"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "IMAGE_CORRUPT", id="an SVG"),
        pytest.param(
            pyvips.Image.black(12_000, 11_000).write_to_buffer(".png"), "IMAGE_TOO_LARGE", id="132 megapixels of black"
        ),
    ],
)
def test_what_cannot_be_read_is_refused(content: bytes, code: str) -> None:
    with pytest.raises(SafelightError) as refusal:
        images.read(content)
    assert refusal.value.code == code
    assert refusal.value.__cause__ is None
