"""GPU providers, for operators: how they are, what is said to them, what they cost; and degraded results made good."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import Field

from console.client import Client, quoted
from console.jobs import Read

PATH: Final = "/v1/providers"
UPGRADE: Final = "/v1/jobs/upgrade"
PAGE_MAX: Final = 200  # jobs that one request upgrades at most


class FunctionState(Read):
    """A function as a provider does it now; `code` and `until` say why not, if it does not."""

    function: str
    takes_work: bool
    code: str | None = None
    until: datetime | None = None


class Price(Read):
    """What a second of a device costs."""

    device: str
    per_s: float
    as_of: date


class Sensitive(Read):
    """Whether a provider is given a tenant's sensitive work; `tenant` None: of all without a policy of their own."""

    tenant: str | None = None
    allowed: bool
    why: str = ""


class Provider(Read):
    """A provider: what it is, what was said of it, how it is, and what it has."""

    name: str
    here: bool
    mode: str
    why: str = ""
    by: str = ""
    at: datetime | None = None
    device: str | None = None
    in_flight: int = 0
    in_flight_max: int | None = None
    functions: tuple[FunctionState, ...] = ()
    currency: str = ""
    prices: tuple[Price, ...] = ()
    sensitive: tuple[Sensitive, ...] = ()

    @property
    def is_gpu_at_work(self) -> bool:
        """Whether it computes on GPUs and takes work of some function now."""
        return self.here and self.device == "gpu" and any(one.takes_work for one in self.functions)


class Say(StrEnum):
    """What can be said to a provider."""

    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"


class Tested(Read):
    """How a test call went; None: it did not come so far. `links_to` is where the provider had to reach storage."""

    provider: str
    ok: bool
    code: str | None = None
    detail: str = ""
    engine: str = ""
    device: str = ""
    cold: bool | None = None
    submit_s: float = 0.0
    start_s: float | None = None
    run_s: float | None = None
    links_to: str = ""


class CostLine(Read):
    """What epochs of one kind took and cost, in seconds and money; `unpriced` of them have no known price."""

    provider: str
    function: str
    device: str | None = None
    epochs: int
    failed: int = 0
    cold: int = 0
    queue_s: float = 0.0
    start_s: float = 0.0
    run_s: float = 0.0
    billed_s: float = 0.0
    cost: float = 0.0
    unpriced: int = 0


class Costs(Read):
    """What was bought since then."""

    since: datetime
    currency: str
    lines: tuple[CostLine, ...] = ()


class Upgraded(Read):
    """What an upgrade did, or would do. `phases`: of how many jobs a lesser engine did each. `passed_over`: of none."""

    found: int
    jobs: int = 0
    passed_over: int = 0
    phases: dict[str, int] = Field(default_factory=dict)
    until: datetime
    next_cursor: str | None = None


async def every(api: Client) -> list[Provider]:
    """Every provider, in the order of trust."""
    return [Provider.model_validate(row) for row in await api.get(PATH)]


async def say(api: Client, name: str, what: Say, reason: str) -> Provider:
    """Pause, resume or drain it. Raises Refused (PROVIDER_UNKNOWN), Unreachable."""
    return Provider.model_validate(await api.post(f"{PATH}/{quoted(name)}/{what}", {"reason": reason}))


async def test(api: Client, name: str) -> Tested:
    """The smallest real work, by the whole way; a cold start takes minutes. Raises Refused (PROVIDER_UNKNOWN)."""
    return Tested.model_validate(await api.post(f"{PATH}/{quoted(name)}/test", {}))


async def costs(api: Client, days: int, tenant: str | None) -> Costs:
    """What was bought in these last days, of one tenant or of all."""
    query = {"days": str(days), **({"tenant": tenant} if tenant is not None else {})}
    return Costs.model_validate(await api.get(f"{PATH}/costs", query))


async def upgrade(
    api: Client,
    which: Mapping[str, Any],
    limit: int,
    rate_per_s: float,
    *,
    dry_run: bool = False,
    reason: str = "",
) -> Upgraded:
    """Let at most `limit` degraded jobs work again, so many a second."""
    whole: Upgraded | None = None
    asked = dict(which) | {"dry_run": dry_run, "reason": reason}
    left = limit
    while True:
        size = min(left, PAGE_MAX if dry_run else max(1, math.ceil(rate_per_s)), PAGE_MAX)
        page = Upgraded.model_validate(await api.post(UPGRADE, {**asked, "limit": size}))
        whole = page if whole is None else _sum(whole, page)
        left -= page.jobs
        if page.next_cursor is None or left <= 0:
            return whole
        # What ends degraded once more is of the next walk, not of this one.
        asked |= {"until": page.until.isoformat(), "cursor": page.next_cursor}
        if not dry_run:
            await asyncio.sleep(page.jobs / rate_per_s)


def _sum(whole: Upgraded, page: Upgraded) -> Upgraded:
    phases = dict(whole.phases)
    for name, count in page.phases.items():
        phases[name] = phases.get(name, 0) + count
    return whole.model_copy(
        update={
            "jobs": whole.jobs + page.jobs,
            "passed_over": whole.passed_over + page.passed_over,
            "phases": phases,
            "next_cursor": page.next_cursor,
        }
    )


def advice(tested: Tested) -> str | None:
    """What to do about a test that failed because the provider cannot reach object storage; None for any other."""
    if tested.ok or tested.device == "cpu" or tested.provider == "local":
        return None
    if tested.links_to and _is_at_home(tested.links_to):
        return (
            f"Its links lead to {tested.links_to}, which cannot be reached from outside this network. Set "
            "SAFELIGHT_S3_PUBLIC_ENDPOINT to a URL at which the provider reaches object storage, and start again."
        )
    if tested.code == "STORAGE_UNAVAILABLE":
        return (
            f"The provider could not reach object storage at {tested.links_to}. Is that address open from outside, "
            "with the Host header unchanged? It is SAFELIGHT_S3_PUBLIC_ENDPOINT."
        )
    return None


def _is_at_home(url: str) -> bool:
    """Whether an address is one that only its own network knows."""
    host = urlsplit(url).hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
