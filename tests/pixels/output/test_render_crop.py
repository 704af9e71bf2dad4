"""The composition crop: what it may cut, what it never cuts, and that the rest of the picture survives it."""

from __future__ import annotations

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from contracts.errors import SafelightError
from output.render.crop import CropParameters, Reason, Window, choose, crop
from output.render.images import Rendered
from tests.pixels.output.render_pictures import (
    CREATOR,
    RIGHTS,
    encoded,
    exif,
    lying_png,
    opened,
    photo,
    pixels,
    png_16_bit,
    srgb_profile,
    xmp,
)

SRGB = srgb_profile()
ASPECTS = ("original", "none", "1:1", "4:5", "5:4", "3:2", "2:3", "16:9", "9:16")
FACE = [0.34, 0.12, 0.2, 0.28]  # of the astronaut


def window(image: NDArray[np.uint8], aspect: str, faces: list[list[float]]) -> tuple[Window, Reason]:
    parameters = CropParameters.model_validate({"aspect": aspect, "faces": [{"box": box} for box in faces]})
    return choose(pyvips.Image.new_from_array(image, interpretation="srgb"), parameters)


def box_of(made: Rendered) -> list[float]:
    box = made.facts["box"]
    assert isinstance(box, list)
    return [float(str(part)) for part in box]


