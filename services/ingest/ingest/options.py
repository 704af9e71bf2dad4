"""What a caller may ask of an upload: the fields that come with its bytes, whichever way those come."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, ValidationError

from contracts.errors import error
from contracts.uploads import Choices, Lane, Subject
from ingest.pairing import Role
from ingest.styles import KINDS, NAME
from runtime.http import storable


def _bare(name: str) -> str:
    """A file's name without the folders before it."""
    return storable(re.split(r"[/\\]", name)[-1].strip())


FileName = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_bare)]


class Options(Choices):
    """The fields beside the file: what the caller wants done."""

    pipeline: str = Field(default="photo", pattern=r"^[a-z0-9-]{1,64}$", description="which pipeline")
    style_name: str | None = Field(
        default=None, pattern=f"^{NAME}$", description="what the style will be called that the pipeline makes"
    )
    subject: Subject | None = Field(
        default=None, description="whom it is about, as an id of yours; kept as a hash: everything of one can be erased"
    )
    batch: UUID | None = Field(default=None, description="id of the batch that the job belongs to")
    lane: Lane | None = Field(default=None, description="who goes first; default: interactive, in a batch bulk")
    draft: UUID | None = Field(default=None, description="id of the style's draft that the photo is for; no job then")
    role: Role | None = Field(default=None, description="in its draft: before or after the edit")
    file_name: FileName | None = Field(default=None, description="in its draft: the name by which it finds its pair")


# These are about the upload and its job, the others about what that makes.
NOT_OPTIONS: Final = {"pipeline", "batch", "lane", "draft", "role", "file_name"}
CHANGEABLE: Final = tuple(Choices.model_fields)  # what another version of an upload may have otherwise


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


def defaults(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Options for all uploads of a tenant, where these do not say otherwise. Raises ValueError."""
    if unknown := set(options) - set(CHANGEABLE):
        raise ValueError(f"no option of every upload: {', '.join(sorted(unknown))}")
    return Choices.model_validate(options).model_dump(mode="json", include=set(options))


def batch_of(fields: Mapping[str, str]) -> UUID | None:
    """The batch that an upload names. Raises REQUEST_INVALID."""
    if not fields.get("batch"):
        return None
    try:
        return UUID(fields["batch"])
    except ValueError as problem:
        raise error("REQUEST_INVALID", "batch: it is no id") from problem


def read_options(fields: Mapping[str, Any]) -> Options:
    """The options that these fields spell. Raises REQUEST_INVALID, which never holds a value."""
    if not fields.keys() <= Options.model_fields.keys():
        raise error("REQUEST_INVALID", "There is a field that is not known.")
    try:
        options = Options.model_validate(fields)
    except ValidationError as problem:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        raise error("REQUEST_INVALID", wrong) from problem
    if options.draft is None and (options.style_name is not None) != (options.pipeline in KINDS):
        what = "needs a name for the style that it makes" if options.pipeline in KINDS else "makes no style"
        raise error("REQUEST_INVALID", f"style_name: this pipeline {what}")
    return options
