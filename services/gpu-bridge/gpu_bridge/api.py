"""The HTTP surface of the gpu-bridge, for operators: providers, what they were asked for, and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, StringConstraints
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import SafelightError, error
from gpu_bridge import smoke, store
from gpu_bridge.acts import noted
from gpu_bridge.catalog import FUNCTIONS
from gpu_bridge.marks import MarkStore
from gpu_bridge.policy import Policy
from gpu_bridge.providers.port import Provider, Unavailable
from gpu_bridge.vendors import WORKING, Mode, Vendors, known_functions, set_mode
from runtime import clock, logs
from runtime.http import Bounded, Operator, Reason, responses
from runtime.outbox import Outbox

log = logs.get()
STILL_THERE_S: Final = 10.0  # a proxy waits a minute for a byte, our client 45 s
MODES: Final = {"pause": "paused", "drain": "draining", "resume": WORKING}


@dataclass(frozen=True, slots=True)
class UseCases:
    """Everything that a route may call. `still_there_s`: how often a long answer says that it is still to come."""

    engine: AsyncEngine
    outbox: Outbox
    vendors: Vendors
    marks: MarkStore
    still_there_s: float = STILL_THERE_S


def _hands(request: Request) -> UseCases:
    found: UseCases = request.app.state.use_cases
    return found


Hands = Annotated[UseCases, Depends(_hands)]
Named = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
router = APIRouter(prefix="/v1/providers", tags=["providers"], route_class=Bounded)


class PriceView(BaseModel):
    """What a second of a device costs."""

    device: str
    per_s: float
    as_of: date


class FunctionView(BaseModel):
    """A function as a provider does it now. `code` and `until` say why it does not take it, if so."""

    function: str
    takes_work: bool
    code: str | None
    until: datetime | None


class SensitiveView(BaseModel):
    """Whether a provider is given a tenant's sensitive work; `tenant` null: of all that have no policy of their own."""

    tenant: str | None
    allowed: bool
    why: str


class DeclaredView(BaseModel):
    """What a provider declares, as read on a day at a place; of `retention_s` null: it does not say."""

    own: bool
    retention_s: float | None
    regions: list[str]
    agreements: list[str]
    offered: list[str]
    as_of: date
    source: str


class ProviderView(BaseModel):
    """A provider: what it is, what operators said of it, how it is, and what it has."""

    name: str
    here: bool
    mode: str
    why: str
    by: str
    at: datetime | None
    device: str | None
    gpus: list[str]
    regions: list[str]
    retention_s: float | None
    in_flight: int
    in_flight_max: int | None
    functions: list[FunctionView]
    currency: str
    prices: list[PriceView]
    declared: DeclaredView | None
    sensitive: list[SensitiveView]


class ModeChange(BaseModel):
    """Why a provider is to work or not; everybody who looks at it reads this, so it must hold no personal data."""

    reason: Reason = ""


@router.get("", responses=responses("UNAUTHENTICATED", "FORBIDDEN"))
async def providers(hands: Hands, _operator: Operator) -> list[ProviderView]:
    """Every provider that the catalogue names, in the order of trust."""
    async with hands.engine.connect() as conn:
        await hands.vendors.look(conn)
        in_flight = await store.in_flight(conn)
    names = dict.fromkeys(name for function in FUNCTIONS for name in function.providers)
    return [_view(hands.vendors, name, in_flight.get(name, 0)) for name in names]


def _view(vendors: Vendors, name: str, in_flight: int) -> ProviderView:
    provider, mode, now = vendors.named(name), vendors.modes.get(name), clock.now()
    about = provider.capabilities if provider else None
    functions = []
    for function in known_functions(name):
        state = vendors.state(name, function, now) if provider else Unavailable("NO_PROVIDER", now)
        ill = state if isinstance(state, Unavailable) else None
        functions.append(
            FunctionView(
                function=function.label,
                takes_work=ill is None,
                code=ill.code if ill else None,
                until=ill.until if ill and provider else None,
            )
        )
    prices = [p for p in vendors.terms.prices if p.provider == name]
    return ProviderView(
        name=name,
        here=provider is not None,
        mode=mode.mode if mode else WORKING,
        why=mode.why if mode else "",
        by=mode.by if mode else "",
        at=mode.at if mode else None,
        device=about.device if about else None,
        gpus=list(about.gpus) if about else [],
        regions=list(about.regions) if about else [],
        retention_s=about.retention_s if about else None,
        in_flight=in_flight,
        in_flight_max=vendors.limits(name).in_flight if provider else None,
        functions=functions,
        currency=vendors.terms.currency,
        prices=[PriceView(device=p.device, per_s=p.per_s, as_of=p.as_of) for p in prices],
        declared=_declared(vendors.policy, name),
        sensitive=_sensitive(vendors.policy, name),
    )


def _declared(policy: Policy, name: str) -> DeclaredView | None:
    declared = policy.providers.get(name)
    return DeclaredView(**declared.model_dump()) if declared else None


def _sensitive(policy: Policy, name: str) -> list[SensitiveView]:
    found = []
    for tenant in (None, *sorted(policy.tenants)):
        why = "; ".join(policy.bars(tenant or "", name))
        found.append(SensitiveView(tenant=tenant, allowed=not why, why=why))
    return found


class Tested(BaseModel):
    """How a smoke call went: seconds until it was accepted, until it was claimed, and at work.

    `links_to` is where its links led: object storage, as the provider has to reach it.
    """

    provider: str
    ok: bool
    code: str | None
    detail: str
    engine: str
    device: str
    cold: bool | None
    submit_s: float
    start_s: float | None
    run_s: float | None
    links_to: str


