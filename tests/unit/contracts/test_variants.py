"""The table of variants that a caller may bring: what is taken, and what each mistake is called."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from contracts.variants import PICTURES_MAX, ROWS_MAX, VariantTable

TABLE: TypeAdapter[Any] = TypeAdapter(VariantTable)


def row(**changes: Any) -> dict[str, Any]:
    return {"name": "web", "format": "webp", "box": 2048, **changes}


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [row(name=f"r{n}", **changes) for n in range(count)]


def test_a_table_is_the_same_as_json_in_a_form_and_as_a_value() -> None:
    table = [row(), {"name": "card", "format": "avif", "widths": [640, 320], "quality": 50}]
    read = TABLE.validate_python(json.dumps(table))
    assert read == TABLE.validate_python(table) == TABLE.validate_python(TABLE.dump_python(read, mode="json"))
    assert [name for one in read for name in one.names] == ["web.webp", "card-640.avif", "card-320.avif"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param("[", "no JSON", id="no JSON"),
        pytest.param("[" * 100_000, "no JSON", id="too deep"),
        pytest.param([], "at least 1", id="no row"),
        pytest.param(rows(ROWS_MAX + 1), f"at most {ROWS_MAX}", id="too many rows"),
        pytest.param(
            rows(5, box=None, widths=[20, 30, 40, 50, 60, 70, 80]), f"at most {PICTURES_MAX}", id="too many pictures"
        ),
        pytest.param([row(), row(box=15)], "1.box", id="a box too small"),
        pytest.param([row(box=12_001)], "0.box", id="a box too large"),
        pytest.param([row(box="2048px")], "0.box", id="a box that is no number"),
        pytest.param([row(quality=0)], "0.quality", id="no quality"),
        pytest.param([row(quality=101)], "0.quality", id="too much quality"),
        pytest.param([row(format="gif")], "0.format", id="an unknown format"),
        pytest.param([row(name="../web")], "0.name", id="a name that is a path"),
        pytest.param([row(name="Web")], "0.name", id="a name in capitals"),
        pytest.param([row(name="image")], "another name", id="the name of what phases hand on"),
        pytest.param([row(nmae="x")], "0.nmae", id="an unknown field"),
        pytest.param([row(widths=[320])], "either a box or widths", id="a box and widths"),
        pytest.param([row(box=None)], "either a box or widths", id="no size"),
        pytest.param([row(box=None, widths=[])], "0.widths", id="no width"),
        pytest.param([row(box=None, widths=[320, 320])], "row 0", id="a width twice"),
        pytest.param([row(), row(format="jpeg"), row(box=400)], "row 2", id="a picture twice"),
        pytest.param([row(name="a-320"), row(name="a", box=None, widths=[320])], "row 1", id="a name in two ways"),
    ],
)
def test_a_mistake_is_told_with_its_row(table: Any, says: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        TABLE.validate_python(table)
    told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in refusal.value.errors()]
    assert says in " ".join(told)
