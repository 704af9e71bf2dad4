"""How much a tenant may bring: the rules, without the rows. Pure.

A rate is a bucket: `burst` uploads fit, it empties by one with each and fills at `per_s`. Of a bucket only the moment
is kept at which it will be full again: what is missing now is what fills until then.
A quota is a sum over a day, a month (both UTC), or all that is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, le=10_000)]
Burst = Annotated[int, Field(ge=1, le=100_000)]
Period = Literal["day", "month", "stored"]
PERIODS: Final[tuple[Period, ...]] = ("day", "month", "stored")
STORED_AGAIN_S: Final = 3600.0  # nobody knows when something will be deleted


class Limits(BaseModel):
    """What a tenant may bring. A quota of null is none; `key_*` is for each of its API keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uploads_per_s: Rate = 100
    burst: Burst = 1000
    key_uploads_per_s: Rate = 100
    key_burst: Burst = 1000
    files_per_day: Count | None = None
    files_per_month: Count | None = None
    files_stored: Count | None = None
    bytes_per_day: Count | None = None
    bytes_per_month: Count | None = None
    bytes_stored: Count | None = None
    jobs_open: Count | None = Field(default=None, description="jobs that are not over")

    def quota(self, period: Period) -> tuple[int | None, int | None]:
        """(files, bytes) of a period."""
        suffix = "stored" if period == "stored" else f"per_{period}"
        return getattr(self, f"files_{suffix}"), getattr(self, f"bytes_{suffix}")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket after somebody asked: whether one was taken, how many are left, when it is full."""

    taken: bool
    left: int
    full_at: datetime
    wait_s: float  # until there is one, when none was taken


def take(full_at: datetime, now: datetime, per_s: float, burst: int) -> Bucket:
    """Take one from a bucket that will be full at `full_at`."""
    missing_s = max(0.0, (full_at - now).total_seconds())
    after_s, whole_s = missing_s + 1 / per_s, burst / per_s
    slack = 1e-6  # a moment is kept in whole microseconds, rounded down: in favour of who asks
    if after_s > whole_s + slack:
        return Bucket(False, 0, full_at, after_s - whole_s)
    left = math.floor((whole_s - after_s) * per_s + slack * per_s)
    return Bucket(True, max(0, left), now + timedelta(microseconds=math.floor(after_s * 1e6)), 0.0)


def key_of(period: Period, now: datetime) -> str:
    """What a period's sum is kept under."""
    return {"day": f"{now:%Y-%m-%d}", "month": f"{now:%Y-%m}", "stored": "stored"}[period]


def seconds_left(period: Period, now: datetime) -> float:
    """Until the sum begins anew."""
    if period == "stored":
        return STORED_AGAIN_S
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    end = midnight + timedelta(days=1)
    if period == "month":
        end = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    return (end - now).total_seconds()


def over(limits: Limits, period: Period, files: int, size: int) -> str | None:
    """What a sum of so many files and bytes is over, in words; None when it is within the quota."""
    files_max, bytes_max = limits.quota(period)
    when = "stored" if period == "stored" else f"a {period}"
    if files_max is not None and files > files_max:
        return f"{files_max} files {when} are allowed"
    if bytes_max is not None and size > bytes_max:
        return f"{bytes_max} bytes {when} are allowed"
    return None
