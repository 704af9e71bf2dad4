"""Photos of one scene come together, others do not, and the best of them is the one that scores best."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from output.groups import BURST_BITS, DUPLICATE_BITS, Group, Kind, Photo, groups, photo_of

NOON = datetime(2024, 5, 6, 12)
SCENE = 0x0123456789ABCDEF


def photo(number: int, phash: int = SCENE, at: float | None = None, cull: float = 50) -> Photo:
    return Photo(UUID(int=number), phash, None if at is None else NOON + timedelta(seconds=at), cull)


def differing(bits: int) -> int:
    """The scene's hash with the first `bits` bits turned over."""
    return SCENE ^ ((1 << bits) - 1)


def told(found: list[Group]) -> list[tuple[str, int, list[int]]]:
    return [(group.kind, group.best.job_id.int, [one.job_id.int for one in group.photos]) for group in found]


def test_frames_that_follow_each_other_are_a_burst_and_the_best_is_the_one_that_scores_best() -> None:
    frames = [photo(3, at=2, cull=70), photo(1, at=0, cull=60), photo(2, differing(10), at=1, cull=90)]
    assert told(groups(frames)) == [("burst", 2, [1, 2, 3])]


def test_a_burst_may_wander_from_its_first_frame() -> None:
    """Each frame is compared with the one before: whoever pans ends somewhere else."""
    frames = [photo(k, differing(BURST_BITS * k), at=k) for k in range(4)]
    assert told(groups(frames)) == [("burst", 0, [0, 1, 2, 3])]


@pytest.mark.parametrize(
    "photos",
    [
        pytest.param([photo(1, at=0), photo(2, differing(BURST_BITS + 1), at=1)], id="a moment later, another scene"),
        pytest.param([photo(1, at=0), photo(2, differing(DUPLICATE_BITS + 1), at=60)], id="alike, a minute later"),
        pytest.param([photo(1), photo(2, differing(DUPLICATE_BITS + 1))], id="hardly alike, without a time"),
        pytest.param([photo(1, at=0)], id="one photo"),
        pytest.param([], id="no photo"),
    ],
)
def test_what_has_little_in_common_is_no_group(photos: list[Photo]) -> None:
    assert groups(photos) == []


def test_copies_are_near_duplicates_whenever_they_were_taken() -> None:
    copies = [photo(1, at=0, cull=40), photo(2, differing(DUPLICATE_BITS), at=9000, cull=45), photo(3, cull=30)]
    assert told(groups(copies)) == [("near-duplicate", 2, [1, 2, 3])]


def test_a_row_of_portraits_does_not_grow_together_one_by_one() -> None:
    """Each is alike to its neighbour; a group holds those only that are alike to its best."""
    row = [photo(k, differing(DUPLICATE_BITS * k), cull=90 - k) for k in range(6)]
    assert told(groups(row)) == [("near-duplicate", 0, [0, 1]), ("near-duplicate", 2, [2, 3]),
                                 ("near-duplicate", 4, [4, 5])]  # fmt: skip


def test_a_copy_of_a_frame_of_a_burst_is_told_once() -> None:
    photos = [photo(1, at=0, cull=60), photo(2, at=1, cull=50), photo(3, differing(3)), photo(4, differing(2))]
    found = groups(photos)
    assert told(found) == [("burst", 1, [1, 2]), ("near-duplicate", 3, [3, 4])]


@given(st.lists(st.tuples(st.integers(0, 40), st.none() | st.integers(0, 30), st.integers(0, 3)), max_size=30))
def test_every_photo_is_in_one_group_at_most_and_order_does_not_matter(rows: list[tuple[int, int | None, int]]) -> None:
    photos = [photo(k, differing(bits), at, cull) for k, (bits, at, cull) in enumerate(rows)]
    found = groups(photos)
    members = [one.job_id for group in found for one in group.photos]
    assert len(members) == len(set(members))
    for group in found:
        assert len(group.photos) >= 2
        assert group.best in group.photos
        assert group.best.cull == max(one.cull for one in group.photos)
    shuffled = list(photos)
    random.Random(1).shuffle(shuffled)
    assert groups(shuffled) == found


def test_five_thousand_photos_that_have_nothing_in_common_are_compared_in_a_moment() -> None:
    chance = random.Random(3)
    photos = [photo(k, chance.getrandbits(64), at=60.0 * k) for k in range(5000)]
    start = time.process_time()
    found = groups(photos)
    assert time.process_time() - start < 3, "measured 0.2 s"
    assert all(group.kind is Kind.NEAR_DUPLICATE for group in found)


def test_facts_are_read_without_their_zone() -> None:
    zoned = photo_of(UUID(int=1), "0123456789abcdef", "2024-05-06T12:00:00+02:00", "71.5")
    assert zoned == Photo(UUID(int=1), SCENE, NOON, 71.5)


@pytest.mark.parametrize(
    ("phash", "captured_at", "cull"),
    [("", None, None), ("0123456789ABCDEG", None, None), ("0" * 16, "yesterday", None), ("0" * 16, None, "much")],
)
def test_facts_of_another_shape_are_left_out(phash: str, captured_at: str | None, cull: str | None) -> None:
    assert photo_of(UUID(int=1), phash, captured_at, cull) is None
