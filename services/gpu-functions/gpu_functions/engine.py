"""What an engine is: loaded once, then run on one item after the other, or on several together.

An engine is a function of its inputs and parameters: no network, no disk but its weights, no memory of
the item before. All that it may keep between runs is what its constructor loaded. Several items together
give what each gives alone, bit for bit: company makes work faster, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

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


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine is loaded. `device` is "cpu" or "gpu"; `weights` are the files of its row, by name, verified."""

    device: str = "cpu"
    weights: Mapping[str, Path] = field(default_factory=dict)


OWN_CPU: Final = Place()


class Work(Protocol):
    """What an engine may say and ask while it works on one item. None of it is owed by an engine that is quick."""

    def tell(self, fraction: float, facts: Facts | None = None) -> None:
        """So far (0..1), with numbers that a person can follow (a loss, seconds to go). Raises nothing."""
        ...

    def show(self, role: str, output: Output) -> None:
        """Write an output before the end, such as a preview; a later one of the same role replaces it.

        Raises STORAGE_UNAVAILABLE, MESSAGE_INVALID when the item has no such output.
        """
        ...

    def checkpoint(self) -> bytes | None:
        """What `save` last kept for this very work, in this process or one before that was preempted; or None.

        It was written by this engine, yet it comes from storage: read it as hostile bytes.
        """
        ...

    def save(self, checkpoint: bytes) -> None:
        """Keep what it takes to go on from here after a preemption. Raises nothing: the next one may get through."""
        ...


class Alone:
    """Work that nobody watches: a bench, a test, an engine called as a function."""

    def tell(self, fraction: float, facts: Facts | None = None) -> None:
        """See Work."""

    def show(self, role: str, output: Output) -> None:
        """See Work."""

    def checkpoint(self) -> bytes | None:
        """See Work."""
        return None

    def save(self, checkpoint: bytes) -> None:
        """See Work."""


ALONE: Final[Work] = Alone()


Made = tuple[dict[str, Output], Facts]


class Engine(Protocol):
    """One way to do the work of a function. Its class is constructed with a `Place` and loads there what is heavy."""

    def run(self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work) -> Made:
        """Work on one item; inputs and outputs are by role.

        Raises SafelightError for what is wrong with the inputs, pydantic.ValidationError for
        parameters of the wrong shape. Anything else is a bug and is reported as INTERNAL.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One item among several: what `run` is given."""

    inputs: Mapping[str, bytes]
    parameters: Mapping[str, JsonValue]
    work: Work = ALONE


@runtime_checkable
class Together(Protocol):
    """An engine that is faster with several items at hand. It is an `Engine`, too."""

    def run_many(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Made | Exception]]:
        """Give back each task once, in any order, as soon as it is over; an exception is what `run` would have raised.

        To take a task is to claim and to download it: an engine takes as many as it has room for, and the others
        later. What this raises itself fails all tasks that were taken and not given back.
        """
        ...


def one_by_one(engine: Engine, tasks: Iterable[Task]) -> Iterator[tuple[Task, Made | Exception]]:
    """`Together.run_many` of an engine that has no use for company: the next task is taken when this one is over."""
    for task in tasks:
        made: Made | Exception
        try:
            made = engine.run(task.inputs, task.parameters, task.work)
        except Exception as problem:  # the boundary: a bug in one item's work must not harm its neighbours
            made = problem
        yield task, made


def input_of(inputs: Mapping[str, bytes], role: str) -> bytes:
    """The bytes of `role`. Raises MESSAGE_INVALID when the item does not have it."""
    try:
        return inputs[role]
    except KeyError:
        raise error("MESSAGE_INVALID", f"the item has no input of the role '{role}'") from None
