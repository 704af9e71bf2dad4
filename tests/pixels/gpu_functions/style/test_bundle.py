"""A style's file comes back as it was written, bakes to one LUT, and is refused when it is no style."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from contracts.errors import SafelightError
from gpu_functions.style import bundle, cube, grid
from tests.pixels.gpu_functions import cubes
from tests.pixels.gpu_functions.style import looks

TOLD = {"format": 1, "metrics": {"psnr": 41.5}, "provenance": {"seed": 7}}


def filmed() -> grid.Floats:
    return looks.film(grid.identity().astype(float)).astype(np.float32)


def style(**changed: Any) -> bundle.Style:
    sure = np.ones((33, 33, 33), np.float32)
    plain = bundle.Style(filmed()[None], sure, None, {"w": np.eye(3, dtype=np.float32)}, {"psnr": 41.5}, {"seed": 7})
    return replace(plain, **changed)


def file(tensors: dict[str, Any], told: Any = TOLD) -> bytes:
    text = told if isinstance(told, str) else json.dumps(told)
    return bytes(save(tensors, {"style": text}))


def test_a_style_comes_back_as_it_was_written() -> None:
    written = bundle.write(style(predictor=b"a model"))
    found = bundle.read(written)
    assert (found.bases == filmed()).all()
    assert (found.confidence == 1).all()
    assert found.predictor == b"a model"
    assert (found.network["w"] == np.eye(3)).all()
    assert (found.metrics, found.provenance) == ({"psnr": 41.5}, {"seed": 7})
    assert bundle.write(found) == written
    assert bundle.is_bundle(written)
    assert not bundle.is_bundle(cubes.text(2, cubes.identity))


def test_where_a_style_is_sure_it_is_its_bases_and_elsewhere_nothing_changes() -> None:
    sure = np.zeros((33, 33, 33), np.float32)
    sure[16:] = 1
    baked = bundle.baked(style(confidence=sure), np.ones(3), np.ones(1)).table
    assert np.abs(baked[16:] - filmed()[16:]).max() < 1e-6
    assert (baked[:16] == grid.identity()[:16]).all()


def test_gains_are_factors_on_light_before_the_look() -> None:
    gains = np.array([0.5, 1.0, 1.5])
    baked = bundle.baked(style(), gains, np.ones(1)).table[4:-4:6, 4:-4:6, 4:-4:6]
    plain = grid.identity()[4:-4:6, 4:-4:6, 4:-4:6].astype(float)
    wanted = looks.film(looks.from_light(looks.to_light(plain) * gains))
    assert np.abs(baked - wanted).max() < 0.02  # the look between its grid points is straight


def test_bases_are_added_by_their_weights() -> None:
    bases = np.stack([filmed(), grid.identity()])
    baked = bundle.baked(style(bases=bases, predictor=b"x"), np.ones(3), np.array([0.25, 0.75])).table
    assert np.abs(baked - (0.25 * filmed() + 0.75 * grid.identity())).max() < 1e-6


@pytest.mark.parametrize(
    ("gains", "weights"),
    [
        ([1, 1, np.nan], [1]),
        ([1, 1, 1e9], [1]),
        ([0, 1, 1], [1]),
        ([1, 1], [1]),
        ([1, 1, 1], [1, 1]),
        ([1, 1, 1], [np.inf]),
    ],
    ids=["no number", "a huge gain", "no light", "two gains", "two weights", "an endless weight"],
)
def test_what_no_predictor_should_say_is_refused(gains: list[float], weights: list[float]) -> None:
    with pytest.raises(SafelightError, match="STYLE_INVALID"):
        bundle.baked(style(), np.array(gains, float), np.array(weights, float))


def test_a_thumbnail_shows_the_whole_picture_at_either_depth() -> None:
    picture = np.zeros((600, 900, 3), np.uint16)
    picture[:, 450:] = [65535, 32768, 0]
    found = bundle.thumbnail(picture)
    assert found.shape == (3, 256, 256)
    assert found.dtype == np.float32
    assert (found[:, :, :127] == 0).all()
    assert np.abs(found[:, :, 129:].mean(axis=(1, 2)) - [1, 32768 / 65535, 0]).max() < 1e-3
    assert np.abs(bundle.thumbnail((picture >> 8).astype(np.uint8)) - found).max() < 0.01


BASES, SURE = filmed()[None], np.ones((33, 33, 33), np.float32)
NAN = np.full((33, 33, 33), np.nan, np.float32)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "no safetensors", id="nothing"),
        pytest.param(b"\xff" * 100, "no safetensors", id="an endless header"),
        pytest.param(b"\x02\0\0\0\0\0\0\0{}", "", id="an empty header"),
        pytest.param(bytes(bundle.BYTES_MAX + 1), "larger", id="a huge file"),
        pytest.param(bundle.write(style())[:-1], "do not fit", id="cut short"),
        pytest.param(
            file({"bases": BASES, "confidence": SURE}, {**TOLD, "format": 2}), "another format", id="new format"
        ),
        pytest.param(file({"bases": BASES, "confidence": SURE}, "{"), "no description", id="broken JSON"),
        pytest.param(file({"bases": BASES, "confidence": SURE}, "[" * 50_000), "no description", id="deep JSON"),
        pytest.param(
            file({"bases": BASES, "confidence": SURE}, '{"format": 1, "metrics": {"a": NaN}, "provenance": {}}'),
            "no description",
            id="a number that is none",
        ),
        pytest.param(file({"confidence": SURE}), "no bases", id="no bases"),
        pytest.param(file({"bases": BASES}), "no confidence", id="no confidence"),
        pytest.param(file({"bases": BASES[:, :17], "confidence": SURE}), "no bases", id="a wrong grid"),
        pytest.param(file({"bases": BASES.astype(np.float64), "confidence": SURE}), "no style has", id="a wrong type"),
        pytest.param(file({"bases": np.repeat(BASES, 9, 0), "confidence": SURE}), "1 to 8", id="too many bases"),
        pytest.param(file({"bases": np.repeat(BASES, 2, 0), "confidence": SURE}), "weighs", id="nothing weighs them"),
        pytest.param(file({"bases": BASES * 1e6, "confidence": SURE}), "out of range", id="far out of range"),
        pytest.param(file({"bases": BASES, "confidence": NAN}), "not finite", id="not finite"),
        pytest.param(file({"bases": BASES, "confidence": SURE * 2}), "between 0 and 1", id="too confident"),
        pytest.param(file({"bases": BASES, "confidence": SURE, "x": SURE}), "no style has", id="a stranger"),
        pytest.param(
            file({"bases": BASES, "confidence": SURE, "predictor": np.zeros(9 << 20, np.uint8)}),
            "too large",
            id="a big model",
        ),
        pytest.param(
            file({"bases": BASES, "confidence": SURE} | {f"network.{n}": SURE[0, 0] for n in range(200)}),
            "not what a style has",
            id="too many tensors",
        ),
    ],
)
def test_a_hostile_bundle_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(SafelightError, match=reason) as refusal:
        bundle.read(content)
    assert refusal.value.code == "STYLE_INVALID"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 700), st.binary(min_size=1, max_size=8))
def test_any_change_of_the_header_is_read_or_refused_and_nothing_else(at: int, put: bytes) -> None:
    content = bytearray(bundle.write(style()))
    content[at : at + len(put)] = put
    with suppress(SafelightError):
        assert np.isfinite(bundle.read(bytes(content)).bases).all()


def test_a_written_cube_is_read_as_the_same_lut() -> None:
    lut = cube.Cube(filmed(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = cube.parse(cube.write(lut, 'The "warm" one é\nDOMAIN_MIN 9 9 9'))
    assert np.abs(found.table - lut.table).max() <= 6e-8
    assert (found.low, found.high) == (lut.low, lut.high)
    wide = cube.Cube(filmed()[::16, ::16, ::16], (-0.5, 0.0, 0.25), (1.5, 2.0, 1.0))
    again = cube.parse(cube.write(wide, "x"))
    assert (again.low, again.high) == (wide.low, wide.high)
