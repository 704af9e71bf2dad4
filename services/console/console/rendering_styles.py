"""Styles as a terminal shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from console.rendering import DEGRADED, grid, plain, when
from console.styles import Style


def style_list(styles: Sequence[Style], now: datetime) -> RenderableType:
    """One line per style: its newest version, and how close it comes to what was shown (dB, held-out pairs)."""
    table = grid("style", "version", "kind", "psnr", "made")
    for style in styles:
        made = when(style.created_at, now)
        table.add_row(plain(style.name), str(style.version), plain(style.kind), _number(style.facts, "psnr"), made)
    return table if styles else Text("No styles.", "dim")


def style_versions(versions: Iterable[Style], now: datetime) -> Table:
    """One line per version: from how many pairs, how well, beside leaving the photos alone and matching histograms."""
    table = grid("style", "kind", "pairs", "psnr", "untouched", "histograms", "dE", "engine", "made")
    for style in versions:
        facts = style.facts
        table.add_row(
            plain(style.reference),
            plain(style.kind),
            _number(facts, "pairs_used", 0),
            _number(facts, "psnr"),
            _number(facts, "psnr_identity"),
            _number(facts, "psnr_histogram"),
            _number(facts, "de2000_mean", 2),
            Text.assemble(plain(style.engine or ""), (f" {DEGRADED[0]}" if style.degraded else "", DEGRADED[1])),
            when(style.created_at, now),
        )
    return table


def _number(facts: Mapping[str, Any], name: str, digits: int = 1) -> str:
    value = facts.get(name)
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""
