"""Archives are judged by their directory before a byte is inflated; pairs by what they show."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from skimage import data

from contracts.errors import SafelightError
from gpu_functions.style import align, pairs
from gpu_functions.style.pairs import Archive
from gpu_functions.style.prepare import Prepared, prepare
from tests.pixels.gpu_functions.pictures import encode
from tests.pixels.gpu_functions.style import looks
from tests.pixels.gpu_functions.style.archives import archive, paired

ONE = {"before/a.jpg": b"1", "after/a.jpg": b"2"}


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return held.getvalue()


def patched(offset: int, value: bytes) -> bytes:
    """An archive whose first entry in the directory says something else."""
    content = bytearray(archive(ONE))
    at = content.index(b"PK\1\2") + offset
    content[at : at + len(value)] = value
    return bytes(content)


def linked() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        link = zipfile.ZipInfo("before/a.jpg")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    return held.getvalue()


def test_pairs_come_in_the_order_of_their_names_whatever_lies_round_them() -> None:
    entries = {"wedding/before/b.JPG": b"1", "wedding/after/b.png": b"2", "wedding/after/a.tif": b"3"}
    junk = {"__MACOSX/wedding/before/._b.JPG": b"x", "wedding/.DS_Store": b"x", "wedding/before/Thumbs.db": b"x"}
    found = Archive(archive({**junk, **entries}))
    assert [(pair.stem, pair.before is not None, pair.after is not None) for pair in found.pairs] == [
        ("a", False, True),
        ("b", True, True),
    ]
    whole = found.pairs[1]
    assert whole.before is not None
    assert found.read(whole.before) == b"1"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "no ZIP", id="nothing"),
        pytest.param(b"PK\3\4" + bytes(200), "no ZIP", id="no directory"),
        pytest.param(archive({"before/../../a.jpg": b"x"}), "leads out", id="a path upwards"),
        pytest.param(archive({"/before/a.jpg": b"x"}), "leads out", id="an absolute path"),
        pytest.param(archive({"before\\a.jpg": b"x"}), "leads out", id="a backslash"),
        pytest.param(archive({"C:/before/a.jpg": b"x"}), "leads out", id="a drive"),
        pytest.param(linked(), "a link", id="a symbolic link"),
        pytest.param(patched(8, b"\1\0"), "encrypted", id="an encrypted entry"),
        pytest.param(patched(24, struct.pack("<L", 1 << 30)), "inflates", id="an entry that says it is huge"),
        pytest.param(zipped(ONE, zipfile.ZIP_LZMA), "unusual", id="another compression"),
        pytest.param(archive({"before/a.jpg": b"x", "before/a.png": b"y"}), "same name", id="two of one name"),
        pytest.param(archive({"during/a.jpg": b"x"}), "neither", id="another folder"),
        pytest.param(archive({"a.jpg": b"x"}), "neither", id="no folder"),
        pytest.param(archive({"before/a.exe": b"x"}), "none of", id="no picture"),
        pytest.param(archive({f"before/{n}.jpg": b"" for n in range(201)}), "200 pairs", id="too many pairs"),
        pytest.param(archive({f".{n}": b"" for n in range(1001)}), "1000 entries", id="too many entries"),
        pytest.param(archive({"." + "x" * 65_000 + str(n): b"" for n in range(20)}), "entries", id="endless names"),
        pytest.param(archive(ONE)[:-22] + b"PK\6\7" + bytes(16) + archive(ONE)[-22:], "ZIP64", id="ZIP64"),
    ],
)
def test_a_hostile_archive_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(SafelightError, match=reason) as refusal:
        Archive(content)
    assert refusal.value.code == "PAIRS_INVALID"


def test_an_entry_that_inflates_to_more_than_it_says_is_unreadable() -> None:
    bomb = bytearray(zipped({"before/a.jpg": bytes(50_000_000), "after/a.jpg": b"x"}))
    at = bomb.index(b"PK\1\2") + 24
    bomb[at : at + 4] = struct.pack("<L", 1000)
    found = Archive(bytes(bomb))
    assert found.pairs[0].before is not None
    assert found.read(found.pairs[0].before) is None


def whole(side: int = 620) -> looks.Picture:
    return looks.photos(side)[8][0]  # one half of a temple's courtyard


def cropped(picture: looks.Picture) -> looks.Picture:
    height, width = picture.shape[:2]
    part = picture[round(0.06 * height) : round(0.94 * height), round(0.1 * width) :]
    return np.asarray(cv2.resize(part, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA), np.uint8)


def turned(picture: looks.Picture) -> looks.Picture:
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 2.0, 1.1)
    return np.asarray(cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_CUBIC), np.uint8)


def unbent(picture: looks.Picture) -> looks.Picture:
    """A lens's barrel distortion taken out: corners move by 5% of the half width."""
    height, width = picture.shape[:2]
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    pull = 1 - 0.025 * (x * x + y * y)
    across, down = (((c * pull + 1) / 2 * (side - 1)).astype(np.float32) for c, side in ((x, width), (y, height)))
    return np.asarray(cv2.remap(picture, across, down, cv2.INTER_CUBIC), np.uint8)


