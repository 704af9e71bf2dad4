"""A channel: one subject that carries one type of message on one stream.

Subjects read `kind.family.version.verb[.lane]` and never contain ids, which would blow up
metric labels; ids ride in headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from contracts.message import Message

M = TypeVar("M", bound=Message)

SUBJECT: Final = re.compile(r"^(cmd|evt)\.[a-z]+\.v[1-9][0-9]*\.[a-z]+(\.[a-z]+)?$")


@dataclass(frozen=True, slots=True)
class Channel(Generic[M]):
    """One subject, the message it carries, and the stream that stores it.

    Raises:
        ValueError: the subject does not read `kind.family.version.verb[.lane]`.
    """

    subject: str
    message: type[M]
    stream: str

    def __post_init__(self) -> None:
        if not SUBJECT.match(self.subject):
            raise ValueError(f"subject {self.subject!r} does not read kind.family.version.verb[.lane]")

    @property
    def kind(self) -> str:
        """`cmd` (imperative, one owner) or `evt` (past tense, many readers)."""
        return self.subject.split(".", 1)[0]
