"""The sample photos and built-in styles are real, of clear licence, and made quickly."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import PyOpenColorIO
import pytest
import pyvips

from stack.samples import SAMPLES, Sample, write_samples
from stack.samples.composites import draw_wires
from stack.samples.photos import CHINA_SKY, CHINA_WIRES
from stack.styles import LOOKS, SIZE, cube, grade, write_styles


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    return {sample.name: sample for sample in write_samples(tmp_path_factory.mktemp("samples"))}


def opened(sample: Sample) -> pyvips.Image:
    return pyvips.Image.new_from_file(str(sample.path))


def test_at_least_a_dozen_different_photos_are_written(samples: dict[str, Sample]) -> None:
    assert len({recipe.shipped for recipe in SAMPLES}) >= 12
    assert len({hashlib.sha256(s.path.read_bytes()).hexdigest() for s in samples.values()}) == len(SAMPLES)
    assert all(sample.licence and sample.source and sample.done for sample in samples.values())


def test_photos_of_faces_of_unclear_licence_are_not_used() -> None:
    assert not any("lfw" in recipe.shipped or "motorcycle" in recipe.shipped for recipe in SAMPLES)


def test_they_are_the_same_bytes_each_time_and_take_less_than_three_seconds(
    samples: dict[str, Sample], tmp_path: Path
) -> None:
    began = time.process_time()
    again = write_samples(tmp_path / "with spaces and ümlauts")
    assert time.process_time() - began < 3
    assert [s.path.read_bytes() for s in again] == [s.path.read_bytes() for s in samples.values()]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        pytest.param("coffee-p3.jpg", ("icc-profile-data",), id="wide gamut has a profile"),
        pytest.param("astronaut-sideways.jpg", ("orientation", "exif-ifd3-GPSLatitude", "exif-ifd0-Copyright",
                                                "exif-ifd2-BodySerialNumber"), id="a phone's tags are all there"),
    ],
)  # fmt: skip
def test_derivatives_carry_what_they_are_for(samples: dict[str, Sample], name: str, kept: tuple[str, ...]) -> None:
    image = opened(samples[name])
    assert all(image.get_typeof(field) for field in kept)


def test_the_sideways_photo_is_upright_after_its_tag(samples: dict[str, Sample]) -> None:
    upright = opened(samples["astronaut-sideways.jpg"]).autorot().numpy().astype(int)
    assert np.abs(upright - opened(samples["astronaut.jpg"]).numpy().astype(int)).mean() < 3


def test_sixteen_bits_and_twelve_megapixels_are_what_they_say(samples: dict[str, Sample]) -> None:
    assert opened(samples["flower-16bit.tiff"]).format == "ushort"
    large = opened(samples["grace-hopper-12mp.jpg"])
    assert large.width * large.height == 12_000_000


def test_drawn_wires_change_only_the_pixels_of_their_mask(samples: dict[str, Sample]) -> None:
    plain = np.asarray(opened(samples["china.jpg"]).numpy(), np.uint8)
    drawn, mask = draw_wires(plain, CHINA_WIRES, behind=CHINA_SKY)
    changed = (drawn != plain).any(axis=2)
    assert 0.003 < (mask > 0).mean() < 0.02
    assert changed[mask > 0].all()
    assert changed.mean() < 3 * (mask > 0).mean(), "beyond the mask there is only the softness of an edge"


@pytest.mark.parametrize("name", LOOKS)
def test_a_style_is_a_cube_that_others_read(name: str, tmp_path: Path) -> None:
    (path,) = [p for p in write_styles(tmp_path) if p.stem == name]
    transform = PyOpenColorIO.FileTransform(str(path), interpolation=PyOpenColorIO.INTERP_TETRAHEDRAL)
    processor = PyOpenColorIO.Config.CreateRaw().getProcessor(transform).getDefaultCPUProcessor()
    colours = np.random.default_rng(3).random((500, 3)).astype(np.float32)
    applied = colours.copy()
    processor.applyRGB(applied)  # in place
    assert np.abs(applied - grade(colours.astype(float), LOOKS[name])).max() < 1.5 / 255, "33 nodes hold the look"


@pytest.mark.parametrize("name", LOOKS)
def test_a_style_is_gentle(name: str) -> None:
    """Greys stay in order, skin and sky move, nothing clips."""
    ramp = grade(np.repeat(np.linspace(0, 1, 64)[:, None], 3, axis=1), LOOKS[name])
    assert (np.diff(ramp.mean(axis=1)) > 0).all()
    assert 0 < ramp.min() < 0.1
    assert 0.9 < ramp.max() < 1
    skin = np.array([[0.86, 0.66, 0.55]])
    assert 0.01 < np.abs(grade(skin, LOOKS[name]) - skin).max() < 0.25


def test_red_varies_fastest() -> None:
    rows = [line for line in cube("mono").splitlines() if line[0].isdigit()]
    assert len(rows) == SIZE**3
    red, green, blue = (float(rows[k].split()[0]) for k in (SIZE - 1, SIZE * (SIZE - 1), SIZE * SIZE * (SIZE - 1)))
    assert green > red > blue, "the weights 0.50, 0.35 and 0.15 of the conversion"
