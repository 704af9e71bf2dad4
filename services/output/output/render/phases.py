"""The phases as the sandbox calls them: pictures to store out of the image, the original and the command's parameters.

`original` is None when the image is the original itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from output.render import crop as composition
from output.render import variants as forms
from output.render.images import Rendered


def crop(data: bytes, original: bytes | None, parameters: Mapping[str, JsonValue]) -> list[Rendered]:
    """The `crop` phase. Raises what `crop.crop` raises."""
    return [composition.crop(data, parameters)]


def variants(data: bytes, original: bytes | None, parameters: Mapping[str, JsonValue]) -> list[Rendered]:
    """The `variants` phase. Raises what `variants.variants` raises."""
    return forms.variants(data, original, parameters)
