"""The page of promises names tests that are there, and says plainly what is not promised."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/privacy.md").read_text()


def test_each_sentence_of_the_promise_names_a_test_that_is_there() -> None:
    promise = PAGE.partition("## The promise")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in promise.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 16
    for _, _, shown in rows:
        folder = ""
        files = re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py)`", shown)
        assert files, shown
        for name in files:
            folder = name.rpartition("/")[0] or folder
            assert (ROOT / folder / name.rpartition("/")[2]).is_file(), name


def test_what_is_not_promised_is_said() -> None:
    assert PAGE.partition("## What is not promised")[2].count("\n- **") >= 8
