"""The look that a LUT describes is the look that the pixels get."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import SafelightError
from gpu_functions import images
from gpu_functions.style import cube, kernel
from gpu_functions.style.apply import CubeLut
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.pictures import encode

BOTH = pytest.mark.usefixtures("library")  # runs the test with either
DEPTHS = pytest.mark.parametrize("depth", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])


@pytest.fixture(params=["Halide", "OpenColorIO"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "OpenColorIO":
        monkeypatch.setattr(kernel, "COMPILED", False)
    elif not kernel.COMPILED:
        pytest.skip("Halide has no wheel for this machine")


def noise(depth: type, shape: tuple[int, ...] = (300, 211, 3)) -> images.Pixels:
    return np.asarray(np.random.default_rng(7).integers(0, np.iinfo(depth).max + 1, shape), depth)


@BOTH
@DEPTHS
@pytest.mark.parametrize("size", [2, 33, 65], ids=["smallest LUT", "usual LUT", "largest LUT"])
def test_an_identity_lut_gives_back_every_pixel(depth: type, size: int) -> None:
    pixels = noise(depth)
    assert (kernel.apply(pixels, cube.parse(cubes.text(size, cubes.identity))) == pixels).all()  # maximum error 0


@BOTH
@DEPTHS
@pytest.mark.parametrize("strength", [1.0, 0.5], ids=["whole look", "half the look"])
def test_a_look_is_the_tetrahedral_interpolation_of_its_rows(depth: type, strength: float) -> None:
    pixels, white = noise(depth), np.iinfo(depth).max
    found = kernel.apply(pixels, cube.parse(cubes.text(17, cubes.film)), strength)

    plain = pixels.reshape(-1, 3) / white
    wanted = plain + strength * (cubes.tetrahedral(plain, 17, cubes.film) - plain)
    error = np.abs(found.reshape(-1, 3) - np.clip(wanted, 0, 1) * white)
    assert found.dtype == depth
    # Half a code is rounding; float32 and the eight decimals of the text may add 0.02 codes of 65535.
    assert error.max() <= 0.52


@BOTH
@DEPTHS
def test_every_grey_stays_in_order(depth: type) -> None:
    white = np.iinfo(depth).max
    greys: np.ndarray = np.repeat(np.arange(white + 1, dtype=depth), 6144 // min(6144, white + 1))
    lut = cube.parse(cubes.text(33, lambda plain: plain**2.2))
    found = kernel.apply(np.repeat(greys[None, :, None], 3, axis=2), lut)[0].astype(int)
    assert (np.diff(found, axis=0) >= 0).all()
    assert (found[0].tolist(), found[-1].tolist()) == ([0] * 3, [white] * 3)


@pytest.mark.parametrize("pixels", [1, 15, 4095, 4096, 4097, 4111, 12_301])
@DEPTHS
def test_strips_have_no_seams_and_no_pixel_is_left_out(depth: type, pixels: int) -> None:
    found = kernel.apply(noise(depth, (3, 5000, 3))[:1, :pixels].copy(), lut := cube.parse(cubes.text(9, cubes.film)))
    whole = kernel.apply(noise(depth, (3, 5000, 3)), lut)[:1, :pixels]
    assert np.abs(found.astype(int) - whole).max() <= 1  # a small one is another library's


def test_strength_zero_leaves_the_picture_as_it_is() -> None:
    pixels = noise(np.uint8)
    assert (kernel.apply(pixels, cube.parse(cubes.text(5, cubes.film)), 0.0) == pixels).all()


@pytest.mark.parametrize(
    "header",
    ["DOMAIN_MIN 0.25 0.25 0.25\nDOMAIN_MAX 0.75 0.75 0.75", "LUT_3D_INPUT_RANGE 0.25 0.75"],
    ids=["domain as Adobe writes it", "domain as Resolve writes it"],
)
def test_a_domain_stretches_and_clamps(header: str) -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    found = kernel.apply(ramp, cube.parse(cubes.text(3, cubes.identity, header)))
    wanted = np.clip((ramp / 255 - 0.25) / 0.5, 0, 1) * 255
    assert np.abs(found - wanted).max() <= 0.51


@DEPTHS
def test_strength_in_a_narrow_domain_blends_with_the_colour_that_was(depth: type) -> None:
    pixels, white = noise(depth, (200, 90, 3)), np.iinfo(depth).max
    lut = cube.parse(cubes.text(9, cubes.film, "DOMAIN_MIN 0.2 0.1 0\nDOMAIN_MAX 0.9 1 0.7"))
    low, high = np.array(lut.low), np.array(lut.high)
    plain = pixels.reshape(-1, 3) / white
    look = cubes.tetrahedral((np.clip(plain, low, high) - low) / (high - low), 9, cubes.film)
    wanted = np.clip(plain + 0.6 * (look - plain), 0, 1) * white
    error = np.abs(kernel.apply(pixels, lut, 0.6).reshape(-1, 3) - wanted)
    assert error.max() <= 0.52


def test_alpha_is_untouched() -> None:
    pixels = noise(np.uint8, (40, 50, 4))
    inputs = {"image": encode(pixels), "lut": cubes.text(5, cubes.film)}
    outputs, facts = CubeLut().run(inputs, {"strength": 0.8})
    picture = images.read(outputs["image"].data)
    assert picture.alpha is not None
    assert (picture.alpha == pixels[..., 3]).all()
    assert not (picture.pixels == pixels[..., :3]).all()
    assert facts == {"strength": 0.8, "kind": "fixed", "lut_size": 5}


ROWS = "\n".join(["0 0 0"] * 8)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("", "no rows", id="an empty file"),
        pytest.param(ROWS, "LUT_3D_SIZE is missing", id="no size"),
        pytest.param(f"LUT_1D_SIZE 8\n{ROWS}", "1D", id="a 1D LUT"),
        pytest.param(f"LUT_3D_SIZE 1\n{ROWS}", "between", id="a size too small"),
        pytest.param(f"LUT_3D_SIZE 66\n{ROWS}", "between", id="a size too large"),
        pytest.param(f"LUT_3D_SIZE 99999999999999999999\n{ROWS}", "between", id="an absurd size"),
        pytest.param(f"LUT_3D_SIZE -2\n{ROWS}", "between", id="a negative size"),
        pytest.param(f"LUT_3D_SIZE two\n{ROWS}", "between", id="a size in words"),
        pytest.param(f"LUT_3D_SIZE 2 2\n{ROWS}", "not understood", id="two sizes"),
        pytest.param("LUT_3D_SIZE 2\n" + ROWS[:-6], "7 rows", id="a row missing"),
        pytest.param(f"LUT_3D_SIZE 2\n{ROWS}\n0 0 0", "9 rows", id="a row too many"),
        pytest.param("LUT_3D_SIZE 2\n0 0\n" + ROWS[6:], "three numbers", id="a row too short"),
        pytest.param("LUT_3D_SIZE 2\n0 0 nan\n" + ROWS[6:], "finite", id="not a number"),
        pytest.param("LUT_3D_SIZE 2\n0 0 -inf\n" + ROWS[6:], "finite", id="infinity"),
        pytest.param("LUT_3D_SIZE 2\n0 0 1e300\n" + ROWS[6:], "finite", id="far out of range"),
        pytest.param("LUT_3D_SIZE 2\n0 0 x\n" + ROWS[6:], "not a number", id="a word in a row"),
        pytest.param("LUT_3D_SIZE 2\n0 0 " + "1" * 5000 + "\n" + ROWS[6:], "three numbers", id="an endless number"),
        pytest.param(f"LUT_3D_SIZE 2\nDOMAIN_MIN 0 nan 0\n{ROWS}", "domain", id="a domain that is not a number"),
        pytest.param(f"LUT_3D_SIZE 2\nDOMAIN_MIN 1 0 0\n{ROWS}", "above", id="an empty domain"),
        pytest.param(f"LUT_3D_SIZE 2\nSURPRISE 1\n{ROWS}", "not understood", id="an unknown keyword"),
        pytest.param("#\n" * 20_000, "does not end", id="endless comments"),
        pytest.param("\x00\xff" * 50, "not understood", id="binary"),
        pytest.param("0" * (cube.BYTES_MAX + 1), "larger", id="a huge file"),
    ],
)
def test_a_hostile_cube_is_refused_with_the_reason(content: str, reason: str) -> None:
    with pytest.raises(SafelightError, match=reason) as refusal:
        cube.parse(content.encode("latin-1"))
    assert refusal.value.code == "STYLE_INVALID"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"LUT_3D_SIZE 2\n{ROWS}".encode(), id="no newline at the end"),
        pytest.param(f"LUT_3D_SIZE 2\n{ROWS}".replace("\n", "\r\n").encode(), id="Windows line ends"),
        pytest.param(f"\ufeffLUT_3D_SIZE 2\n\n{ROWS}\n\n".encode(), id="byte order mark and empty lines"),
        pytest.param(f'# x\nTITLE "0.5"\nLUT_3D_SIZE 2\n#y\n{ROWS}  # z\n#end'.encode(), id="comments anywhere"),
    ],
)
def test_what_tools_really_write_is_read(content: bytes) -> None:
    assert cube.parse(content).table.shape == (2, 2, 2, 3)


WORDS = st.sampled_from(
    [
        "LUT_3D_SIZE",
        "LUT_1D_SIZE",
        "DOMAIN_MIN",
        "DOMAIN_MAX",
        "TITLE",
        "#",
        "\n",
        "\r",
        " ",
        "2",
        "1e9",
        "nan",
        "-.",
        ROWS,
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=30).map(lambda words: " ".join(words).encode())))
def test_any_bytes_are_read_or_refused_and_nothing_else(content: bytes) -> None:
    with suppress(SafelightError):
        assert np.isfinite(cube.parse(content).table).all()
