"""The phases as the sandbox calls them: bytes and the command's parameters in, pictures to store out."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from output.render import crop as composition
from output.render import variants as forms
from output.render.images import Rendered


def crop(data: bytes, parameters: Mapping[str, JsonValue]) -> list[Rendered]:
    """The `crop` phase. Raises what `crop.crop` raises."""
    return [composition.crop(data, parameters)]


def variants(data: bytes, _parameters: Mapping[str, JsonValue]) -> list[Rendered]:
    """The `variants` phase. Raises what `variants.variants` raises."""
    return forms.variants(data)
