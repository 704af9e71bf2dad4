"""Which GPU function runs which phase, with what, and where.

The lane is the last word of the command's subject; the provider order is the order of trust:
the first that is healthy gets the call. Reading this table is reading what the bridge does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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


def function_of(lane: str) -> Function | None:
    """The function that serves a lane, or None."""
    return next((row for row in FUNCTIONS if row.lane == lane), None)


def function_named(name: str) -> Function:
    """The row of a function. Raises StopIteration when there is none."""
    return next(row for row in FUNCTIONS if row.name == name)
