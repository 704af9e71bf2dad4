"""Archives of pairs, as a photographer's browser would send them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from tests.pixels.gpu_functions.pictures import encode
from tests.pixels.gpu_functions.style.looks import Edit, Picture


def archive(entries: Mapping[str, bytes]) -> bytes:
    """A ZIP of these entries, stored as pictures are: they do not compress."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        for name, content in entries.items():
            file.writestr(zipfile.ZipInfo(name), content)
    return held.getvalue()


def paired(pictures: Sequence[Picture], edit: Edit, suffix: str = ".png") -> dict[str, bytes]:
    """Entries of pictures and what `edit` makes of each, named IMG_00, IMG_01..."""
    options = {"Q": 95} if suffix == ".jpg" else {"compression": 1}
    entries: dict[str, bytes] = {}
    for index, picture in enumerate(pictures):
        for folder, content in (("before", picture), ("after", np.asarray(edit(picture)))):
            entries[f"{folder}/IMG_{index:02}{suffix}"] = encode(content, suffix, **options)
    return entries
