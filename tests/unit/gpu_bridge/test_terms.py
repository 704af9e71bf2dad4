"""Limits and prices: what ships can be used, what somebody writes is refused with the place that is wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from gpu_bridge import terms
from gpu_bridge.catalog import FUNCTIONS
from gpu_bridge.settings import Settings
from gpu_bridge.terms import Limits, Price, Terms, TermsInvalid

TEXT = terms.DEFAULT.read_text("utf-8")
NEAR = Limits(in_flight=1, per_s=1, batch=1, batch_wait_s=0, bills_cold_start=False)


def written(folder: Path, text: str) -> Path:
    path = folder / "terms.toml"
    path.write_text(text)
    return path


def test_what_ships_names_every_provider_and_says_when_prices_were_read() -> None:
    found = terms.read()
    assert set(found.limits) == {name for function in FUNCTIONS for name in function.providers}
    assert found.currency == "USD"
    assert all(price.as_of.year >= 2025 and price.source for price in found.prices)
    assert {price.provider for price in found.prices} <= set(found.limits)


def test_another_file_takes_its_place(tmp_path: Path) -> None:
    found = terms.read(written(tmp_path, TEXT.replace('"USD"', '"EUR"').replace("in_flight = 100 ", "in_flight = 7 ")))
    assert (found.currency, found.limits["modal"].in_flight) == ("EUR", 7)


@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        pytest.param("batch = 4 ", "batch = 0 ", "limits.modal.batch: ", id="a number that is too small"),
        pytest.param("batch = 4 ", "batch = 65 ", "limits.modal.batch: ", id="a number that is too large"),
        pytest.param("per_s = 20 ", "per_s = 0 ", "limits.modal.per_s: ", id="no pace at all"),
        pytest.param("per_s = 20 ", 'per_s = "fast" ', "limits.modal.per_s: ", id="no number"),
        pytest.param("per_s = 20 ", "speed = 20 ", "limits.modal.speed: Extra inputs", id="a strange name"),
        pytest.param('currency = "USD"', 'currency = "dollars"', "currency: ", id="no currency"),
        pytest.param("per_s = 0.000164", "per_s = -1", "prices.0.per_s: ", id="a negative price"),
        pytest.param("as_of = 2025-10-01", "as_of = 2025-99-01", "terms.toml: ", id="no TOML"),
        pytest.param("[limits.local]", "[limits.loco]", "limits.local: Field required", id="a provider left out"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(
    tmp_path: Path, before: str, after: str, place: str
) -> None:
    assert before in TEXT
    path = written(tmp_path, TEXT.replace(before, after, 1))
    with pytest.raises(TermsInvalid) as problem:
        terms.read(path)
    assert str(problem.value).startswith(str(path))
    assert place in str(problem.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["no file", "no text"])
def test_what_is_no_text_file_is_refused_with_its_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "terms.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TermsInvalid, match=str(path)):
        terms.read(path)


# -- prices -----------------------------------------------------------------------------------------


def priced(*prices: tuple[str, str, float, date], bills_cold_start: bool = False) -> Terms:
    rows = tuple(Price(provider=p, device=d, per_s=c, as_of=at, source="x") for p, d, c, at in prices)
    return Terms(
        currency="USD", limits={"m": NEAR.model_copy(update={"bills_cold_start": bills_cold_start})}, prices=rows
    )


def test_the_newest_price_counts_wherever_it_stands() -> None:
    found = priced(("m", "L4", 2.0, date(2026, 5, 1)), ("m", "L4", 1.0, date(2025, 5, 1)))
    price = found.price("m", "L4")
    assert price is not None
    assert price.per_s == 2.0
    assert found.price("m", "T4") is None
    assert found.price("n", "L4") is None


@pytest.mark.parametrize(
    ("bills_cold_start", "device", "billed_s", "cost"),
    [
        pytest.param(False, "L4", 4.0, 8.0, id="the run alone"),
        pytest.param(True, "L4", 14.0, 28.0, id="with its cold start"),
        pytest.param(True, "H100", 14.0, None, id="at a price that nobody wrote down"),
    ],
)
def test_a_bill(bills_cold_start: bool, device: str, billed_s: float, cost: float | None) -> None:
    found = priced(("m", "L4", 2.0, date(2026, 1, 1)), bills_cold_start=bills_cold_start)
    bill = found.bill("m", device, 4.0, 10.0)
    assert (bill.billed_s, bill.cost) == (billed_s, cost)


# -- settings ---------------------------------------------------------------------------------------


def settings(**given: Any) -> Settings:
    keys: dict[str, Any] = {name: SecretStr("x") for name in ("postgres_url", "s3_access_key", "s3_secret_key")}
    return Settings(**keys, **given)


def test_a_service_with_bad_terms_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"limits\.modal\.batch") as problem:
        settings(gpu_terms=written(tmp_path, TEXT.replace("batch = 4 ", "batch = 0 ")))
    assert [e["loc"] for e in problem.value.errors()] == [("gpu_terms",)]


def test_what_is_set_to_nothing_is_not_set() -> None:
    found = settings(gpu_terms="", modal_app="", modal_environment="")
    assert (found.gpu_terms, found.modal_app, found.modal_environment) == (None, None, None)
