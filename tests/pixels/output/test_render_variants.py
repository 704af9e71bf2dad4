"""Variants against an independent reader and resizer (Pillow)."""

from __future__ import annotations

import io
import time
from xml.etree import ElementTree

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms
from pydantic import JsonValue

from contracts.errors import SafelightError
from contracts.variants import FORMATS
from output.render import phases
from output.render.images import fitted, is_srgb, resized, to_8_bit
from output.render.variants import VARIANTS, variants
from tests.pixels.output.render_pictures import (
    CREATOR,
    RIGHTS,
    SECRETS,
    encoded,
    exif,
    lying_png,
    opened,
    photo,
    pixels,
    png_16_bit,
    psnr,
    srgb_profile,
    xmp,
)

P3 = pyvips.Operation.call("profile_load", "p3")
CMYK = pyvips.Operation.call("profile_load", "cmyk")
KEEP = {"color_profile": "keep"}


def rendered(data: bytes) -> dict[str, bytes]:
    return {variant.name: variant.data or b"" for variant in variants(data)}


def test_every_row_of_the_table_is_rendered_in_its_format_size_and_order() -> None:
    made = variants(encoded(photo(2400, 1601), "JPEG", quality=92))
    assert [variant.name for variant in made] == [name for row in VARIANTS for name in row.names]
    for row, variant in zip(VARIANTS, made, strict=True):
        image, side = opened(variant.data), row.box or 0
        assert (image.format or "").lower() == row.format
        assert variant.media_type == FORMATS[row.format][1]
        assert image.size == (variant.width, variant.height) == (side, round(1601 * side / 2400))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_pixels_are_those_of_an_independent_resize(format: str) -> None:
    source = photo(2400, 1600)
    data = encoded(source, format, **({"quality": 97, "subsampling": 0} if format == "JPEG" else {"compress_level": 1}))
    for variant in variants(data):
        expected = np.asarray(source.resize((variant.width, variant.height), Image.Resampling.LANCZOS)).astype(int)
        assert psnr(pixels(variant.data), expected) > (36 if variant.width > 400 else 31), variant.name


def test_a_callers_table_takes_the_place_of_ours() -> None:
    table: list[JsonValue] = [
        {"name": "card", "format": "webp", "widths": [300, 100, 900, 2000]},
        {"name": "full", "format": "jpeg", "box": 5000, "quality": 95},
        {"name": "small", "format": "avif", "box": 64},
    ]
    made = phases.variants(encoded(photo(800, 600)), None, {"table": table})
    assert [(one.name, one.width, one.height) for one in made] == [
        ("card-300.webp", 300, 225),
        ("card-100.webp", 100, 75),
        ("card-900.webp", 800, 600),  # of the widths that it does not have the smallest, at its own
        ("full.jpg", 800, 600),
        ("small.avif", 64, 48),
    ]
    assert all(opened(one.data).size == (one.width, one.height) for one in made)


def test_quality_is_what_the_row_says() -> None:
    row: dict[str, JsonValue] = {"name": "web", "format": "jpeg", "box": 400}
    sizes = [len(variants(encoded(photo()), None, {"table": [{**row, "quality": q}]})[0].data or b"") for q in (40, 95)]
    assert sizes[1] > 2.5 * sizes[0]


def test_a_command_with_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(SafelightError) as refusal:
        variants(encoded(photo()), None, {"table": [{"name": "web", "format": "gif", "box": 400}]})
    assert refusal.value.code == "REQUEST_INVALID"


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_profile_is_kept_where_that_is_asked(format: str) -> None:
    for one in variants(encoded(Image.new("RGB", (500, 500), (200, 30, 30)), format, icc_profile=P3), None, KEEP):
        assert opened(one.data).info["icc_profile"] == P3
        assert np.abs(pixels(one.data)[10, 10] - (200, 30, 30)).max() <= 4, one.name


def test_inks_become_srgb_even_where_a_profile_is_to_be_kept() -> None:
    inks = encoded(Image.new("CMYK", (300, 200), (200, 40, 20, 10)), "JPEG", icc_profile=CMYK)
    for one in variants(inks, None, KEEP):
        assert is_srgb(opened(one.data).info["icc_profile"]), one.name


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        pytest.param((6000, 4000), 2048, (2048, 1365), id="landscape is rounded to the nearest pixel"),
        pytest.param((4000, 6000), 400, (267, 400), id="portrait fits by its height"),
        pytest.param((400, 300), 400, (400, 300), id="what fits stays"),
        pytest.param((1, 5000), 400, (1, 400), id="a side never falls below one pixel"),
        pytest.param((30, 20), None, (30, 20), id="no box no change"),
    ],
)
def test_size_rule(size: tuple[int, int], box: int | None, expected: tuple[int, int]) -> None:
    assert fitted(*size, box) == expected


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (37, 23)], ids=lambda size: f"{size[0]} x {size[1]}")
def test_odd_sizes_are_rendered_and_never_enlarged(size: tuple[int, int]) -> None:
    for row, variant in zip(VARIANTS, variants(encoded(Image.new("RGB", size, (10, 200, 90)))), strict=True):
        assert opened(variant.data).size == (variant.width, variant.height) == fitted(*size, row.box)
        assert np.abs(pixels(variant.data) - (10, 200, 90)).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_the_tag_is_gone(orientation: int) -> None:
    quarters = np.zeros((80, 120, 3), np.uint8)
    quarters[:40, :60], quarters[:40, 60:], quarters[40:, :60] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # the Pillow transposition that undoes each value
    upright = Image.fromarray(quarters)
    if orientation > 1:
        upright = upright.transpose(Image.Transpose(turn[orientation]))
    for name, data in rendered(encoded(quarters, "JPEG", quality=95, exif=exif(orientation))).items():
        assert opened(data).getexif().get(0x0112, 1) == 1
        assert psnr(pixels(data), np.asarray(upright).astype(int)) > 20, name


