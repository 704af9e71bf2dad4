"""An archive of pairs, read as hostile bytes: `before/NAME.jpg` beside `after/NAME.jpg`.

Before a byte is inflated everything that the directory says is checked: how long it is, how many entries,
how large each and all of them become, where they would lie. Afterwards one entry at a time is inflated, never to
disk, and never past the size that the directory gave it.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from contracts.errors import SafelightError, error

PAIRS_MAX: Final = 200
ENTRIES_MAX: Final = 1000  # 400 pictures, and what an operating system puts beside them
DIRECTORY_BYTES_MAX: Final = 1 << 20  # 1000 names of 1000 bytes
ENTRY_BYTES_MAX: Final = 256 << 20  # a TIFF of 40 MP in 16 bit is 240 MB
TOTAL_BYTES_MAX: Final = 4 << 30  # 400 photos of 10 MB
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif"})
FOLDERS: Final = ("before", "after")
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LINK: Final = 0o120000  # the file type of a symbolic link, in the upper half of the attributes
_BROKEN: Final = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, EOFError, zlib.error)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two entries of one stem, by the order of names; None where a partner is missing."""

    stem: str
    before: zipfile.ZipInfo | None
    after: zipfile.ZipInfo | None


class Archive:
    """The pairs of an archive. Raises PAIRS_INVALID with the reason, which never quotes a name."""

    def __init__(self, data: bytes) -> None:
        """Checks the whole directory and inflates nothing."""
        _check_directory(data)
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _BROKEN:
            raise _invalid("it is no ZIP archive") from None
        self.pairs = tuple(_paired(_entries(self._zip.infolist())))
        if len(self.pairs) > PAIRS_MAX:
            raise _invalid(f"there are more than {PAIRS_MAX} pairs")

    def read(self, entry: zipfile.ZipInfo) -> bytes | None:
        """The bytes of an entry; None when they cannot be inflated, or are not what the directory says."""
        try:
            with self._zip.open(entry) as stream:
                content = stream.read(entry.file_size + 1)
        except _BROKEN:
            return None
        return content if len(content) == entry.file_size else None


def _check_directory(data: bytes) -> None:
    """Refuse a directory that would take long to parse. What zipfile looks for, in the order in which it looks."""
    end = len(data) - 22
    if data[end : end + 4] != b"PK\5\6" or data[-2:] != b"\0\0":
        end = data.rfind(b"PK\5\6", max(0, len(data) - 22 - 0xFFFF))
    if end < 0 or len(data) < end + 22:
        raise _invalid("it is no ZIP archive")
    entries, directory_bytes = struct.unpack("<HL", data[end + 10 : end + 16])
    if data[end - 20 : end - 16] == b"PK\6\7":
        raise _invalid("it is a ZIP64 archive, which this few pictures do not need")
    if entries > ENTRIES_MAX or directory_bytes > DIRECTORY_BYTES_MAX:
        raise _invalid(f"there are more than {ENTRIES_MAX} entries")


def _entries(listed: list[zipfile.ZipInfo]) -> Iterator[tuple[str, str, zipfile.ZipInfo]]:
    """Folder, stem and entry of each picture. What operating systems add (hidden files, __MACOSX) is passed over."""
    total = 0
    for entry in listed:
        path = PurePosixPath(entry.filename)
        if (
            entry.filename.startswith("/")
            or ".." in path.parts
            or "\\" in entry.orig_filename
            or ":" in entry.filename[:2]
        ):
            raise _invalid("a path leads out of the archive")
        if entry.is_dir() or "__MACOSX" in path.parts or path.name.startswith(".") or path.name == "Thumbs.db":
            continue
        if entry.flag_bits & 0x1:
            raise _invalid("an entry is encrypted")
        if entry.external_attr >> 16 & 0o170000 == _LINK:
            raise _invalid("an entry is a link")
        if entry.compress_type not in _METHODS:
            raise _invalid("an entry is compressed in an unusual way")
        total += entry.file_size
        if entry.file_size > ENTRY_BYTES_MAX or total > TOTAL_BYTES_MAX:
            raise _invalid(
                f"it inflates to more than {ENTRY_BYTES_MAX >> 20} MiB an entry or {TOTAL_BYTES_MAX >> 30} GiB"
            )
        folder = path.parent.name.lower()
        if folder not in FOLDERS or len(path.parts) > 3:  # a folder round both is what compressing a folder gives
            raise _invalid("an entry lies neither in before/ nor in after/")
        if path.suffix.lower() not in SUFFIXES:
            raise _invalid(f"an entry is none of {', '.join(sorted(SUFFIXES))}")
        yield folder, path.stem, entry


def _paired(entries: Iterator[tuple[str, str, zipfile.ZipInfo]]) -> Iterator[Pair]:
    """Pairs in the order of their stems. Raises PAIRS_INVALID for two entries that would be the same half."""
    found: dict[str, dict[str, zipfile.ZipInfo]] = {folder: {} for folder in FOLDERS}
    for folder, stem, entry in entries:
        if stem in found[folder]:
            raise _invalid("two entries of a folder have the same name")
        found[folder][stem] = entry
    befores, afters = (found[folder] for folder in FOLDERS)
    for stem in sorted(befores.keys() | afters.keys()):
        yield Pair(stem, befores.get(stem), afters.get(stem))


def _invalid(reason: str) -> SafelightError:
    return error("PAIRS_INVALID", reason)
