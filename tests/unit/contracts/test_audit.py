"""The audit's chain: what was written holds, and whatever is done to it afterwards shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.audit import GENESIS, AuditLine, Broken, verify

AT = datetime(2026, 11, 29, 10, tzinfo=UTC)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


def chained(*subjects: str) -> list[AuditLine]:
    lines: list[AuditLine] = []
    for n, subject in enumerate(subjects, 1):
        line = AuditLine(
            id=n, at=AT + timedelta(seconds=n), room="output", tenant="demo", who="tenant:demo",
            action="artifact.read", subject=subject, why="", details="{}", hash="",
        )  # fmt: skip
        before = lines[-1].hash if lines else GENESIS
        lines.append(line.model_copy(update={"hash": line.follows(before)}))
    return lines


@given(st.lists(texts, max_size=5))
def test_what_was_written_holds(subjects: list[str]) -> None:
    lines = chained(*subjects)
    assert verify(lines) == ((len(lines), lines[-1].hash) if lines else (0, GENESIS))


@given(texts, texts)
def test_no_field_can_pose_as_two(who: str, action: str) -> None:
    [line] = chained("a")
    moved = line.model_copy(update={"who": who + action, "action": ""})
    whole = line.model_copy(update={"who": who, "action": action})
    assert (moved.follows(GENESIS) == whole.follows(GENESIS)) == (action == "")


FIELDS = {
    "at": AT, "room": "ingest", "tenant": "other", "who": "tenant:other", "action": "job.cancel", "subject": "x",
    "why": "because", "details": '{"a": 1}', "hash": "0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_line_that_was_changed_shows(field: str) -> None:
    lines = chained("a", "b", "c")
    lines[1] = lines[1].model_copy(update={field: FIELDS[field]})
    with pytest.raises(Broken) as found:
        verify(lines)
    assert found.value.line == 2


def test_a_line_that_was_changed_with_its_hash_shows_at_the_next() -> None:
    lines = chained("a", "b", "c")
    forged = lines[1].model_copy(update={"subject": "x"})
    lines[1] = forged.model_copy(update={"hash": forged.follows(lines[0].hash)})
    with pytest.raises(Broken) as found:
        verify(lines)
    assert found.value.line == 3


@pytest.mark.parametrize(("gone", "line"), [(0, 2), (1, 3)])
def test_a_line_that_was_taken_out_shows(gone: int, line: int) -> None:
    lines = chained("a", "b", "c")
    del lines[gone]
    with pytest.raises(Broken) as found:
        verify(lines)
    assert found.value.line == line


def test_a_tail_that_was_cut_off_shows_beside_a_head_that_was_kept() -> None:
    lines = chained("a", "b", "c")
    head = verify(lines)
    assert verify(lines[:2])[0] == 2, "nothing else could tell"
    with pytest.raises(Broken, match="line 3 was there once"):
        verify(lines[:2], head)
    with pytest.raises(Broken, match="not the one that was kept"):
        verify(chained("a", "b", "x", "y"), head)
    assert verify([*lines, *chained("a", "b", "c", "d")[3:]], head)[0] == 4
