"""The providers that are here, and what is known of each: operators' word, health, circuits, limits, pace."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from contracts.errors import ERRORS, SafelightError, error
from gpu_bridge.acts import SOURCE, noted
from gpu_bridge.breaker import Breaker
from gpu_bridge.call import Call
from gpu_bridge.catalog import FUNCTIONS, Function
from gpu_bridge.policy import Policy
from gpu_bridge.providers.port import Available, Provider, Unavailable
from gpu_bridge.tables import OUTBOX, PROVIDERS
from gpu_bridge.terms import Limits, Terms
from gpu_bridge.turns import Opening
from runtime import clock, logs
from runtime.outbox import Outgoing, insert_parcel, parcel

HEALTH_EVERY_S: Final = 5.0
HEALTH_S: Final = 5.0
ASK_AGAIN_S: Final = 15.0  # after a provider that could not be asked
PAUSED_S: Final = 60.0  # who is deferred because an operator paused the provider asks again after this
COOL_S: Final = 10.0  # after a provider that said "too many"
SAFELIGHT: Final = "safelight"
WORKING: Final = "working"
_ACTIONS: Final = {WORKING: "provider.resumed", "paused": "provider.paused", "draining": "provider.drained"}
log = logs.get()


@dataclass(frozen=True, slots=True)
class Mode:
    """What an operator, or the bridge itself, has said of a provider."""

    mode: str
    why: str
    by: str
    at: datetime


@dataclass(slots=True)
class _Vendor:
    provider: Provider
    limits: Limits
    state: Available | Unavailable
    asked_at: datetime | None = None
    cool_until: datetime | None = None
    tokens: float = 0.0
    filled_at: datetime | None = None


class Vendors:
    """Whom to give work to. `own_workers`: how many calls a provider without a limit does at once."""

    def __init__(self, providers: Sequence[Provider], terms: Terms, policy: Policy, own_workers: int) -> None:
        self.terms = terms
        self.policy = policy
        self.breaker = Breaker()
        self.modes: Mapping[str, Mode] = {}
        self._vendors: dict[str, _Vendor] = {}
        for provider in providers:
            limits = terms.limits[provider.name]
            if limits.in_flight == 0:
                limits = limits.model_copy(update={"in_flight": own_workers})
            self._vendors[provider.name] = _Vendor(provider, limits, Available(), tokens=limits.per_s)

    def named(self, name: str) -> Provider | None:
        """The provider of this name, if it is here."""
        vendor = self._vendors.get(name)
        return vendor.provider if vendor else None

    def limits(self, name: str) -> Limits:
        """How much a provider is asked at once. Raises KeyError for one that is not here."""
        return self._vendors[name].limits

    # -- what is heard ------------------------------------------------------------------------

    async def look(self, conn: AsyncConnection) -> None:
        """Read what operators say. One that has refused our credentials since is paused, and the rows say so."""
        rows = await conn.execute(select(PROVIDERS))
        self.modes = {row.name: Mode(row.mode, row.why, row.by, row.at) for row in rows}
        for name, vendor in self._vendors.items():
            if isinstance(vendor.state, Unavailable) and vendor.state.code == "PROVIDER_UNAUTHORIZED":
                said = self.modes.get(name)
                if said is None or (said.mode == WORKING and vendor.asked_at is not None and vendor.asked_at > said.at):
                    mode = paused(ERRORS["PROVIDER_UNAUTHORIZED"].title)
                    log.error("provider.paused", provider=name, why=mode.why)
                    await set_mode(conn, name, mode)
                    self.modes = {**self.modes, name: mode}

    async def feel_forever(self) -> None:
        """Ask each provider how it is, again and again, so that nobody has to wait for one that is silent."""
        while True:
            await self.feel()
            await asyncio.sleep(HEALTH_EVERY_S)

    async def feel(self) -> None:
        """Ask each provider how it is, once, all at once and bounded."""
        await asyncio.gather(*(self._feel(vendor) for vendor in self._vendors.values()))

    async def _feel(self, vendor: _Vendor) -> None:
        name = vendor.provider.name
        try:
            async with asyncio.timeout(HEALTH_S):
                vendor.state = await vendor.provider.health()
        except Exception as problem:
            code = problem.code if isinstance(problem, SafelightError) else "PROVIDER_UNAVAILABLE"
            vendor.state = Unavailable(code, clock.now() + timedelta(seconds=ASK_AGAIN_S))
            log.warning("provider.ill", provider=name, code=code, error=type(problem).__name__)
        vendor.asked_at = clock.now()

    def cool(self, name: str) -> None:
        """It said that it was asked too much."""
        self._vendors[name].cool_until = clock.now() + timedelta(seconds=COOL_S)

    # -- what is asked ------------------------------------------------------------------------

    def state(self, name: str, function: Function, now: datetime) -> Available | Unavailable:
        """Whether work of this function may go there."""
        vendor = self._vendors[name]
        mode = self.modes.get(name)
        if mode is not None and mode.mode != WORKING:
            code = "PROVIDER_UNAUTHORIZED" if mode.by == SAFELIGHT else "PROVIDER_UNAVAILABLE"
            return Unavailable(code, now + timedelta(seconds=PAUSED_S))
        if isinstance(vendor.state, Unavailable) and vendor.state.until > now:
            return vendor.state
        if vendor.cool_until is not None and vendor.cool_until > now:
            return Unavailable("PROVIDER_RATE_LIMITED", vendor.cool_until)
        until = self.breaker.of(name, function.name).blocked_until(now)
        return Unavailable("PROVIDER_UNAVAILABLE", until) if until else Available()

    def barred(self, tenant: str, function: Function) -> dict[str, str]:
        """The providers that are here and could do it, but may not be given a tenant's sensitive work; and why."""
        return self.policy.barred(tenant, [name for name in function.providers if name in self._vendors])

    def openings(self, function: Function, in_flight: Mapping[str, int], now: datetime) -> dict[str, Opening]:
        """Each provider of the function that is here, as a call of it finds it."""
        found = {}
        for name in function.providers:
            vendor = self._vendors.get(name)
            if vendor is None:
                continue
            room = min(vendor.limits.in_flight - in_flight.get(name, 0), int(self._tokens(vendor, now)))
            if self.breaker.of(name, function.name).is_half_open:
                room = min(room, 1)
            device = vendor.provider.capabilities.device
            found[name] = Opening(name, device, self.state(name, function, now), room, vendor.limits)
        return found

    def failed(self, call: Call) -> None:
        """A call failed by its provider's doing. One that runs here is as well as we are: the work was the reason."""
        provider = self.named(call.provider)
        if provider is not None and provider.capabilities.shared:
            self.breaker.failed(call.provider, call.function, call.key, clock.now())

    def sent(self, name: str, function: str, calls: int, now: datetime) -> None:
        """So many calls go there now, as one submission."""
        self.breaker.sent(name, function, now)
        self._vendors[name].tokens -= calls

    def _tokens(self, vendor: _Vendor, now: datetime) -> float:
        """Submissions that its pace allows now: a second's worth at most is saved up."""
        if vendor.filled_at is not None:
            passed = max(0.0, (now - vendor.filled_at).total_seconds())
            most = max(1.0, vendor.limits.per_s)
            vendor.tokens = min(most, vendor.tokens + passed * vendor.limits.per_s)
        vendor.filled_at = now
        return vendor.tokens


