"""A preview that says that it is one: the picture as a surface, seen the same from where it was taken."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from contracts.errors import SafelightError
from gpu_functions import images
from gpu_functions.splat import camera, turntable
from gpu_functions.splat.depth import FAR, NEAR, depth
from gpu_functions.splat.relief import GRID, Relief, relief, small
from gpu_functions.splat.scene import ply
from tests.pixels.gpu_functions.pictures import deepen, encode, psnr, shipped
from tests.pixels.gpu_functions.splat import viewer

QUICK: dict[str, Any] = {"side": 96}


@pytest.fixture(scope="module")
def made(astronaut: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    outputs, facts = Relief().run({"image": encode(astronaut, ".jpg", Q=92)}, {"degrees": 3.0, "side": 256})
    return outputs, facts


def frames(data: bytes) -> list[Any]:
    """The frames of an animation, decoded by Pillow."""
    image: Any = Image.open(io.BytesIO(data))
    shown = []
    for n in range(image.n_frames):
        image.seek(n)
        shown.append(np.asarray(image.convert("RGB")))
    return shown


def test_it_says_that_it_is_a_preview(made: Any) -> None:
    _, facts = made
    assert facts["preview"] is True
    assert "relief preview, not SHARP" in facts["note"]
    assert facts["gaussians"] == GRID * GRID
    assert facts["metric"] is False


def test_an_independent_reader_finds_one_sound_gaussian_per_pixel(made: Any, astronaut: Any) -> None:
    found = viewer.read(made[0]["splat"].data)
    assert len(found.positions) == GRID * GRID
    assert all(np.isfinite(part).all() for part in vars(found).values())
    assert found.positions[:, 2].min() >= NEAR - 1e-4
    assert found.positions[:, 2].max() <= FAR + 1e-4
    np.testing.assert_allclose(np.linalg.norm(found.rotations, axis=1), 1, atol=1e-5)
    assert ((found.opacities > 0.97) & (found.opacities < 1)).all()
    assert (found.scales > 0).all()
    assert found.scales.max() < 0.03
    # Each gaussian has its pixel's colour and stands on the ray through its centre.
    colours = np.rint(found.colours * 255).reshape(GRID, GRID, 3)
    decoded = images.read(encode(astronaut, ".jpg", Q=92)).pixels
    assert np.abs(colours - decoded).max() <= 1
    focal = camera.focal_px(30.0, GRID, GRID)
    u = (focal * found.positions[:, 0] / found.positions[:, 2] + GRID / 2).reshape(GRID, GRID)
    np.testing.assert_allclose(u, np.broadcast_to(np.arange(GRID) + 0.5, (GRID, GRID)), atol=1e-2)


def test_a_viewer_shows_the_picture_without_holes(astronaut: Any) -> None:
    """The .ply through a viewer written from the definition, three times as large as it was made."""
    patch = cv2.resize(astronaut[40:232, 140:332], (32, 32), interpolation=cv2.INTER_AREA)
    colours, alpha = small(images.read(encode(patch)))
    focal = camera.focal_px(30.0, 32, 32)
    splats = viewer.read(ply(relief(colours, depth(colours), focal, alpha)).data)
    shown, through = viewer.show(splats, 3 * focal, 96, 96)
    inner = np.zeros((96, 96), np.bool_)
    inner[9:-9, 9:-9] = True
    assert through[inner].mean() < 0.06
    assert through[inner].max() < 0.2
    values = np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)
    # Measured: 21.6 dB. Discs overlap by depth, which shifts detail of one pixel towards what is nearer.
    assert psnr(values, cv2.resize(patch, (96, 96), interpolation=cv2.INTER_CUBIC), inner) > 20.5


def test_the_middle_of_the_turntable_is_the_picture(made: Any, astronaut: Any) -> None:
    first = frames(made[0]["turntable"].data)[0]
    picture = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    assert psnr(first, picture, np.ones((256, 256), np.bool_)) > 26


def test_the_turntable_is_an_animation_without_end_or_seam(made: Any) -> None:
    import pyvips

    data = made[0]["turntable"].data
    image: Any = Image.open(io.BytesIO(data))
    assert (image.format, image.size, image.n_frames, image.info["loop"]) == ("WEBP", (256, 256), turntable.FRAMES, 0)
    header = pyvips.Image.new_from_buffer(data, "", n=-1)
    assert (header.get("page-height"), header.height) == (256, 256 * turntable.FRAMES)
    assert set(header.get("delay")) == {turntable.FRAME_MS}
    shown = [frame.astype(float) for frame in frames(data)]
    steps = [np.abs(shown[n] - shown[n - 1]).mean() for n in range(len(shown))]
    assert steps[0] < 1.3 * max(steps[1:]), "from the last to the first is a step like the others"
    assert min(steps[1:6]) > 0.2, "it moves"
    everywhere = np.ones((256, 256), np.bool_)
    for n in range(7, 12):
        assert psnr(shown[n].astype(np.uint8), shown[12 - n].astype(np.uint8), everywhere) > 33, "and back as it went"


def test_neighbouring_frames_show_parallax(made: Any, astronaut: Any) -> None:
    shown = frames(made[0]["turntable"].data)
    left, right = (cv2.cvtColor(shown[n], cv2.COLOR_RGB2GRAY) for n in (18, 6))
    flow = cv2.calcOpticalFlowFarneback(left, right, None, 0.5, 4, 21, 4, 7, 1.5, 0)  # type: ignore[call-overload]
    colours, _ = small(images.read(encode(astronaut)))
    nearness = cv2.resize(1 / depth(colours), (256, 256), interpolation=cv2.INTER_AREA)
    textured = cv2.blur(np.abs(cv2.Laplacian(left, cv2.CV_32F)), (15, 15)) > 4
    moved = flow[..., 0][textured]
    near = nearness[textured]
    assert np.corrcoef(near, moved)[0, 1] < -0.75, "the nearer, the further against the camera's way"
    assert np.median(moved[near > np.quantile(near, 0.9)]) < -2
    assert np.median(moved[near < np.quantile(near, 0.1)]) > 2


def test_depth_of_a_scene_puts_sky_behind_ground() -> None:
    found = depth(shipped("rocket").astype(np.float32) / np.float32(255))
    sky, ground = found[:120, 440:], found[-40:]
    assert sky.min() > ground.max()
    assert found.min() >= NEAR - 1e-6
    assert found.max() <= FAR + 1e-6


def test_a_plain_picture_is_a_slope() -> None:
    found = depth(np.full((64, 48, 3), 0.5, np.float32))
    assert np.ptp(found, axis=1).max() < 1e-3
    assert (np.diff(found[:, 0]) <= 1e-6).all()


def test_depth_changes_at_the_edges_of_things() -> None:
    """A dark, textured block on a bright plain ground: the step in depth is where the block ends."""
    chance = np.random.default_rng(1)
    picture = np.full((128, 128, 3), 0.9, np.float32)
    picture[40:, 48:80] = chance.uniform(0, 0.5, (88, 32, 1))
    row = 1 / depth(picture)[90]
    assert row[56:72].min() > row[:40].max() + 0.1
    assert np.abs(np.diff(row[20:64])).argmax() + 20 == pytest.approx(47, abs=3)


@pytest.mark.parametrize(
    ("pixels", "gaussians"),
    [
        pytest.param(np.full((40, 60, 3), 77, np.uint8), 2400, id="one colour"),
        pytest.param(np.arange(1600, dtype=np.uint8).reshape(40, 40), 1600, id="grey"),
        pytest.param(deepen(np.full((40, 40, 3), 77, np.uint8)), 1600, id="16 bit"),
        pytest.param(np.zeros((1500, 60, 3), np.uint8), 512 * 20, id="a tower"),
        pytest.param(np.dstack([np.full((40, 40, 3), 9), np.eye(40) * 255]).astype(np.uint8), 40, id="cut out"),
    ],
)
def test_unusual_pictures_become_scenes_of_what_can_be_seen(pixels: Any, gaussians: int) -> None:
    outputs, facts = Relief().run({"image": encode(pixels)}, QUICK)
    assert facts["gaussians"] == gaussians
    assert len(viewer.read(outputs["splat"].data).positions) == gaussians
    height, width = pixels.shape[:2]
    shown = frames(outputs["turntable"].data)[0]
    assert max(shown.shape) <= 96
    assert shown.shape[1] / shown.shape[0] == pytest.approx(width / height, rel=0.3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "IMAGE_CORRUPT", id="no bytes"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "IMAGE_CORRUPT", id="a beginning only"),
        pytest.param(encode(np.zeros((300, 300, 3), np.uint8), ".jpg")[:-400], "IMAGE_CORRUPT", id="cut off"),
        pytest.param(encode(np.zeros((1, 1, 3), np.uint8)), "SPLAT_IMPOSSIBLE", id="a pixel"),
        pytest.param(encode(np.zeros((20, 4000, 3), np.uint8)), "SPLAT_IMPOSSIBLE", id="a line"),
        pytest.param(encode(np.zeros((64, 64, 4), np.uint8)), "SPLAT_IMPOSSIBLE", id="transparent"),
    ],
)
def test_what_cannot_become_a_scene_is_refused_with_a_code(data: bytes, code: str) -> None:
    with pytest.raises(SafelightError) as refused:
        Relief().run({"image": data}, QUICK)
    assert refused.value.code == code


@pytest.mark.parametrize("wrong", [{"degrees": 90}, {"degrees": float("nan")}, {"side": 10_000}, {"side": "wide"}])
def test_parameters_that_would_take_for_ever_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Relief().run({"image": encode(np.zeros((40, 40, 3), np.uint8))}, wrong)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [(50, 50.0), (26, 26.0), (0, 30.0), (60000, 30.0), (None, 30.0)],
    ids=["a normal lens", "a phone", "unknown by EXIF's own word", "nonsense", "no EXIF"],
)
def test_the_focal_length_is_read_from_exif_when_it_makes_sense(said: int | None, wanted: float) -> None:
    picture, exif, saved = Image.new("RGB", (64, 48)), Image.Exif(), io.BytesIO()
    if said is not None:
        exif.get_ifd(0x8769)[0xA405] = said  # FocalLengthIn35mmFilm
    picture.save(saved, "JPEG", exif=exif)
    assert camera.focal_mm(saved.getvalue()) == wanted
    assert camera.focal_mm(b"nothing") == 30.0


def test_a_long_lens_makes_a_narrow_scene() -> None:
    assert camera.focal_px(43.2666, 300, 400) == pytest.approx(500, rel=1e-4), "its own diagonal: as long as ours"
    colours = np.full((32, 32, 3), 0.5, np.float32)
    wide, narrow = (
        np.ptp(
            relief(colours, depth(colours), camera.focal_px(mm, 32, 32), np.ones((32, 32), np.float32)).positions[:, 0]
        )
        for mm in (24.0, 96.0)
    )
    assert wide == pytest.approx(4 * narrow, rel=1e-3)
