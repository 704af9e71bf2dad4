"""On what terms each provider works for us: how much at once, and for what price. Read from `terms.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpu_bridge.catalog import FUNCTIONS


class Limits(BaseModel):
    """`in_flight` calls at once over all processes (0: as many as it has workers), `per_s` submissions of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_flight: int = Field(ge=0)
    per_s: float = Field(gt=0)
    batch: int = Field(ge=1, le=64)
    batch_wait_s: float = Field(ge=0, le=60)
    bills_cold_start: bool


class Price(BaseModel):
    """What a second of a device costs, as read on a day at a place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    device: str
    per_s: float = Field(ge=0)
    as_of: date
    source: str


class Terms(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    limits: Mapping[str, Limits]
    prices: tuple[Price, ...]

    def price(self, provider: str, device: str) -> Price | None:
        """The newest price of a device there; None when nobody wrote it down."""
        known = [p for p in self.prices if (p.provider, p.device) == (provider, device)]
        return max(known, key=lambda p: p.as_of, default=None)

    def bill(self, provider: str, device: str, run_s: float, cold_start_s: float) -> Bill:
        """What a run cost: its seconds, and those of its cold start where they are billed."""
        limits = self.limits.get(provider)
        billed_s = run_s + (cold_start_s if limits and limits.bills_cold_start else 0.0)
        price = self.price(provider, device)
        return Bill(billed_s, price.per_s * billed_s, price.as_of) if price else Bill(billed_s, None)


@dataclass(frozen=True, slots=True)
class Bill:
    """Billed seconds, and what they cost in the terms' currency by the price of that day; None: it is not known."""

    billed_s: float
    cost: float | None
    priced_on: date | None = None


class TermsInvalid(Exception):
    """The file of terms cannot be used; the message says why."""


DEFAULT: Final = resources.files("gpu_bridge") / "terms.toml"


def read(path: Path | None = None) -> Terms:
    """The terms of a file, or the ones that ship. Raises TermsInvalid."""
    try:
        found = Terms.model_validate(tomllib.loads((path or DEFAULT).read_text("utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise TermsInvalid(f"{path}: {problem}") from problem
    except ValidationError as problem:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors())
        raise TermsInvalid(f"{path or 'terms.toml'}: {where}") from problem
    for name in dict.fromkeys(name for function in FUNCTIONS for name in function.providers):
        if name not in found.limits:
            raise TermsInvalid(f"{path}: limits.{name}: Field required")
    return found