# Before the route of {what}, which would take "test" for one.
@router.post(
    "/{name}/test",
    response_model=Tested,
    responses=responses("UNAUTHENTICATED", "FORBIDDEN", "PROVIDER_UNKNOWN", "REQUEST_INVALID"),
)
async def test(hands: Hands, operator: Operator, name: Named) -> Response:
    """Style a picture of 16 x 16 pixels there, by the whole way: links, claim, result. It is paid for.

    A cold start takes minutes: spaces come before the JSON meanwhile, so that nobody on the way takes
    the connection for a dead one.
    """
    known_functions(name)
    provider = hands.vendors.named(name)
    if provider is None:
        raise error("PROVIDER_UNKNOWN", "no such provider is set up here")
    async with hands.outbox.transaction() as (_, told):
        told.append(noted(f"operator:{operator}", "provider.tested", name))
    # It goes on when the caller leaves: it is bought already, and clears up behind itself.
    task = asyncio.create_task(_tested(provider, hands.marks))
    _testing.add(task)
    task.add_done_callback(_testing.discard)

    async def body() -> AsyncIterator[str]:
        while not (await asyncio.wait({task}, timeout=hands.still_there_s))[0]:
            yield " "
        yield task.result().model_dump_json()

    return StreamingResponse(body(), media_type="application/json")


_testing: set[asyncio.Task[Tested]] = set()


async def _tested(provider: Provider, marks: MarkStore) -> Tested:
    """Whatever goes wrong is told: the answer has begun."""
    links_to = ""
    try:
        public = provider.capabilities.shared
        link = urlsplit(await marks.objects.read_url("calls/smoke", timedelta(seconds=1), public=public))
        links_to = f"{link.scheme}://{link.netloc}"
        found = await smoke.test(provider, marks)
    except SafelightError as problem:
        found = {**smoke.NOTHING, "code": problem.code, "detail": problem.detail}
    except Exception as problem:
        log.error("provider.test_failed", provider=provider.name, exc_info=problem)
        found = {**smoke.NOTHING, "code": "INTERNAL", "detail": type(problem).__name__}
    return Tested(provider=provider.name, links_to=links_to, **found)


@router.post(
    "/{name}/{what}",
    responses=responses("UNAUTHENTICATED", "FORBIDDEN", "PROVIDER_UNKNOWN", "REQUEST_INVALID"),
)
async def change(
    hands: Hands,
    operator: Operator,
    name: Named,
    what: Literal["pause", "resume", "drain"],
    because: ModeChange | None = None,
) -> ProviderView:
    """Give it nothing new (`pause`; `drain` says that it is to run empty), or let it work again (`resume`)."""
    known_functions(name)
    mode = Mode(MODES[what], because.reason if because else "", f"operator:{operator}", clock.now())
    async with hands.engine.begin() as conn:
        told = await set_mode(conn, name, mode)
    await hands.outbox.flush_or_leave(told)
    async with hands.engine.connect() as conn:
        await hands.vendors.look(conn)
        in_flight = await store.in_flight(conn)
    return _view(hands.vendors, name, in_flight.get(name, 0))


class CostLine(BaseModel):
    """What epochs of one kind took and cost: seconds in our queue, until the start, and at work."""

    provider: str
    function: str
    device: str | None
    epochs: int
    failed: int
    cold: int
    queue_s: float
    start_s: float
    run_s: float
    billed_s: float
    cost: float
    unpriced: int


class Costs(BaseModel):
    """What was bought in a time, by provider, function and device."""

    since: datetime
    currency: str
    lines: list[CostLine]


@router.get("/costs", responses=responses("UNAUTHENTICATED", "FORBIDDEN", "REQUEST_INVALID"))
async def costs(
    hands: Hands,
    _operator: Operator,
    days: Annotated[int, Query(ge=1, le=366)] = 30,
    tenant: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")] = None,
) -> Costs:
    """What was bought in these last days, of one tenant or of all."""
    since = clock.now() - timedelta(days=days)
    async with hands.engine.connect() as conn:
        rows = await conn.execute(_COSTS, {"since": since, "tenant": tenant})
        lines = [CostLine(**row._mapping) for row in rows]
    return Costs(since=since, currency=hands.vendors.terms.currency, lines=lines)


_COSTS: Final = text("""
SELECT e.provider, c.function, e.device, count(*) AS epochs, count(e.code) AS failed,
    count(*) FILTER (WHERE e.cold) AS cold,
    COALESCE(sum(EXTRACT(epoch FROM e.spawned_at - e.queued_at)), 0)::float AS queue_s,
    COALESCE(sum(EXTRACT(epoch FROM e.started_at - e.spawned_at)), 0)::float AS start_s,
    COALESCE(sum(e.run_s), 0) AS run_s, COALESCE(sum(e.billed_s), 0) AS billed_s, COALESCE(sum(e.cost), 0) AS cost,
    count(*) FILTER (WHERE e.ended_at IS NOT NULL AND e.cost IS NULL) AS unpriced
FROM gpu_bridge.epochs e JOIN gpu_bridge.calls c ON c.key = e.call
WHERE e.spawned_at >= :since AND (CAST(:tenant AS text) IS NULL OR c.tenant = :tenant)
GROUP BY 1, 2, 3 ORDER BY cost DESC, 1, 2
""")
