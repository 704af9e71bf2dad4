"""What the `styles` commands send and show."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from typer.testing import CliRunner

from console import cli, styles
from console.client import Connection
from console.rendering_styles import style_list, style_versions
from console.styles import Style
from tests.unit.console.test_rendering import text

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FACTS = {"pairs_used": 20, "psnr": 41.93, "psnr_identity": 23.65, "psnr_histogram": 9.8, "de2000_mean": 0.871}


def style(**changes: Any) -> Style:
    known: dict[str, Any] = {"name": "wedding", "version": 3, "kind": "learnt", "facts": FACTS, "created_at": T0}
    return Style(**known | changes)


def test_a_style_shows_how_well_it_was_learnt() -> None:
    shown = text(style_versions([style(engine="pairs-lut@1", degraded=True)], T0))
    for part in ("wedding@3", "learnt", "20", "41.9", "23.6", "9.8", "0.87", "pairs-lut@1 ◐"):
        assert part in shown


def test_a_style_of_which_nothing_was_measured_shows_nothing() -> None:
    shown = text(style_list([style(facts={}), style(name="x\x1b[2J", kind="built-in", facts={"psnr": "\x1b"})], T0))
    assert "built-in" in shown
    assert "\x1b" not in shown
    assert text(style_list([], T0)).strip() == "No styles."


def test_a_folder_is_packed_with_its_two_sides_and_nothing_else(tmp_path: Path) -> None:
    for name in ("before/1.jpg", "after/1.jpg", "before/.DS_Store", "before/deeper/2.jpg", "notes.txt"):
        (tmp_path / "pairs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pairs" / name).write_bytes(name.encode())
    assert styles.pack(tmp_path / "pairs", tmp_path / "pairs.zip") == 2
    with ZipFile(tmp_path / "pairs.zip") as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            "before/1.jpg": b"before/1.jpg",
            "after/1.jpg": b"after/1.jpg",
        }


@pytest.mark.parametrize(("sides", "says"), [((), "before and no folder after"), (("before",), "no folder after")])
def test_a_folder_without_both_sides_is_not_sent(tmp_path: Path, sides: tuple[str, ...], says: str) -> None:
    for side in sides:
        (tmp_path / side).mkdir()
    nowhere = Connection("http://127.0.0.1:9", "a-key-of-16-characters")
    told = CliRunner().invoke(cli.client, ["styles", "train", "x", str(tmp_path)], obj=lambda: nowhere)
    assert told.exit_code == 2
    assert says in " ".join(told.output.replace("│", " ").split())
