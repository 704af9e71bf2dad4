"""The forms in which a finished photo is delivered.

One decode to the largest picture, then each size from the one before it, then every form of that size; of the smallest
the placeholder. A caller's table takes the place of VARIANTS.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final, NamedTuple

import pyvips
from pydantic import BaseModel, Field, JsonValue, ValidationError

from contracts.errors import error
from contracts.variants import FORMATS, ColorProfile, Format, VariantRow, VariantTable
from output.render import encode
from output.render.images import Rendered, decode, fitted, read_header, resized, to_8_bit, to_srgb, upright_size
from output.render.metadata import credit_in, xmp_packet
from output.render.placeholder import SIDE_MAX, thumbhash

# fmt: off
VARIANTS: Final[tuple[VariantRow, ...]] = (
    VariantRow(name="web",   format="jpeg", box=2048, quality=82),
    VariantRow(name="web",   format="webp", box=2048, quality=80),
    VariantRow(name="web",   format="avif", box=2048, quality=60),
    VariantRow(name="thumb", format="jpeg", box=400,  quality=80),
    VariantRow(name="thumb", format="webp", box=400,  quality=75),
    VariantRow(name="thumb", format="avif", box=400,  quality=50),
)
# fmt: on


class VariantsParameters(BaseModel):
    """What the command says."""

    table: VariantTable = Field(default=VARIANTS)
    color_profile: ColorProfile = "srgb"


class Form(NamedTuple):
    """One picture to make."""

    name: str
    size: tuple[int, int]
    format: Format
    quality: int


def variants(
    data: bytes, original: bytes | None = None, parameters: Mapping[str, JsonValue] | None = None
) -> list[Rendered]:
    """Every picture of the table for the image `data`, in the table's order; the same input gives the same bytes.

    Upright sRGB with its profile (or with an RGB profile of its own that is to be kept); creator and rights as XMP and
    no other metadata; never enlarged. The credit is read from `original` when the image is another: the phases in
    between hand on pixels only. Facts: `thumbhash`, in base64.
    Raises REQUEST_INVALID, IMAGE_CORRUPT and IMAGE_TOO_LARGE.
    """
    try:
        asked = VariantsParameters.model_validate(parameters or {})
    except ValidationError as invalid:
        raise error("REQUEST_INVALID", "The variants' table is not of the declared shape.") from invalid
    header = read_header(data)
    packet = xmp_packet(credit_in(original or data))
    forms = planned(asked.table, *upright_size(header))
    image = decode(data, max(form.size for form in forms), keep_profile=asked.color_profile == "keep")
    made: dict[str, Rendered] = {}
    for size, alike in groupby(sorted(forms, key=lambda form: form.size, reverse=True), key=lambda form: form.size):
        image = resized(image, *size).copy_memory()
        ready = encode.bare(to_8_bit(image), packet)
        for form in alike:
            encoded = encode.encoded(ready, form.format, form.quality)
            made[form.name] = Rendered(form.name, encoded, FORMATS[form.format][1], *form.size)
    first, *others = (made[form.name] for form in forms)
    return [replace(first, facts={"thumbhash": placeholder(image)}), *others]


def planned(table: Sequence[VariantRow], width: int, height: int) -> list[Form]:
    """The pictures that a photo of width x height is delivered in, none of them larger than it."""
    return [Form(name, size, row.format, row.quality) for row in table for name, size in _sized(row, width, height)]


def placeholder(image: pyvips.Image) -> str:
    """The thumbhash of an upright picture, as base64."""
    small = to_8_bit(to_srgb(resized(image, *fitted(image.width, image.height, SIDE_MAX))))
    rgba = small if small.hasalpha() else small.bandjoin(255)
    return base64.b64encode(thumbhash(rgba.numpy())).decode()


def _sized(row: VariantRow, width: int, height: int) -> Iterator[tuple[str, tuple[int, int]]]:
    if row.widths is None:
        yield row.names[0], fitted(width, height, row.box)
        return
    whole = min((side for side in row.widths if side >= width), default=None)
    for name, side in zip(row.names, row.widths, strict=True):
        if side < width:
            yield name, (side, max(1, round(height * side / width)))
        elif side == whole:
            yield name, (width, height)
