"""Stored bytes as other rooms see them: by key, hash and size, never by content."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]  # a UUID
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ObjectRef(BaseModel):
    """One object in the bucket. `sha256` and `size` (bytes) are of its content.

    `sealed` is the id of the key under which it is stored, None for one that lies there as it is: see `sealed`.
    """

    model_config = ConfigDict(frozen=True)

    key: str = Field(min_length=1, max_length=512)
    sha256: Sha256
    size: int = Field(ge=0)
    media_type: str
    sealed: KeyId | None = None


class Artifact(ObjectRef):
    """An object that a phase wrote. `name` is unique within the phase; width and height are pixels of images."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    width: int | None = None
    height: int | None = None
