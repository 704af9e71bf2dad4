"""Pairs of photos before and after an edit: by name, else by time, else nobody guesses."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.pairing import Matching, Photo, Role, match


def photos(before: dict[str, str | None], after: dict[str, str | None]) -> list[Photo]:
    sides: list[tuple[Role, dict[str, str | None]]] = [("before", before), ("after", after)]
    rows = [(role, name, at) for role, side in sides for name, at in side.items()]
    return [Photo(UUID(int=n), role, name, at and f"2026-06-01T12:00:{at}") for n, (role, name, at) in enumerate(rows)]


def told(found: Matching) -> tuple[list[str], list[str], list[str]]:
    by_name, by_time = ([f"{a.name}-{b.name}" for a, b in pairs] for pairs in (found.by_name, found.by_time))
    return by_name, by_time, [photo.name for photo in found.left]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"a.jpg": None}, {"A.tif": None}, (["a.jpg-A.tif"], [], []), id="the same name, another ending"),
        pytest.param({"a.jpg": "01"}, {"x.jpg": "01"}, ([], ["a.jpg-x.jpg"], []), id="another name, the same second"),
        pytest.param({"a.jpg": "01"}, {"a.jpg": "59"}, (["a.jpg-a.jpg"], [], []), id="a name goes before a time"),
        pytest.param({"a.jpg": None}, {"b.jpg": None}, ([], [], ["a.jpg", "b.jpg"]), id="no time, another name"),
        pytest.param(
            {"i9.jpg": "01", "i10.jpg": "01"},
            {"e100.jpg": "01", "e20.jpg": "01"},
            ([], ["i9.jpg-e20.jpg", "i10.jpg-e100.jpg"], []),
            id="a burst in the order of its names, as people count",
        ),
        pytest.param(
            {"a.jpg": "01", "b.jpg": "01"},
            {"x.jpg": "01"},
            ([], [], ["a.jpg", "b.jpg", "x.jpg"]),
            id="of a burst one is missing: nobody can tell which",
        ),
        pytest.param(
            {"a.jpg": "01", "a.png": "02"},
            {"a.tif": "02"},
            ([], ["a.png-a.tif"], ["a.jpg"]),
            id="a name twice says nothing, the time does",
        ),
        pytest.param({"a.jpg": "01+02:00"}, {"x.jpg": "01"}, ([], ["a.jpg-x.jpg"], []), id="a zone that one has lost"),
        pytest.param({"a.jpg": "nonsense"}, {"x.jpg": "nonsense"}, ([], [], ["a.jpg", "x.jpg"]), id="no time at all"),
        pytest.param({}, {}, ([], [], []), id="nothing"),
    ],
)
def test_who_belongs_together(
    before: dict[str, str | None], after: dict[str, str | None], expected: tuple[list[str], list[str], list[str]]
) -> None:
    assert told(match(photos(before, after))) == expected


names = st.dictionaries(
    st.text("ab1.", min_size=1, max_size=4), st.sampled_from([None, "01", "02", "03", "nonsense"]), max_size=8
)


@given(names, names, st.randoms())
def test_each_photo_is_in_one_place_whatever_the_order(
    before: dict[str, str | None], after: dict[str, str | None], chance: object
) -> None:
    given_ = photos(before, after)
    found = match(given_)
    placed = [photo.id for pair in found.pairs for photo in pair] + [photo.id for photo in found.left]
    assert sorted(placed) == sorted(photo.id for photo in given_)
    assert all((one.role, other.role) == ("before", "after") for one, other in found.pairs)
    chance.shuffle(given_)  # type: ignore[attr-defined]
    assert match(given_) == found
