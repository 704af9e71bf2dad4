"""The placeholder, bit for bit against what the reference implementation (thumbhash 0.1.1 for JavaScript) made."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from PIL import Image

from output.render.placeholder import thumbhash
from output.render.variants import variants
from tests.pixels.output.render_pictures import encoded


@pytest.mark.parametrize(
    ("width", "height", "opaque", "expected"),
    [
        pytest.param(100, 67, True, "de17061d8c7677775766664078278b7a975a9057f9", id="landscape"),
        pytest.param(100, 9, True, "585706198850534662875887a4acffb577", id="a strip"),
        pytest.param(1, 1, True, "c3060a570008f708888788708f7088f80888707ff8000000", id="one pixel"),
        pytest.param(40, 60, False, "1f0886130a28876807799a98698067f850595769877778", id="transparent portrait"),
        pytest.param(33, 100, False, "20f88102042868849806087c726fd70a50685569968677", id="transparent, narrow"),
    ],
)
def test_pixels_become_what_the_reference_makes_of_them(width: int, height: int, opaque: bool, expected: str) -> None:
    y, x = np.mgrid[0:height, 0:width]
    alpha = np.full_like(x, 255) if opaque else (x * 6 + y) % 256
    green = (5 * y + x * (1 if opaque else 2)) % 256
    rgba = np.stack([(x * x + 3 * y) % 256, green, (x * y + 40) % 256, alpha], 2).astype(np.uint8)
    assert thumbhash(rgba).hex() == expected


def test_a_picture_of_one_colour_has_an_average_and_no_waves() -> None:
    grey = thumbhash(np.full((8, 8, 4), (120, 120, 120, 255), np.uint8))
    assert grey[:5].hex() == "1e08020700", "as the reference"
    assert set(grey[5:]) == {0}


def test_the_variants_tell_the_placeholder_of_the_upright_picture() -> None:
    halves = np.zeros((300, 200, 3), np.uint8)
    halves[:150] = 255
    upright, *others = variants(encoded(halves))
    turned, *_ = variants(encoded(Image.fromarray(halves).rotate(90, expand=True), "TIFF", tiffinfo={274: 6}))
    assert upright.facts == turned.facts
    assert len(base64.b64decode(str(upright.facts["thumbhash"]))) == 21
    assert not any(other.facts for other in others)