def test_wide_gamut_colours_arrive_as_srgb_with_its_profile() -> None:
    # Display P3 (200, 30, 30) is sRGB (218, 0, 9): the P3 and sRGB primaries and the shared curve, computed below.
    linear = np.where(np.array([200, 30, 30]) > 10, ((np.array([200, 30, 30]) / 255 + 0.055) / 1.055) ** 2.4, 0)
    to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    out = np.clip(to_srgb @ linear, 0, 1)
    expected = np.where(out > 0.0031308, 1.055 * out ** (1 / 2.4) - 0.055, 12.92 * out) * 255
    patch = encoded(Image.new("RGB", (500, 500), (200, 30, 30)), icc_profile=P3)
    for name, data in rendered(patch).items():
        assert np.abs(pixels(data)[10, 10] - expected).max() <= 4, name
        profile = ImageCms.ImageCmsProfile(io.BytesIO(opened(data).info["icc_profile"]))
        seen = ImageCms.profileToProfile(opened(data).convert("RGB"), profile, ImageCms.createProfile("sRGB"))
        assert np.abs(np.asarray(seen).astype(int) - pixels(data)).max() <= 1, name


def test_srgb_is_known_by_its_colours_and_not_by_its_name() -> None:
    assert is_srgb(srgb_profile())
    assert not is_srgb(P3)
    assert not is_srgb(b"no profile at all" * 20)


def test_secrets_are_stripped_and_the_credit_stays_readable() -> None:
    source = encoded(photo(), "JPEG", exif=exif(), xmp=xmp("", "", extra=""), comment=b"SERIAL-4711")
    assert all(secret in source for secret in SECRETS)
    for name, data in rendered(source).items():
        assert not [secret for secret in SECRETS if secret in data], name
        assert not opened(data).getexif(), name
        assert credit(data) == ([CREATOR], RIGHTS), name


def test_credit_in_xmp_wins_over_exif() -> None:
    made = rendered(encoded(photo(), "JPEG", exif=exif(), xmp=xmp("Søren &amp; Co", "rights &lt;held&gt;")))
    assert {name: credit(data) for name, data in made.items()} == dict.fromkeys(made, (["Søren & Co"], "rights <held>"))


def test_credit_is_read_from_the_original_when_the_image_is_another() -> None:
    original = encoded(photo(), "JPEG", exif=exif(), xmp=xmp("Søren &amp; Co", "rights &lt;held&gt;"))
    for made in variants(encoded(photo(), "PNG"), original):
        assert credit(made.data or b"") == (["Søren & Co"], "rights <held>"), made.name


def test_an_xmp_bomb_is_not_opened() -> None:
    bomb = xmp("&b;", "&b;", '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>')
    made = rendered(encoded(photo(), "JPEG", xmp=bomb))
    assert not [name for name, data in made.items() if opened(data).info.get("xmp")]


def credit(data: bytes) -> tuple[list[str], str]:
    dc, rdf = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    root = ElementTree.fromstring(opened(data).info["xmp"])
    names = [item.text or "" for item in root.findall(f".//{dc}creator//{rdf}li")]
    return names, "".join(item.text or "" for item in root.findall(f".//{dc}rights//{rdf}li"))


def test_sixteen_bits_are_rounded_not_cut() -> None:
    # Four levels over 600 columns: cutting off would darken by half a level, 8-bit steps in between would band.
    ramp = np.linspace(100 * 257, 104 * 257, 600)
    source = np.repeat(np.repeat(ramp.round().astype(np.uint16)[np.newaxis, :, np.newaxis], 400, 0), 3, 2)
    for name, data in rendered(png_16_bit(source)).items():
        columns = pixels(data).mean(axis=(0, 2))
        ideal = np.interp(np.linspace(0, 1, len(columns)), np.linspace(0, 1, 600), ramp) / 257
        assert abs((columns - ideal).mean()) < 0.25, name
        assert np.abs(columns - ideal).max() < 1.6, name


def test_conversion_to_8_bit_is_exact_for_every_sample() -> None:
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = pyvips.Image.new_from_array(np.dstack([samples] * 3), interpretation="rgb16")
    assert (to_8_bit(image).numpy()[..., 0] == np.round(samples / 257)).all()