def field(width: int = 300, height: int = 200, subject: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A plain field, with a textured subject of 40 x 40 px around the given point."""
    pixels = np.full((height, width, 3), (120, 170, 220), np.uint8)
    if subject:
        x, y = subject
        pixels[y - 20 : y + 20, x - 20 : x + 20] = np.random.default_rng(0).integers(0, 255, (40, 40, 3))
    return pixels


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    aspect=st.sampled_from(ASPECTS),
    faces=st.lists(st.tuples(*[st.floats(-0.1, 1.1)] * 2, *[st.floats(0.01, 0.5)] * 2), max_size=5),
)
def test_no_face_is_cut_and_no_more_than_the_aspect_needs(
    size: tuple[int, int], aspect: str, faces: list[tuple[float, ...]]
) -> None:
    width, height = size
    (x, y, w, h), reason = window(field(width, height), aspect, [list(box) for box in faces])
    assert w >= 1
    assert h >= 1
    assert 0 <= x <= width - w
    assert 0 <= y <= height - h
    if reason in (Reason.ASKED, Reason.SAME_ASPECT, Reason.NO_GAIN, Reason.FACES):
        assert (w, h) == size
    elif aspect == "original":
        assert w >= round(0.85 * width)
        assert h >= round(0.85 * height)
    else:
        across, down = map(int, aspect.split(":"))
        assert w == width or h == height
        assert abs(w - h * across / down) <= 0.5 or abs(h - w * down / across) <= 0.5 or 1 in (w, h)
    for left, top, across_, down_ in faces:
        begin, end = np.clip([left, left + across_], 0, 1) * width, np.clip([top, top + down_], 0, 1) * height
        inside = x <= begin[0] and y <= end[0] and begin[1] <= x + w and end[1] <= y + h
        outside = begin[1] <= x or x + w <= begin[0] or end[1] <= y or y + h <= end[0]
        assert inside or outside


@pytest.mark.parametrize("at", [40, 150, 260])
def test_the_subject_is_kept_and_not_pushed_to_the_border(at: int) -> None:
    (x, _, w, _), reason = window(field(subject=(at, 100)), "1:1", [])
    assert reason is Reason.ASPECT
    assert x + 20 <= at <= x + w - 20


def test_a_picture_without_a_subject_is_cut_in_the_middle() -> None:
    (x, _, w, h), reason = window(field(), "1:1", [])
    assert (w, h, reason) == (200, 200, Reason.ASPECT)
    assert abs(x - 50) <= 300 / 64, "to the cell"


def test_a_face_outweighs_texture() -> None:
    (x, _, w, _), _ = window(field(600, 200, subject=(100, 100)), "1:1", [[0.8, 0.3, 0.1, 0.3]])
    assert x <= 0.8 * 600
    assert x + w >= 0.9 * 600


def test_more_faces_win_over_what_scores_better() -> None:
    large_face_on_texture, two_small = [0.1, 0.2, 0.15, 0.6], [[0.7, 0.3, 0.03, 0.1], [0.8, 0.3, 0.03, 0.1]]
    scene = field(600, 200, subject=(105, 100))
    (one, _, w, _), _ = window(scene, "1:1", [large_face_on_texture, two_small[0]])
    assert one + w <= 0.7 * 600, "of one and one the better one"
    (x, _, w, _), _ = window(scene, "1:1", [large_face_on_texture, *two_small])
    assert x <= 0.7 * 600
    assert x + w >= 0.83 * 600


def test_room_is_left_around_a_face_when_there_is_some() -> None:
    (x, _, _, _), _ = window(field(400, 200, subject=(230, 100)), "1:1", [[0.1, 0.3, 0.2, 0.4]])
    assert x <= (0.1 - 0.2 * 0.25) * 400


def test_a_face_wider_than_the_aspect_keeps_the_photo_whole() -> None:
    assert window(field(), "9:16", [[0.1, 0.1, 0.8, 0.8]]) == (Window(0, 0, 300, 200), Reason.FACES)


def test_original_trims_a_dull_side_only_when_it_clearly_gains() -> None:
    corner = [0.12, 0.1, 0.16, 0.2]
    _, centred = window(field(subject=(150, 100)), "original", [])
    _, full = window(np.asarray(photo()), "original", [FACE])
    assert (centred, full) == (Reason.NO_GAIN, Reason.NO_GAIN)
    trimmed, reason = window(field(subject=(60, 40)), "original", [corner])
    assert reason is Reason.BETTER
    assert trimmed == Window(0, 0, 255, 170), "what lies opposite the subject goes"


def test_facts_say_where_the_pixels_came_from() -> None:
    source = encoded(photo(640, 480))
    made = crop(source, {"aspect": "16:9", "faces": [{"box": [*FACE], "score": 0.9, "landmarks": []}], "width": 640})
    x, y, w, h = (round(part * side) for part, side in zip(box_of(made), (640, 480) * 2, strict=True))
    assert (made.name, made.media_type, made.width, made.height) == ("image.png", "image/png", 640, 360)
    assert (w, h) == (640, 360)
    assert (pixels(made.data) == pixels(source)[y : y + h, x : x + w]).all()
    assert made.facts == {
        "aspect": "16:9",
        "angle": 0,
        "box": box_of(made),
        "reason": "cropped to the aspect",
        "unchanged": False,
    }


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("aspect", ["none", "original"])
def test_a_finished_png_that_stays_whole_is_not_encoded_again(aspect: str, depth: int) -> None:
    samples = np.asarray(photo())
    finished = encoded(samples, icc_profile=SRGB) if depth == 8 else png_16_bit(samples.astype(np.uint16) * 257, SRGB)
    made = crop(finished, {"aspect": aspect})
    assert made.data is None
    assert made.facts["unchanged"] is True
    assert made.facts["box"] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(photo(), "JPEG"), id="a JPEG"),
        pytest.param(encoded(photo()), id="a PNG without profile"),
        pytest.param(encoded(photo(), icc_profile=b"nothing" * 40), id="a PNG with a broken profile"),
        pytest.param(encoded(photo(), icc_profile=pyvips.Operation.call("profile_load", "p3")), id="a P3 PNG"),
        pytest.param(encoded(photo(), icc_profile=SRGB, exif=exif(6)), id="a PNG on its side"),
        pytest.param(encoded(photo().convert("L")), id="a gray PNG"),
    ],
)
def test_anything_else_becomes_an_upright_srgb_png(data: bytes) -> None:
    made = crop(data, {"aspect": "none"})
    image = opened(made.data)
    assert image.format == "PNG"
    assert image.mode == "RGB"
    assert image.size == (made.width, made.height)
    assert image.getexif().get(0x0112, 1) == 1
    assert crop(made.data or b"", {"aspect": "none"}).facts["unchanged"] is True


def test_the_box_is_on_the_upright_image() -> None:
    upright = np.asarray(photo(480, 640))
    on_its_side = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    made = crop(encoded(on_its_side, exif=exif(6)), {"aspect": "1:1", "faces": [{"box": [*FACE]}]})
    assert (made.width, made.height) == (480, 480)
    top = round(box_of(made)[1] * 640)
    assert (pixels(made.data) == upright[top : top + 480]).all()


def test_no_metadata_is_handed_on() -> None:
    made = crop(encoded(photo(), "JPEG", exif=exif(8), xmp=xmp(CREATOR, RIGHTS)), {"aspect": "1:1"})
    image = opened(made.data)
    assert not image.getexif()
    assert not image.info.get("xmp")
    assert CREATOR.encode() not in (made.data or b"")


def test_sixteen_bits_stay_sixteen_bits() -> None:
    ramp = np.arange(400 * 200, dtype=np.uint16).reshape(200, 400, 1).repeat(3, 2)
    made = crop(png_16_bit(ramp), {"aspect": "1:1"})
    left = round(box_of(made)[0] * 400)
    seen = pyvips.Image.new_from_buffer(made.data, "").numpy()
    assert (seen == ramp[:, left : left + 200]).all()


def test_sixteen_bits_stay_sixteen_bits_through_the_profile() -> None:
    ramp = np.linspace(20_000, 30_000, 400).astype(np.uint16).reshape(1, 400, 1).repeat(50, 0).repeat(3, 2)
    made = crop(png_16_bit(ramp, pyvips.Operation.call("profile_load", "p3")), {"aspect": "none"})
    seen = pyvips.Image.new_from_buffer(made.data, "").numpy()
    assert len(np.unique(seen[0, :, 1])) > 300
    assert np.abs(seen.astype(int) - ramp).max() < 100, "grays are the same in both spaces"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"aspect": "7:5"}, "REQUEST_INVALID"),
        ({"horizon": {"angle": float("nan"), "confidence": 1}}, "REQUEST_INVALID"),
        ({"faces": [{"box": [0, 0, 1]}]}, "REQUEST_INVALID"),
        ({"faces": [{"box": [0, 0, 1, float("nan")]}]}, "REQUEST_INVALID"),
    ],
    ids=["an aspect outside the table", "a horizon of no number", "a face of three numbers", "a face of no number"],
)
def test_parameters_outside_their_shape_are_refused(parameters: dict[str, object], code: str) -> None:
    with pytest.raises(SafelightError) as refusal:
        crop(encoded(photo()), parameters)  # type: ignore[arg-type]
    assert refusal.value.code == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"no image", "IMAGE_CORRUPT"),
        (encoded(photo(), "JPEG")[:20_000], "IMAGE_CORRUPT"),
        (lying_png(12_000, 12_000), "IMAGE_TOO_LARGE"),
    ],
    ids=["no image", "a JPEG cut short", "144 megapixels"],
)
def test_images_that_cannot_be_read_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(SafelightError) as refusal:
        crop(data, {})
    assert refusal.value.code == code


def test_the_same_input_gives_the_same_bytes() -> None:
    data = encoded(photo(), "JPEG", exif=exif(3))
    assert crop(data, {"aspect": "4:5"}) == crop(data, {"aspect": "4:5"})
