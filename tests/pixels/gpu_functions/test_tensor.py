"""The GPU's way over a picture, on torch's CPU: the pixels of the CPU's engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpu_functions import images
from gpu_functions.catalog import CATALOG, choose
from gpu_functions.engine import Place
from gpu_functions.style import cube, kernel, tensor
from gpu_functions.style.apply import CubeLut
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.pictures import deepen, encode
from tests.pixels.gpu_functions.test_adaptive import adaptive

CPU = torch.device("cpu")
DEEP = pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "16 bit"])
NARROW = "DOMAIN_MIN 0.2 0.1 0\nDOMAIN_MAX 0.9 1 0.7"
WIDE = "DOMAIN_MIN -0.2 -0.1 0\nDOMAIN_MAX 1.9 1 1.7"
DOMAINS = pytest.mark.parametrize("header", ["", NARROW, WIDE], ids=["usual domain", "narrow domain", "wide domain"])


@pytest.fixture(scope="module")
def photo(astronaut: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The face, the suit and the flag: 128×200."""
    return astronaut[60:188, 150:350]


def picture(photo: npt.NDArray[np.uint8], deep: bool) -> images.Pixels:
    return deepen(photo) if deep else photo


@DEEP
@DOMAINS
@pytest.mark.parametrize("size", [2, 33, 40])
def test_the_gpu_engine_gives_the_pixels_of_the_cpu_engine(
    photo: npt.NDArray[np.uint8], deep: bool, header: str, size: int
) -> None:
    pixels, lut = picture(photo, deep), cube.parse(cubes.text(size, cubes.film, header))
    found, wanted = tensor.apply(pixels, lut, CPU), kernel.apply(pixels, lut)
    assert found.dtype == pixels.dtype
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 1  # half a code may be rounded to either side


@DEEP
@pytest.mark.parametrize("size", [2, 17, 33])
def test_an_identity_gives_back_every_pixel(photo: npt.NDArray[np.uint8], deep: bool, size: int) -> None:
    pixels = picture(photo, deep)
    assert (tensor.apply(pixels, cube.parse(cubes.text(size, cubes.identity)), CPU) == pixels).all()


def test_a_picture_of_several_chunks_has_no_seams(
    photo: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    lut = cube.parse(cubes.text(9, cubes.film))
    whole = tensor.apply(photo, lut, CPU)
    monkeypatch.setattr(tensor, "CHUNK", 10_007)
    assert (tensor.apply(photo, lut, CPU) == whole).all()


@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
@DOMAINS
def test_an_engine_on_either_device_does_the_same_work(
    photo: npt.NDArray[np.uint8], strength: float, header: str
) -> None:
    inputs = {"image": encode(photo), "lut": cubes.text(17, cubes.film, header)}
    (one, told), (other, facts) = (
        kind(Place("gpu")).run(inputs, {"strength": strength}) for kind in (tensor.TensorLut, CubeLut)
    )
    assert told == facts
    pixels = [images.read(outputs["image"].data).pixels.astype(int) for outputs in (one, other)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    if strength == 0:
        assert (pixels[0] == photo).all()


def test_a_learnt_style_looks_the_same_from_both(photo: npt.NDArray[np.uint8]) -> None:
    inputs = {"image": encode(photo), "lut": adaptive()}
    (one, told), (other, facts) = (kind().run(inputs, {}) for kind in (tensor.TensorLut, CubeLut))
    assert told == facts
    pixels = [images.read(outputs["image"].data).pixels.astype(int) for outputs in (one, other)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_a_gpu_takes_it_first_and_a_cpu_never() -> None:
    assert choose("style.apply", "gpu", CATALOG).row.engine == "tensor-lut"
    assert choose("style.apply", "cpu", CATALOG).row.engine == "cube-lut"
