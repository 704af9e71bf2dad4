"""In which forms a photo is delivered: a table that a caller may bring.

    row                                            makes
    name web   format webp   box 2048              web.webp, inside a square of 2048 pixels
    name card  format avif   widths [320, 640]     card-320.avif, card-640.avif: a responsive set

Nothing is enlarged: a picture smaller than the box stays as large as it is, and of a set's widths that a picture does
not have only the smallest is made, as wide as the picture is.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

Format = Literal["jpeg", "webp", "avif"]

ROWS_MAX: Final = 16
WIDTHS_MAX: Final = 8  # of a row; browsers choose among four to six
PICTURES_MAX: Final = 32  # of a table: a job's status names each of them
SIDE_MAX: Final = 12_000  # pixels: above the 11,656 of the largest sensor, below WebP's 16,383

# fmt: off
FORMATS: Final[dict[Format, tuple[str, str]]] = {
    #        ending   media type
    "jpeg": ("jpg",  "image/jpeg"),
    "webp": ("webp", "image/webp"),
    "avif": ("avif", "image/avif"),
}
# fmt: on

Side = Annotated[int, Field(ge=16, le=SIDE_MAX)]


class VariantRow(BaseModel):
    """One row: `box` or `widths` in pixels, `quality` on the format's own scale."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"name": "web", "format": "webp", "box": 2048, "quality": 80}]},
    )

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="begins the artifacts' names; not `image`")
    format: Format
    box: Side | None = Field(default=None, description="side of the square that the picture fits into")
    widths: tuple[Side, ...] | None = Field(
        default=None, min_length=1, max_length=WIDTHS_MAX, description="a responsive set: widths in pixels"
    )
    quality: int = Field(default=80, ge=1, le=100)

    @model_validator(mode="after")
    def _sound(self) -> VariantRow:
        if self.name == "image":
            raise ValueError("image is what phases hand on to each other: a row has another name")
        if (self.box is None) == (self.widths is None):
            raise ValueError("a row has either a box or widths")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the artifacts that the row may make, in the order of its widths."""
        ending = FORMATS[self.format][0]
        if self.widths is None:
            return (f"{self.name}.{ending}",)
        return tuple(f"{self.name}-{width}.{ending}" for width in self.widths)


def _parsed(value: Any) -> Any:
    """A form's field holds the table as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("the table is no JSON") from None


def _distinct(rows: tuple[VariantRow, ...]) -> tuple[VariantRow, ...]:
    seen: set[str] = set()
    for at, row in enumerate(rows):
        if not seen.isdisjoint(row.names) or len(set(row.names)) < len(row.names):
            raise ValueError(f"row {at} makes a picture of a name that there is already")
        seen.update(row.names)
    if len(seen) > PICTURES_MAX:
        raise ValueError(f"the rows make {len(seen)} pictures; at most {PICTURES_MAX} are made")
    return rows


VariantTable = Annotated[
    tuple[VariantRow, ...],
    Field(min_length=1, max_length=ROWS_MAX),
    AfterValidator(_distinct),
    BeforeValidator(_parsed),
    WithJsonSchema(
        {"type": "array", "minItems": 1, "maxItems": ROWS_MAX, "items": VariantRow.model_json_schema()}
    ),  # whole: a form's description has no place for definitions
]
ColorProfile = Literal["srgb", "keep"]  # whether pictures are converted to sRGB, or keep an RGB profile of their own
