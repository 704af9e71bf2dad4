"""Which GPU function runs which phase, with what, and where.

The lane is the last word of the command's subject; the provider order is the order of trust:
the first that is allowed and takes work gets the call. Reading these tables is reading what the bridge does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.errors import error


@dataclass(frozen=True, slots=True)
class Function:
    """`inputs` are roles of the command that the function reads; `outputs` maps its roles to artifact names."""

    name: str
    lane: str
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    providers: tuple[str, ...]


_IMAGE: Final = {"image": "image.png"}

# fmt: off
FUNCTIONS: Final[tuple[Function, ...]] = (
    #        name              lane       inputs            outputs  providers in order
    Function("style.apply",    "style",   ("image", "lut"), _IMAGE,  ("local",)),
    Function("retouch.faces",  "retouch", ("image",),       _IMAGE,  ("local",)),
    Function("cleanup.remove", "cleanup", ("image",),       _IMAGE,  ("local",)),
)
# fmt: on

ENGINES: Final = {"local": "cpu"}  # what a provider computes on, as a command's `engine` asks for it


def allowed(function: Function, engine: str | None, providers: Sequence[str]) -> tuple[str, ...]:
    """The providers that may do it, in the function's order. No engine is any; no providers are all."""
    return tuple(
        name
        for name in function.providers
        if (engine is None or ENGINES.get(name) == engine) and (not providers or name in providers)
    )


def function_of(lane: str) -> Function | None:
    """The function that serves a lane, or None."""
    return next((row for row in FUNCTIONS if row.lane == lane), None)


def function_named(name: str) -> Function:
    """The row of a function. Raises FUNCTION_UNKNOWN when there is none (any more)."""
    for row in FUNCTIONS:
        if row.name == name:
            return row
    raise error("FUNCTION_UNKNOWN", f"the catalogue holds no function {name}")
