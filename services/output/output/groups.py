"""Which photos of a batch show the same thing, and which of them to keep. Pure: facts in, groups out.

    kind             the photos of a group
    burst            follow each other within BURST_S seconds, each alike to the one before (BURST_BITS)
    near-duplicate   are alike to the best of them (DUPLICATE_BITS), whenever they were taken

How alike two photos are is in how many of the 64 bits their perceptual hashes differ: copies in up to 6, frames of
one scene in up to 18, photos that have nothing in common in 32 on average. Bursts are found first; no photo is in
two groups. The best of a group has the highest cull score. Near-duplicates are measured against the best and not
against each other, so that a row of portraits before one wall does not grow together one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

BURST_S: Final = 2.0  # between two frames; EXIF tells whole seconds
BURST_BITS: Final = 18
DUPLICATE_BITS: Final = 8
_HASH: Final = re.compile(r"[0-9a-f]{16}")


class Kind(StrEnum):
    """How the photos of a group belong together."""

    BURST = "burst"
    NEAR_DUPLICATE = "near-duplicate"


@dataclass(frozen=True, slots=True)
class Photo:
    """What the analysis found out about the photo of a job. `captured_at` is local time; `cull` is 0 to 100."""

    job_id: UUID
    phash: int
    captured_at: datetime | None
    cull: float


@dataclass(frozen=True, slots=True)
class Group:
    """Two photos or more, in the order in which they were taken; `best` is one of them."""

    kind: Kind
    best: Photo
    photos: tuple[Photo, ...]


def photo_of(job_id: UUID, phash: str, captured_at: str | None, cull: str | None) -> Photo | None:
    """A photo out of facts as they are stored; None when its hash is none.

    Zones are left out: of two cameras at one wedding often only one knows its zone, but both show the time there.
    """
    if not _HASH.fullmatch(phash):
        return None
    try:
        taken = datetime.fromisoformat(captured_at).replace(tzinfo=None) if captured_at else None
        score = float(cull or 0)
    except ValueError:
        return None
    return Photo(job_id, int(phash, 16), taken, score)


def groups(photos: Sequence[Photo]) -> list[Group]:
    """The groups, each kind in the order of its first photos. 5,000 photos take some tenths of a second."""
    bursts = _bursts(photos)
    taken = {photo.job_id for group in bursts for photo in group.photos}
    return bursts + _near_duplicates([photo for photo in photos if photo.job_id not in taken])


def _bursts(photos: Sequence[Photo]) -> list[Group]:
    """Runs of photos in the order of their times."""
    runs: list[list[Photo]] = []
    for photo in sorted((one for one in photos if one.captured_at), key=_in_time):
        last = runs[-1][-1] if runs else None
        if last and _seconds(last, photo) <= BURST_S and (last.phash ^ photo.phash).bit_count() <= BURST_BITS:
            runs[-1].append(photo)
        else:
            runs.append([photo])
    return [_group(Kind.BURST, run) for run in runs if len(run) > 1]


def _near_duplicates(photos: Sequence[Photo]) -> list[Group]:
    """Each photo that no better one has taken in takes in all that are alike to it."""
    import numpy as np  # here, because a service that has not been asked for groups is smaller without it

    ranked = sorted(photos, key=_rank)
    hashes = np.array([photo.phash for photo in ranked], np.uint64)
    free = np.ones(len(ranked), bool)
    found = []
    for k in range(len(ranked)):
        if not free[k]:
            continue
        alike = np.flatnonzero(free[k:] & (np.bitwise_count(hashes[k:] ^ hashes[k]) <= DUPLICATE_BITS)) + k
        free[alike] = False
        if len(alike) > 1:
            found.append(_group(Kind.NEAR_DUPLICATE, [ranked[one] for one in alike]))
    return sorted(found, key=lambda group: _in_time(group.photos[0]))


def _group(kind: Kind, photos: Sequence[Photo]) -> Group:
    return Group(kind, min(photos, key=_rank), tuple(sorted(photos, key=_in_time)))


def _rank(photo: Photo) -> tuple[float, UUID]:
    return -photo.cull, photo.job_id


def _in_time(photo: Photo) -> tuple[datetime, UUID]:
    return photo.captured_at or datetime.max, photo.job_id


def _seconds(one: Photo, other: Photo) -> float:
    assert one.captured_at is not None
    assert other.captured_at is not None
    return (other.captured_at - one.captured_at).total_seconds()
