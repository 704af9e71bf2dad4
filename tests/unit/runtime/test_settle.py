"""The verdict on a failed delivery, as a table."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from contracts.errors import error
from contracts.topology import CONSUMERS, Consumer
from runtime.settle import Dead, Retry, verdict

ROW = Consumer("test", "COMMANDS", "test", ("cmd.>",), 30.0, (1.0, 5.0), 1)


class Body(BaseModel):
    number: int


def invalid() -> ValidationError:
    try:
        Body.model_validate({"number": "secret text of a user"})
    except ValidationError as problem:
        return problem
    raise AssertionError


@pytest.mark.parametrize(
    ("problem", "deliveries", "expected"),
    [
        pytest.param(error("STORAGE_UNAVAILABLE"), 1, Retry(1.0), id="transient: after the first delay"),
        pytest.param(error("STORAGE_UNAVAILABLE"), 2, Retry(5.0), id="transient again: after the second delay"),
        pytest.param(RuntimeError("boom"), 1, Retry(1.0), id="unforeseen counts as transient"),
        pytest.param(RuntimeError("boom"), 3, Dead("INTERNAL", "RuntimeError"), id="unforeseen on the last delivery"),
        pytest.param(
            error("IMAGE_CORRUPT", "cut"), 1, Dead("IMAGE_CORRUPT", "cut"), id="permanent: dead at once, with its code"
        ),
        pytest.param(
            error("STORAGE_UNAVAILABLE", "x"), 3, Dead("STORAGE_UNAVAILABLE", "x"), id="transient on the last delivery"
        ),
        pytest.param(
            invalid(), 1, Dead("MESSAGE_INVALID", "1 fields do not fit Body"), id="invalid body: dead at once"
        ),
    ],
)
def test_verdict(problem: Exception, deliveries: int, expected: Retry | Dead) -> None:
    assert verdict(problem, deliveries, ROW) == expected


def test_the_reason_of_an_invalid_body_does_not_repeat_the_body() -> None:
    found = verdict(invalid(), 1, ROW)
    assert isinstance(found, Dead)
    assert "secret" not in found.detail


@pytest.mark.parametrize("row", CONSUMERS, ids=lambda row: row.name)
def test_every_consumer_ends_in_a_dead_letter_and_never_retries_at_once(row: Consumer) -> None:
    delays = [verdict(RuntimeError(), n, row) for n in range(1, row.max_deliver + 1)]
    assert isinstance(delays[-1], Dead)
    assert all(isinstance(d, Retry) and d.delay_s >= 0.5 for d in delays[:-1])