# -- an operator's word ---------------------------------------------------------------------------


def paused(why: str) -> Mode:
    """What the bridge itself says of a provider that does not accept our credentials."""
    return Mode("paused", why, SAFELIGHT, clock.now())


async def set_mode(conn: AsyncConnection, name: str, mode: Mode) -> list[Outgoing]:
    """Keep what was said of a provider, for every process, with its line of the audit, which may be published then.

    Who says what is said already changes nothing, and there is no line of it.
    """
    known = select(PROVIDERS.c.mode, PROVIDERS.c.why).where(PROVIDERS.c.name == name).with_for_update()
    said = (await conn.execute(known)).one_or_none()
    if (said.mode, said.why) == (mode.mode, mode.why) if said else mode.mode == WORKING:
        return []
    values = {"mode": mode.mode, "why": mode.why, "by": mode.by, "at": mode.at}
    row = insert(PROVIDERS).values(name=name, **values)
    await conn.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))
    who = f"room:{SOURCE}" if mode.by == SAFELIGHT else mode.by
    lines = [noted(who, _ACTIONS[mode.mode], name, at=mode.at, why=mode.why)]
    await conn.exec_driver_sql(insert_parcel(OUTBOX.fullname), parcel(lines))
    return lines


def known_functions(name: str) -> list[Function]:
    """The functions that a provider may be asked for. Raises PROVIDER_UNKNOWN."""
    found = [function for function in FUNCTIONS if name in function.providers]
    if not found:
        raise error("PROVIDER_UNKNOWN")
    return found
