"""How a terminal shows the versions of an upload."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from console.rendering import grid, mark_of, plain, when
from console.versions import Version


def version_list(versions: Sequence[Version], now: datetime) -> RenderableType:
    """One line per version: whose job made it, and which options it has that the first one has not."""
    table = grid("version", "job", "created", "status", "asked for")
    first = versions[0].options if versions else {}
    for one in versions:
        other = {name: value for name, value in one.options.items() if value != first.get(name) or one.version == 1}
        told = ", ".join(f"{name} {plain(value)}" for name, value in other.items() if value is not None or one.edit_of)
        mark, style = mark_of(one.status, one.degraded, now)
        table.add_row(
            str(one.version), str(one.job_id), when(one.created_at, now), Text(f"{mark} {one.status}", style), told
        )
    return table
