"""Which photo after an edit belongs to which before it. Pure: names and times in, pairs out.

    first   by name: the one photo before and the one after whose names are the same but for case and ending
    then    by time: of photos that were taken in the same second as many before as after, in the order of their
            names (a burst); where their numbers differ, nobody can tell which is missing, and none is paired

What has no partner is left over. A time is as the camera showed it: of its zone, only one of two files may know.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Final, Literal
from uuid import UUID

Role = Literal["before", "after"]
_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo of a draft. `taken_at` is ISO 8601, None where nobody knows (yet)."""

    id: UUID
    role: Role
    name: str
    taken_at: str | None = None


@dataclass(frozen=True, slots=True)
class Matching:
    """Pairs (before, after) in the order of their names, and what is left over."""

    by_name: tuple[tuple[Photo, Photo], ...]
    by_time: tuple[tuple[Photo, Photo], ...]
    left: tuple[Photo, ...]

    @property
    def pairs(self) -> tuple[tuple[Photo, Photo], ...]:
        """All of them."""
        return (*self.by_name, *self.by_time)


def match(photos: Sequence[Photo]) -> Matching:
    """Pair them."""
    ordered = sorted(photos, key=_in_order)
    by_name = [(before[0], after[0]) for before, after in _sides(ordered, _stem) if len(before) == len(after) == 1]
    paired = {photo.id for pair in by_name for photo in pair}
    rest = [photo for photo in ordered if photo.id not in paired]
    by_time = [
        pair
        for before, after in _sides((photo for photo in rest if _second(photo)), _second)
        if len(before) == len(after)
        for pair in zip(before, after, strict=True)
    ]
    paired |= {photo.id for pair in by_time for photo in pair}
    return Matching(tuple(by_name), tuple(by_time), tuple(photo for photo in ordered if photo.id not in paired))


def _sides(photos: Iterable[Photo], what: Any) -> Iterable[tuple[list[Photo], list[Photo]]]:
    """Photos that are the same by `what`: those before, those after."""
    found: dict[Hashable, tuple[list[Photo], list[Photo]]] = {}
    for photo in photos:
        found.setdefault(what(photo), ([], []))[photo.role == "after"].append(photo)
    return found.values()


def _stem(photo: Photo) -> str:
    return PurePosixPath(photo.name).stem.casefold()


def _second(photo: Photo) -> datetime | None:
    try:
        return datetime.fromisoformat(photo.taken_at or "").replace(tzinfo=None, microsecond=0)
    except ValueError:
        return None


def _in_order(photo: Photo) -> tuple[list[tuple[bool, int, str]], str]:
    """Names as people count: 9 before 10."""
    parts = _DIGITS.split(_stem(photo))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts], str(photo.id)
