"""What jobs have cost, added up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from output.costs import CostView, Line, total

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOLLARS = Line("USD", 0.5, 10.0, epochs=2, unpriced=0, newest=NOW)
EUROS = Line("EUR", 0.25, 4.0, epochs=1, unpriced=0, newest=NOW + timedelta(days=1))
UNKNOWN = Line(None, 0.0, 3.0, epochs=1, unpriced=1, newest=NOW + timedelta(days=2))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], CostView(), id="nothing bought is 0 in no currency"),
        pytest.param([UNKNOWN], CostView(amount=None, gpu_seconds=3.0, unpriced=1), id="no price is known"),
        pytest.param([DOLLARS, UNKNOWN], CostView(amount=0.5, currency="USD", gpu_seconds=13.0, unpriced=1), id="some"),
        pytest.param(
            [DOLLARS, EUROS],
            CostView(amount=0.25, currency="EUR", gpu_seconds=14.0, unpriced=2),
            id="two currencies are not added up",
        ),
    ],
)
def test_what_is_added_up(lines: list[Line], expected: CostView) -> None:
    assert total(lines) == expected
