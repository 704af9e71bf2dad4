"""A look from another tool becomes a style of our own: its numbers, and nothing else of it."""

from __future__ import annotations

import numpy as np
import pytest
import pyvips

from contracts.errors import SafelightError
from gpu_functions.catalog import choose
from gpu_functions.engine import ALONE
from gpu_functions.style import cube, grid, importing
from gpu_functions.weights import EMPTY

SECRET = "A client's wedding"


def look(size: int = 17, comment: str = SECRET) -> bytes:
    """A warm look in a file with somebody's words in it."""
    table = grid.identity(size) ** np.array([0.8, 1.0, 1.3], np.float32)
    text = cube.write(cube.Cube(table, (0.0,) * 3, (1.0,) * 3), comment).decode()
    return f"# {comment}\n{text}".encode()


def imported(data: bytes) -> tuple[bytes, pyvips.Image, dict[str, object]]:
    engine = choose("style.import").row.load(EMPTY)
    outputs, facts = engine.run({"original": data}, {}, ALONE)
    return outputs["cube"].data, pyvips.Image.new_from_buffer(outputs["preview"].data, ""), dict(facts)


def test_the_numbers_stay_and_the_words_go() -> None:
    made, _, facts = imported(look())
    assert np.abs(cube.parse(made).table - cube.parse(look()).table).max() < 1e-6
    assert SECRET.encode() not in made
    assert facts["lut_size"] == 17


def test_the_chart_shows_the_look_below_what_it_is_applied_to() -> None:
    _, preview, facts = imported(look())
    before, after = np.split(preview.numpy().astype(np.int16), 2)
    assert before.shape == after.shape == (importing.CHART[1] + importing.GREYS, importing.CHART[0], 3)
    warmer = (after - before).mean(axis=(0, 1))
    assert warmer[0] > 5 > abs(warmer[1]) < 2 < -warmer[2]
    assert 0.01 < float(str(facts["mean_change"])) < 0.2


def test_a_look_that_changes_nothing_is_shown_as_such() -> None:
    plain = cube.write(cube.Cube(grid.identity(9), (0.0,) * 3, (1.0,) * 3), "")
    _, preview, facts = imported(plain)
    before, after = np.split(preview.numpy().astype(np.int16), 2)
    assert np.abs(after - before).mean() < 1, "but for the JPEG"
    assert facts["mean_change"] == 0


def test_a_domain_is_followed() -> None:
    half = cube.Cube(grid.identity(9), (0.0,) * 3, (2.0,) * 3)  # 0..2 becomes 0..1: everything at half
    colours = importing.chart()
    assert np.abs(importing.graded(colours, half) - colours / 2).max() < 1e-5


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"LUT_1D_SIZE 16\n", id="a 1D LUT"),
        pytest.param(look()[:-40], id="a row is missing"),
        pytest.param(b"# nothing else\n", id="a comment alone"),
        pytest.param(b"PK\x03\x04", id="no text"),
    ],
)
def test_what_is_no_look_is_refused_in_words_of_ours(data: bytes) -> None:
    with pytest.raises(SafelightError) as problem:
        imported(data)
    assert problem.value.code == "STYLE_INVALID"
    assert SECRET not in problem.value.detail