@pytest.mark.parametrize(
    "change", [lambda picture: picture, cropped, turned, unbent], ids=["the same frame", "crop", "turn", "lens"]
)
def test_an_export_lies_where_it_came_from(change: Callable[[looks.Picture], looks.Picture]) -> None:
    before = looks.photos(620)[0][0]
    after = looks.fixed(change(before))
    found = align.find(before, after)
    assert isinstance(found, align.Found)
    moved, inside = align.moved(before, found.geometry, (after.shape[1], after.shape[0]))
    off = np.abs(moved.astype(float) - change(before))[inside].mean()
    assert inside.mean() > 0.9
    assert off < 3.0  # a shift of one pixel of this picture is 6.5 codes
    assert np.abs(np.roll(change(before), 1, axis=1).astype(float) - change(before)).mean() > 5.0


def test_pictures_of_other_things_and_of_the_same_from_elsewhere_are_told_apart() -> None:
    left, right = (np.asarray(picture) for picture in data.stereo_motorcycle()[:2])  # type: ignore[no-untyped-call]
    assert align.find(whole(), looks.fixed(looks.photos(620)[9][0])) == "different_content"
    assert align.find(left, looks.fixed(right)) == "misaligned"  # half a step aside: things moved before each other
    assert align.find(left[:100], left[:100]) == "too_small"


def test_a_pair_that_was_cropped_and_scaled_shows_the_grade_and_nothing_else() -> None:
    pictures = [looks.photos(620)[8][0]]
    content = Archive(archive(paired(pictures, lambda picture: looks.fixed(cropped(picture)))))
    ready = prepare(content, content.pairs[0], None, 3)
    assert not isinstance(ready, str)
    pair: Prepared = ready[0]
    wanted = looks.film(pair.samples.before.astype(float))
    assert np.median(np.abs(wanted - pair.samples.after)) < 0.01
    assert pair.samples.weights.sum() == pytest.approx(1.0)
    again = prepare(content, content.pairs[0], ready[1], 3)
    assert not isinstance(again, str)
    assert (again[0].samples.before == pair.samples.before).all()


def test_what_cannot_be_read_is_said() -> None:
    picture = encode(whole(300))
    entries = {"before/a.png": picture, "after/a.png": picture, "before/b.png": picture, "after/b.png": picture[:900]}
    content = Archive(
        archive({**entries, "before/c.png": b"no picture", "after/c.png": b"either", "after/d.png": picture})
    )
    reasons = [prepare(content, pair, None, 0) for pair in content.pairs]
    assert reasons == ["identical", "unreadable", "unreadable", "incomplete"]


def test_limits_are_those_that_the_refusals_name() -> None:
    assert pairs.PAIRS_MAX * 2 < pairs.ENTRIES_MAX
