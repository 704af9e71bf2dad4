"""What a caller may ask of an upload: the fields that come with its bytes, whichever way those come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field, ValidationError

from contracts.errors import error
from contracts.uploads import Lane
from contracts.variants import ColorProfile, VariantTable
from ingest.styles import KINDS, NAME

Aspect = Literal["original", "none", "1:1", "4:5", "5:4", "3:2", "2:3", "16:9", "9:16"]


class Options(BaseModel):
    """The fields beside the file: what the caller wants done."""

    pipeline: str = Field(default="photo", pattern=r"^[a-z0-9-]{1,64}$", description="which pipeline")
    style: str | None = Field(
        default=None, description="`name` or `name@version` of a style; none leaves the colours alone"
    )
    style_strength: float = Field(default=1.0, ge=0, le=1, description="0 keeps the original's colours, 1 is the style")
    crop: Aspect = Field(default="original", description="aspect of the crop; none keeps the frame")
    straighten: bool = Field(default=True, description="whether the crop makes a crooked horizon level")
    style_name: str | None = Field(
        default=None, pattern=f"^{NAME}$", description="what the style will be called that the pipeline makes"
    )
    variants: VariantTable | None = Field(
        default=None, description="the forms in which the photo is delivered, as JSON; none: the usual six"
    )
    color_profile: ColorProfile = Field(
        default="srgb", description="keep: the photo's own RGB profile stays, where nothing but the crop changes it"
    )
    batch: UUID | None = Field(default=None, description="id of the batch that the job belongs to")
    lane: Lane | None = Field(default=None, description="who goes first; default: interactive, in a batch bulk")


NOT_OPTIONS: Final = {"pipeline", "batch", "lane"}  # these are about the job, the others about what it makes


# What another version of an upload may have otherwise: all that is about what is made, but for the name of a style.
CHANGEABLE: Final = tuple(name for name in Options.model_fields if name not in NOT_OPTIONS | {"style_name"})


@dataclass(frozen=True, slots=True)
class Form:
    """The fields that one route takes beside the file. `pipeline`: it is for that one, and `name` is its style's."""

    fields: tuple[str, ...] = tuple(Options.model_fields)
    pipeline: str | None = None

    def read(self, texts: Mapping[str, str]) -> dict[str, str]:
        """What was sent, as fields of Options."""
        if self.pipeline is None:
            return dict(texts)
        return {"style_name" if name == "name" else name: text for name, text in texts.items()} | {
            "pipeline": self.pipeline
        }


ANY: Final = Form()
TRAINING: Final = Form(("name", "lane"), "style-training")
IMPORT: Final = Form(("name", "lane"), "style-import")


def read_options(fields: Mapping[str, Any]) -> Options:
    """The options that these fields spell. Raises REQUEST_INVALID, which never holds a value."""
    try:
        options = Options.model_validate(fields)
    except ValidationError as problem:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        raise error("REQUEST_INVALID", wrong) from problem
    if (options.style_name is not None) != (options.pipeline in KINDS):
        what = "needs a name for the style that it makes" if options.pipeline in KINDS else "makes no style"
        raise error("REQUEST_INVALID", f"style_name: this pipeline {what}")
    return options