def test_transparency_is_kept_where_the_format_can_and_white_elsewhere() -> None:
    # Red in the middle of green that nobody sees.
    source = np.zeros((900, 900, 4), np.uint8)
    source[..., 1], source[300:600, 300:600] = 255, (255, 0, 0, 255)
    for name, data in rendered(encoded(source)).items():
        image = opened(data)
        side = image.width
        if name.endswith("jpg"):
            assert image.mode == "RGB"
            assert pixels(data)[5, 5].min() >= 250, name
        else:
            assert np.asarray(image.convert("RGBA"))[5, 5, 3] <= 2, name
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        seen = np.asarray(white.convert("RGB")).astype(int)
        assert np.abs(seen[side // 2, side // 2] - (255, 0, 0)).max() <= 8, name


def test_unseen_colours_do_not_bleed_into_seen_ones() -> None:
    source = np.zeros((90, 90, 4), np.uint8)
    source[..., 1], source[30:60, 30:60] = 255, (255, 0, 0, 255)
    small = resized(pyvips.Image.new_from_array(source, interpretation="srgb"), 37, 37).numpy()
    seen = small[small[..., 3] > 8]
    assert seen[:, 0].min() >= 250
    assert seen[:, 1].max() <= 5


def test_gray_stays_gray() -> None:
    for name, data in rendered(encoded(photo().convert("L"), "JPEG")).items():
        seen = pixels(data)
        assert np.ptp(seen, axis=2).max() <= 3, name
        expected = np.asarray(photo().convert("L").resize(opened(data).size, Image.Resampling.LANCZOS)).astype(int)
        assert psnr(seen[..., 1], expected) > 31, name


def test_cmyk_goes_through_its_profile() -> None:
    ink = Image.new("CMYK", (500, 400), (200, 40, 20, 10))
    paper = ImageCms.profileToProfile(
        ink,
        ImageCms.ImageCmsProfile(io.BytesIO(CMYK)),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert paper is not None
    expected = np.asarray(paper)[0, 0].astype(int)
    data = encoded(ink, "JPEG", quality=98, icc_profile=CMYK)
    for name, made in rendered(data).items():
        assert np.abs(pixels(made)[50, 50] - expected).max() <= 4, name


def test_a_profile_that_does_not_fit_is_ignored() -> None:
    data = encoded(Image.new("RGB", (50, 50), (200, 30, 30)), icc_profile=b"no profile at all" * 20)
    assert np.abs(pixels(rendered(data)["web.jpg"])[5, 5] - (200, 30, 30)).max() <= 3


def test_the_same_input_gives_the_same_bytes() -> None:
    data = encoded(photo(), "JPEG", exif=exif())
    assert rendered(data) == rendered(data)


WHOLE = {format: encoded(photo(), format) for format in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")}


@pytest.mark.parametrize("format", WHOLE)
def test_each_accepted_format_is_rendered(format: str) -> None:
    assert len(rendered(WHOLE[format])) == len(VARIANTS)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(pyvips.Image.black(90, 60, bands=5), id="spot colours besides alpha"),
        pytest.param(pyvips.Image.black(90, 60).cast("float"), id="float samples"),
        pytest.param(pyvips.Image.black(90, 60, bands=3).colourspace("lab"), id="Lab"),
        pytest.param(pyvips.Image.black(90, 60, bands=3).icc_export(output_profile="cmyk", depth=16), id="deep CMYK"),
        pytest.param(pyvips.Image.black(90, 60, bands=3).cast("uint"), id="32 bit"),
    ],
)
def test_unusual_tiffs_are_rendered(image: pyvips.Image) -> None:
    for name, data in rendered(image.tiffsave_buffer()).items():
        assert opened(data).size == (90, 60), name


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello, world" * 50, id="no image"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', id="svg"),
        pytest.param(b"P6 2 2 255\n" + b"\0" * 12, id="portable pixmap"),
        pytest.param(encoded(photo(), "GIF"), id="gif"),
        *[
            pytest.param(data[: int(len(data) * part)], id=f"{format} cut at {part:.0%}")
            for format, data in WHOLE.items()
            for part in (0.02, 0.5, 0.95)
        ],
        pytest.param(WHOLE["PNG"][:3000] + b"\xff" * 2000 + WHOLE["PNG"][5000:], id="PNG with foreign bytes inside"),
    ],
)
def test_what_cannot_be_decoded_whole_is_refused(data: bytes) -> None:
    with pytest.raises(SafelightError) as refusal:
        variants(data)
    assert refusal.value.code == "IMAGE_CORRUPT"


def test_a_header_that_claims_too_much_is_refused_before_decoding() -> None:
    begun = time.process_time()
    with pytest.raises(SafelightError) as refusal:
        variants(lying_png(60_000, 60_000))
    assert refusal.value.code == "IMAGE_TOO_LARGE"
    assert time.process_time() - begun < 0.2
