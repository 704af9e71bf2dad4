"""A crooked photo is made level, as data that can be undone; faces, depth and transparency survive it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from output.render import straighten
from output.render.crop import crop
from tests.pixels.output.render_pictures import encoded, opened, photo, pixels, png_16_bit, psnr, srgb_profile

WIDTH, HEIGHT = 900, 600


def sea(degrees: float, size: tuple[int, int] = (WIDTH, HEIGHT)) -> NDArray[np.uint8]:
    """A light sky over a dark sea, whose horizon falls by `degrees` towards the right."""
    width, height = size
    rows, columns = np.mgrid[0:height, 0:width]
    below = rows - height / 2 - np.tan(np.radians(degrees)) * (columns - width / 2)
    light = 200 - 150 * np.clip(below + 0.5, 0, 1)
    return np.repeat(light[..., None], 3, axis=2).round().astype(np.uint8)


def made_level(degrees: float, **more: Any) -> dict[str, Any]:
    return {"horizon": {"angle": degrees, "confidence": 0.9}, **more}


def horizon_rows(data: bytes | None) -> NDArray[np.int64]:
    """The row at which each column turns dark."""
    return np.asarray((pixels(data)[..., 0] > 125).sum(axis=0))


@pytest.mark.parametrize("degrees", [-8, -3.3, -0.5, 0.5, 2, 8])
def test_a_crooked_horizon_becomes_level(degrees: float) -> None:
    made = crop(encoded(sea(degrees)), made_level(degrees))
    rows = horizon_rows(made.data)
    assert np.ptp(rows) <= 1
    assert abs(rows[0] / made.height - 0.5) < 0.01
    assert pixels(made.data).min() >= 35, "no corner is empty; a sharp edge overshoots by 10"
    assert made.facts["angle"] == degrees
    assert made.facts["reason"] == "made level, and kept whole but for that"
    assert made.width / made.height == pytest.approx(WIDTH / HEIGHT, rel=0.01)
    assert made.width >= 0.82 * WIDTH


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({}, id="no horizon is known"),
        pytest.param({"horizon": None}, id="the analysis is of before there were horizons"),
        pytest.param(made_level(2, straighten=False), id="it is turned off"),
        pytest.param(made_level(2, aspect="none"), id="nothing may be cut"),
        pytest.param({"horizon": {"angle": 2, "confidence": 0.5}}, id="the horizon is doubtful"),
        pytest.param(made_level(0.2), id="nobody would see it"),
        pytest.param(made_level(9), id="it is meant"),
        pytest.param(made_level(5, faces=[{"box": [0, 0, 0.1, 0.2]}]), id="a face in the corner would be cut"),
    ],
)
def test_pixels_are_untouched_when(parameters: dict[str, Any]) -> None:
    source = encoded(sea(2), icc_profile=srgb_profile())
    made = crop(source, parameters)
    assert made.data is None
    assert (made.facts["unchanged"], made.facts["angle"], made.facts["box"]) == (True, 0, [0, 0, 1, 1])


def test_angle_and_box_lead_to_the_same_pixels() -> None:
    """Undoing needs no more than the facts: Pillow, which knows nothing of libvips, gets the same picture."""
    upright = photo(900, 600)
    made = crop(encoded(upright), made_level(-3.0, aspect="4:5"))
    angle, box = made.facts["angle"], made.facts["box"]
    assert isinstance(angle, float)
    assert isinstance(box, list)
    x, y, w, h = (round(float(str(part)) * side) for part, side in zip(box, (900, 600) * 2, strict=True))
    turned = upright.rotate(angle, Image.Resampling.BICUBIC)
    expected = np.asarray(turned.crop((x, y, x + w, y + h))).astype(np.int64)
    assert (made.width, made.height) == (w, h)
    assert psnr(pixels(made.data), expected) > 38


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(1, 900),
    height=st.integers(1, 900),
    angle=st.floats(-8, 8),
    face=st.tuples(st.floats(-0.2, 1), st.floats(-0.2, 1), st.floats(0.01, 0.4), st.floats(0.01, 0.4)),
)
def test_no_corner_is_empty_and_no_face_cut(
    width: int, height: int, angle: float, face: tuple[float, float, float, float]
) -> None:
    window = straighten.frame(width, height, angle)
    if window is None:
        assert min(width, height) < 20
        return
    x, y, w, h = window
    corners = _sources([(x, y), (x + w, y), (x, y + h), (x + w, y + h)], width, height, angle)
    assert all(-1e-6 <= u <= width + 1e-6 and -1e-6 <= v <= height + 1e-6 for u, v in corners)
    inside = straighten.fit(straighten.turned_boxes(np.array([face]), width, height, angle), window, width, height)
    left, top = (np.clip(face[k], 0, 1) for k in (0, 1))
    right, bottom = (np.clip(face[k] + face[k + 2], 0, 1) for k in (0, 1))
    seen = [_canvas(u * width, v * height, width, height, angle) for u in (left, right) for v in (top, bottom)]
    whole = all(x - 1e-6 <= u <= x + w + 1e-6 and y - 1e-6 <= v <= y + h + 1e-6 for u, v in seen)
    assert whole or inside is None


def _canvas(u: float, v: float, width: int, height: int, angle: float) -> tuple[float, float]:
    """Where a point of the photo lies on the canvas after it was turned counterclockwise."""
    t, dx, dy = np.radians(angle), u - width / 2, v - height / 2
    return (dx * np.cos(t) + dy * np.sin(t) + width / 2, -dx * np.sin(t) + dy * np.cos(t) + height / 2)


def _sources(points: list[tuple[float, float]], width: int, height: int, angle: float) -> list[tuple[float, float]]:
    return [_canvas(u, v, width, height, -angle) for u, v in points]


def test_the_crop_still_spares_faces_after_turning() -> None:
    face = [0.1, 0.35, 0.12, 0.2]
    made = crop(encoded(photo(900, 600)), made_level(4, aspect="1:1", faces=[{"box": face}]))
    box = made.facts["box"]
    assert isinstance(box, list)
    x, y, w, h = (float(str(part)) for part in box)
    for u in (face[0], face[0] + face[2]):
        for v in (face[1], face[1] + face[3]):
            left, top = _canvas(u * 900, v * 600, 900, 600, 4)
            assert x * 900 <= left <= (x + w) * 900
            assert y * 600 <= top <= (y + h) * 600
    assert made.facts["angle"] == 4


def test_sixteen_bits_stay_sixteen_bits() -> None:
    ramp = np.linspace(10_000, 50_000, WIDTH).astype(np.uint16).reshape(1, WIDTH, 1).repeat(400, 0).repeat(3, 2)
    made = crop(png_16_bit(ramp), made_level(3))
    seen = pyvips.Image.new_from_buffer(made.data, "").numpy()
    assert seen.dtype == np.uint16
    assert len(np.unique(seen[..., 1])) > 5_000


def test_a_transparent_picture_keeps_its_transparency_and_its_colours() -> None:
    layers = np.zeros((300, 400, 4), np.uint8)
    layers[..., 0] = 200
    layers[:, 200:, 3] = 255  # what cannot be seen is as red as the rest
    made = crop(encoded(layers), made_level(5))
    image = opened(made.data)
    assert image.mode == "RGBA"
    seen = np.asarray(image)
    assert seen[..., 3].min() == 0
    assert seen[..., 3].max() == 255
    assert np.abs(seen[..., 0][seen[..., 3] > 20].astype(int) - 200).max() <= 3


def test_a_photo_on_its_side_is_turned_upright_first() -> None:
    stored = np.ascontiguousarray(np.rot90(sea(3)))  # orientation 6 turns it clockwise again
    tags = Image.Exif()
    tags[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(stored).save(file, "PNG", exif=tags)
    made = crop(file.getvalue(), made_level(3))
    assert np.ptp(horizon_rows(made.data)) <= 1
