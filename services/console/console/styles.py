"""Styles: what there is, how each was learnt, and how new ones are made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID
from zipfile import ZIP_STORED, ZipFile

from console.client import Client, ClientError, Refused, quoted
from console.jobs import Read, Stored

TRAIN: Final = "/v1/styles"
IMPORT: Final = "/v1/styles/import"
SIDES: Final = ("before", "after")
REGISTERED_AFTER_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # a version is there a moment after its job has ended


class Style(Read):
    """One version of a style. `facts` are what its job measured, `parts` its files."""

    name: str
    version: int
    kind: str
    facts: Mapping[str, Any] = {}
    engine: str | None = None
    degraded: bool = False
    job_id: UUID | None = None
    created_at: datetime
    parts: Mapping[str, Stored] = {}

    @property
    def reference(self) -> str:
        """`name@version`, as a photo names it."""
        return f"{self.name}@{self.version}"


async def newest(api: Client) -> list[Style]:
    """The newest version of each style."""
    return [Style.model_validate(row) for row in await api.listed("/v1/styles", {}, None)]


async def versions(api: Client, reference: str) -> list[Style]:
    """The versions of `name`, newest first; of `name@version` that one. Raises Refused (NOT_FOUND), Unreachable."""
    found = await api.get(f"/v1/styles/{quoted(reference)}")
    return [Style.model_validate(row) for row in found["versions"]]


async def made_by(api: Client, name: str, job: UUID) -> Style:
    """The newest version that a job which has succeeded made. Raises ClientError when it is not there soon."""
    for pause_s in (*REGISTERED_AFTER_S, None):
        try:
            for style in await versions(api, name):
                if style.job_id == job:
                    return style
        except Refused as problem:
            if problem.code != "NOT_FOUND":
                raise
        if pause_s is not None:
            await asyncio.sleep(pause_s)
    raise ClientError("STYLE_UNKNOWN", f"the job has made a version of {name} that is not listed yet")


async def export(api: Client, reference: str, part: str, target: Path | None) -> Path:
    """Fetch a file of a style, complete and checked. Raises Refused (NOT_FOUND), Damaged, Unreachable."""
    style = (await versions(api, reference))[0]
    stored = style.parts.get(part)
    if stored is None:
        raise Refused("NOT_FOUND", f"{style.reference} has no {part}; it has {', '.join(sorted(style.parts))}")
    return await api.fetch(stored, target or Path(f"{style.name}-{style.version}{_SUFFIX[part]}"))


_SUFFIX: Final = {"cube": ".cube", "preview": ".jpg", "report": ".json", "style": ".safetensors"}


def pack(folder: Path, archive: Path) -> int:
    """Put the photos of `before/` and `after/` in a folder into a ZIP; returns how many. They are compressed already.

    Raises ValueError when a side is missing.
    """
    sides = {side: folder / side for side in SIDES}
    if missing := [side for side, path in sides.items() if not path.is_dir()]:
        raise ValueError(f"{folder} has no folder {' and no folder '.join(missing)}")
    count = 0
    with ZipFile(archive, "w", ZIP_STORED) as packed:
        for side, path in sides.items():
            for photo in sorted(path.iterdir()):
                if photo.is_file() and not photo.name.startswith("."):
                    packed.write(photo, f"{side}/{photo.name}")
                    count += 1
    return count
