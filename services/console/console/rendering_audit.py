"""The audit as a terminal shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import RenderableType
from rich.text import Text

from console.audit import Line
from console.rendering import grid, plain


def audit_list(lines: Sequence[Line]) -> RenderableType:
    """One row per line."""
    table = grid("line", "at", "who", "action", "subject", "tenant", "why")
    for line in lines:
        told = line.why or (json.dumps(line.details, ensure_ascii=False) if line.details else "–")
        table.add_row(
            str(line.id),
            f"{line.at.astimezone():%Y-%m-%d %H:%M:%S}",
            plain(line.who),
            plain(line.action),
            plain(line.subject),
            plain(line.tenant or "–"),
            Text(plain(told), no_wrap=True, overflow="ellipsis"),
        )
    return table if lines else Text("No lines.", "dim")
