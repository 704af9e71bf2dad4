"""A ZIP that is written while it is read: what is in it, how it is named, and that it is whole or visibly broken."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from contracts.errors import Permanent
from output.archive import AHEAD, INDEX, Archive, Member, members

MIB = 1024 * 1024


def member(name: str, content: bytes) -> Member:
    return Member(name, uuid4(), f"variants.{name}", name, len(content), hashlib.sha256(content).hexdigest())


def reads(contents: dict[str, bytes], piece: int = 5) -> Callable[[str], AsyncIterator[bytes]]:
    async def read(key: str) -> AsyncIterator[bytes]:
        content = contents[key]
        for at in range(0, len(content), piece):
            yield content[at : at + piece]

    return read


async def whole(archive: Archive, read: Callable[[str], AsyncIterator[bytes]]) -> bytes:
    return b"".join([piece async for piece in archive.pieces(read)])


async def sends(archive: Archive, read: Callable[[str], AsyncIterator[bytes]], to: io.BytesIO) -> None:
    async for piece in archive.pieces(read):
        to.write(piece)


async def test_what_comes_out_is_a_zip_of_the_announced_length_with_everything_in_it() -> None:
    contents = {f"{n}.jpg": bytes([n]) * n * 7 for n in range(12)}  # the first one is empty
    archive = Archive([member(name, content) for name, content in contents.items()])
    made = await whole(archive, reads(contents))
    assert len(made) == archive.size
    opened = zipfile.ZipFile(io.BytesIO(made))
    assert opened.testzip() is None
    assert {one.filename: opened.read(one) for one in opened.infolist() if one.filename != INDEX} == contents
    assert {one.compress_type for one in opened.infolist()} == {zipfile.ZIP_STORED}
    index = json.loads(opened.read(INDEX))
    assert [(row["name"], row["sha256"]) for row in index] == [
        (name, hashlib.sha256(content).hexdigest()) for name, content in contents.items()
    ]


async def test_more_files_than_an_old_zip_can_count_are_all_there() -> None:
    contents = {f"{n}.txt": b"%d" % n for n in range(66_000)}
    archive = Archive([member(name, content) for name, content in contents.items()])
    made = await whole(archive, reads(contents))
    assert len(made) == archive.size
    opened = zipfile.ZipFile(io.BytesIO(made))
    assert len(opened.infolist()) == 66_001
    assert opened.read("65999.txt") == b"65999"


def test_a_file_beyond_four_gib_is_counted_in_64_bits() -> None:
    size = 5 * 1024**3
    assert Archive([Member("big.tif", uuid4(), "x.big.tif", "k", size, "0" * 64)]).size > size


async def test_memory_does_not_grow_with_what_is_sent() -> None:
    content = bytes(MIB)
    digest = hashlib.sha256(content * 64).hexdigest()

    async def read(_key: str) -> AsyncIterator[bytes]:
        for _ in range(64):
            yield content

    archive = Archive([Member(f"{n}.bin", uuid4(), "a.b", str(n), 64 * MIB, digest) for n in range(3)])
    sent = 0
    tracemalloc.start()
    async for piece in archive.pieces(read):
        sent += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sent == archive.size > 192 * MIB
    assert peak < (AHEAD + 2) * MIB


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"0123456789", id="other bytes of the same length"),
        pytest.param(b"abcdefghi", id="too short"),
        pytest.param(b"abcdefghijk", id="too long"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_an_object_that_is_not_what_was_recorded_ends_the_stream_short(given: bytes) -> None:
    contents = {"a.jpg": b"good", "b.jpg": b"abcdefghij", "c.jpg": b"never reached"}
    archive = Archive([member(name, content) for name, content in contents.items()])
    sent = io.BytesIO()
    with pytest.raises(Permanent) as broken:
        await sends(archive, reads(contents | {"b.jpg": given}), sent)
    assert broken.value.code == "OBJECT_MISSING"
    assert 0 < len(sent.getvalue()) < archive.size
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(sent)


async def test_who_stops_reading_stops_the_reading_of_objects() -> None:
    opened: list[str] = []
    closed: list[str] = []

    async def read(key: str) -> AsyncIterator[bytes]:
        opened.append(key)
        try:
            yield b"x"
            yield b"y"
        finally:
            closed.append(key)

    pieces = Archive([member(f"{n}.jpg", b"xy") for n in range(50)]).pieces(read)
    for _ in range(5):
        await anext(pieces)
    await pieces.aclose()
    assert len(opened) <= AHEAD + 2
    assert sorted(closed) == sorted(opened)


# -- names ----------------------------------------------------------------------------------


def row(job_id: UUID, phase: str, *names: str, last: str = "variants") -> dict[str, Any]:
    made = [{"name": name, "key": f"{job_id}/{name}", "size": 1, "sha256": "0" * 64} for name in names]
    return {"job_id": job_id, "phase": phase, "last": last, "made": made}


ONE, TWO = UUID("11111111-0000-4000-8000-000000000001"), UUID("22222222-0000-4000-8000-000000000002")


def test_one_kind_lies_in_the_archive_itself_by_number_and_job() -> None:
    rows = [row(ONE, "crop", "image.png"), row(ONE, "variants", "web.jpg"), row(TWO, "variants", "web.jpg", "web.avif")]
    assert [one.name for one in members(rows, ["web.jpg"])] == ["0001-11111111.jpg", "0002-22222222.jpg"]


def test_several_kinds_have_folders() -> None:
    rows = [row(ONE, "variants", "web.jpg", "thumb.jpg"), row(TWO, "variants", "web.jpg")]
    assert [one.name for one in members(rows, [])] == [
        "web/0001-11111111.jpg",
        "thumb/0001-11111111.jpg",
        "web/0002-22222222.jpg",
    ]


def test_without_a_choice_it_is_what_the_last_phase_made() -> None:
    rows = [row(ONE, "crop", "image.png"), row(ONE, "variants", "web.jpg"), row(TWO, "crop", "image.png", last="crop")]
    assert [one.artifact for one in members(rows, [])] == ["variants.web.jpg", "crop.image.png"]


def test_an_artifact_is_chosen_with_its_phase_or_without() -> None:
    rows = [row(ONE, "crop", "image.png"), row(ONE, "style", "image.png")]
    assert [one.artifact for one in members(rows, ["style.image.png"])] == ["style.image.png"]
    both = members(rows, ["image.png"])
    assert [one.artifact for one in both] == ["crop.image.png", "style.image.png"]
    assert len({one.name for one in both}) == 2


def test_jobs_whose_ids_begin_alike_have_names_of_their_own() -> None:
    same = [UUID(f"11111111-0000-4000-8000-00000000000{n}") for n in range(3)]
    names = [one.name for one in members([row(id_, "variants", "web.jpg") for id_ in same], [])]
    assert len(set(names)) == 3
