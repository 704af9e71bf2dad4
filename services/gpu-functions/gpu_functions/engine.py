"""What an engine is: loaded once, then run on one item after the other.

An engine is a function of its inputs and parameters: no network, no disk, no memory of the
item before. All that it may keep between runs is what its constructor loaded (weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue

from contracts.errors import error

Facts = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Output:
    """The bytes of one result. Width and height are pixels of images, else None."""

    data: bytes
    media_type: str
    width: int | None = None
    height: int | None = None


class Engine(Protocol):
    """One way to do the work of a function. The constructor takes nothing and loads what is heavy."""

    def run(self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue]) -> tuple[dict[str, Output], Facts]:
        """Work on one item; inputs and outputs are by role.

        Raises SafelightError for what is wrong with the inputs, pydantic.ValidationError for
        parameters of the wrong shape. Anything else is a bug and is reported as INTERNAL.
        """
        ...


def input_of(inputs: Mapping[str, bytes], role: str) -> bytes:
    """The bytes of `role`. Raises MESSAGE_INVALID when the item does not have it."""
    try:
        return inputs[role]
    except KeyError:
        raise error("MESSAGE_INVALID", f"the item has no input of the role '{role}'") from None
