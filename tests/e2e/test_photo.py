"""Upload to variants through every process, and the pixels at the end are right."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.e2e.conftest import Stack, phase, phases

Pixels = np.ndarray[Any, np.dtype[np.int16]]
STYLE = "cool-matte"


def pixels(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int16)


def lut_of(text: str) -> Pixels:
    """A .cube as an array [b][g][r][channel] in 0..255, read here anew and simply."""
    lines = [line.split() for line in text.splitlines() if line.strip() and line[0] in "0123456789-."]
    rows = np.array([[float(number) for number in line] for line in lines if len(line) == 3])
    size = round(len(rows) ** (1 / 3))
    return (rows.reshape(size, size, size, 3) * 255).astype(np.float64)


def graded(photo: Pixels, lut: Any) -> Any:
    """Trilinear lookup, written from its definition."""
    size = lut.shape[0]
    at = photo.astype(np.float64) / 255 * (size - 1)
    low = np.minimum(at.astype(int), size - 2)
    part = at - low
    total = np.zeros(photo.shape)
    for corner in range(8):
        bit = np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        weight = np.where(bit, part, 1 - part).prod(axis=-1, keepdims=True)
        r, g, b = (low[..., c] + bit[c] for c in range(3))
        total += weight * lut[b, g, r]
    return total


@pytest.fixture(scope="session")
async def portrait(stack: Stack, samples: dict[str, Path]) -> dict[str, Any]:
    """A photo with a face, graded."""
    return await stack.ended(await stack.upload(samples["astronaut.jpg"], style=STYLE))


@pytest.fixture(scope="session")
async def wires(stack: Stack, samples: dict[str, Path]) -> dict[str, Any]:
    """A photo with power lines, colours left alone."""
    return await stack.ended(await stack.upload(samples["china-wires.jpg"]))


async def test_a_portrait_goes_through_its_phases(portrait: dict[str, Any]) -> None:
    assert portrait["status"] == "succeeded", portrait
    assert phases(portrait) == {
        "analyze": "succeeded",
        "style": "succeeded",
        "retouch": "succeeded",
        "cleanup": "skipped",
        "crop": "succeeded",
        "variants": "succeeded",
    }


async def test_what_ran_on_the_cpu_in_place_of_a_gpu_says_so(portrait: dict[str, Any]) -> None:
    assert portrait["degraded"] is True
    engines = {name: (phase(portrait, name)["engine"], phase(portrait, name)["degraded"]) for name in phases(portrait)}
    assert engines["style"] == ("cube-lut@3", True)
    assert engines["retouch"] == ("skin-smoothing@1", True)
    assert engines["crop"] == ("crop.composition@1", False)


async def test_every_artifact_is_recorded_as_it_is_stored(stack: Stack, portrait: dict[str, Any]) -> None:
    import hashlib

    for artifact in portrait["artifacts"]:
        data = await stack.artifact(portrait, f"{artifact['phase']}.{artifact['name']}")
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (artifact["sha256"], artifact["size"])
        assert Image.open(io.BytesIO(data)).size == (artifact["width"], artifact["height"])


async def test_a_styled_photo_differs_as_the_lut_says(
    stack: Stack, portrait: dict[str, Any], samples: dict[str, Path], tmp_path: Path
) -> None:
    from stack.styles import write_styles

    cube = next(path for path in write_styles(tmp_path) if path.stem == STYLE)
    styled = pixels(await stack.artifact(portrait, "style.image.png"))
    original = pixels(samples["astronaut.jpg"].read_bytes())
    expected = graded(original, lut_of(cube.read_text()))
    # Two decoders of one JPEG differ by a code or two, and tetrahedral from trilinear interpolation by another.
    difference = np.abs(styled - expected)
    assert difference.max() <= 6
    assert difference.mean() < 0.6
    assert np.abs(styled - original).mean() > 5, "the style is visible"


async def test_retouch_leaves_everything_but_skin_bit_equal(stack: Stack, portrait: dict[str, Any]) -> None:
    before = pixels(await stack.artifact(portrait, "style.image.png"))
    after = pixels(await stack.artifact(portrait, "retouch.image.png"))
    changed = (before != after).any(axis=-1)
    x, y, width, height = phase(portrait, "analyze")["facts"]["faces"][0]["box"]
    rows, columns = np.nonzero(changed)
    tall, wide = changed.shape
    margin = 0.6  # the mask is the mesh's, the box is the detector's: chin and forehead reach beyond it
    assert 0.005 < changed.mean() < 0.15
    assert columns.min() / wide > x - margin * width
    assert columns.max() / wide < x + (1 + margin) * width
    assert rows.min() / tall > y - margin * height
    assert rows.max() / tall < y + (1 + margin) * height


async def test_cleanup_removes_the_wires_and_touches_nothing_else(
    stack: Stack, wires: dict[str, Any], samples: dict[str, Path]
) -> None:
    assert phases(wires)["cleanup"] == "succeeded"
    with_wires = pixels(samples["china-wires.jpg"].read_bytes())
    without = pixels(samples["china.jpg"].read_bytes())
    cleaned = pixels(await stack.artifact(wires, "cleanup.image.png"))
    truth = np.abs(with_wires - without).max(axis=-1) > 24  # where the wires were drawn
    far = ~_grown(truth, 12)

    def psnr(image: Pixels, where: Any) -> float:
        return float(10 * np.log10(255**2 / np.mean((image - without)[where].astype(float) ** 2)))

    assert psnr(cleaned, truth) > psnr(with_wires, truth) + 8, "the wires are gone"
    assert np.abs(cleaned - with_wires)[far].max() <= 2, "two decoders of one JPEG, else untouched"


def _grown(mask: Any, by: int) -> Any:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)).astype(bool)


async def test_variants_have_the_right_size_format_and_profile(
    stack: Stack, portrait: dict[str, Any], samples: dict[str, Path]
) -> None:
    made = {a["name"]: a for a in portrait["artifacts"] if a["phase"] == "variants"}
    assert set(made) == {f"{size}.{form}" for size in ("web", "thumb") for form in ("jpg", "webp", "avif")}
    for name, artifact in made.items():
        image = Image.open(io.BytesIO(await stack.artifact(portrait, name)))
        box = 400 if name.startswith("thumb") else 512  # the original has 512 px and is never enlarged
        assert max(image.size) == box
        assert image.format == {"jpg": "JPEG", "webp": "WEBP", "avif": "AVIF"}[name.rsplit(".", 1)[1]]
        assert artifact["media_type"] == f"image/{image.format.lower()}"
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)


async def test_a_photo_on_its_side_comes_out_upright_without_gps_and_with_its_copyright(
    stack: Stack, samples: dict[str, Path]
) -> None:
    job = await stack.ended(await stack.upload(samples["astronaut-sideways.jpg"], crop="none"))
    assert job["status"] == "succeeded", job
    data = await stack.artifact(job, "web.jpg")
    upright = pixels(await stack.artifact(await stack.ended(await stack.upload(samples["astronaut.jpg"])), "web.jpg"))
    assert np.abs(pixels(data) - upright).mean() < 12, "the same picture, apart from skin and crop"
    source = Image.open(samples["astronaut-sideways.jpg"]).getexif()
    assert source.get_ifd(0x8825), "the upload has a position"
    assert not Image.open(io.BytesIO(data)).getexif().get_ifd(0x8825)
    assert str(source[0x8298]).encode() in data, "the copyright notice"


async def test_display_p3_is_converted_and_not_merely_relabelled(stack: Stack, samples: dict[str, Path]) -> None:
    wide = pixels(await stack.artifact(await stack.ended(await stack.upload(samples["coffee-p3.jpg"])), "web.jpg"))
    plain = pixels(await stack.artifact(await stack.ended(await stack.upload(samples["coffee.png"])), "web.jpg"))
    assert np.abs(wide - plain).mean() < 3


@pytest.mark.parametrize("name", ["flower-16bit.tiff", "chelsea.webp", "clock.avif", "camera.png"])
async def test_every_accepted_format_succeeds(stack: Stack, samples: dict[str, Path], name: str) -> None:
    job = await stack.ended(await stack.upload(samples[name], style=STYLE))
    assert job["status"] == "succeeded", job
