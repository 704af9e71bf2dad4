"""The bridge's ledger with scripted providers on it: what goes to them is seen, what they say is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import ObjectRef
from contracts.envelope import (
    CallRequest,
    CallResponse,
    Claim,
    Item,
    ItemResult,
    Progress,
    Result,
    StoredOutput,
    Usage,
)
from contracts.phases import RunPhase, StopPhase
from gpu_bridge import policy, terms
from gpu_bridge.call import State
from gpu_bridge.catalog import FUNCTIONS, Clocks, Function
from gpu_bridge.handlers import Handlers
from gpu_bridge.ledger import Ledger
from gpu_bridge.marks import MarkStore
from gpu_bridge.policy import Policy
from gpu_bridge.providers.port import Available, Broken, Capabilities, Ended, News, Pending, Provider, Unavailable
from gpu_bridge.submitter import Submitter
from gpu_bridge.tables import OUTBOX
from gpu_bridge.terms import Limits, Terms
from gpu_bridge.vendors import Vendors
from gpu_bridge.watcher import Watcher
from gpu_bridge.watches import Pace
from runtime.objects import Objects
from runtime.outbox import Outbox
from tests.integration.conftest import until
from tests.integration.wire import command

QUICK = Pace(first_s=0.02, most_s=0.05, marks_s=0.05, spawn_lease_s=0.3, stop_grace_s=0.5, keep_s=0.1)
ROOMY = Limits(in_flight=100, per_s=1000, batch=1, batch_wait_s=0, bills_cold_start=True)
IMAGE = {"image": "image.png"}


def function(providers: Sequence[str], long: bool = False, **clocks: float) -> Function:
    """`style.apply` with other providers and shorter clocks."""
    usual = {"queue_s": 30.0, "start_s": 30.0, "stall_s": 30.0, "run_s": 30.0}
    return Function(
        "style.apply", 1, "style", ("image", "lut"), IMAGE, ("lut",), Clocks(**usual | clocks), tuple(providers), long
    )


@dataclass
class Scripted:
    """A provider that does what the test says. Its functions keep to the protocol: they claim first.

    `fails` are the errors of its next submissions: raised instead of it, or with `after` after it
    was done: the answer was lost. `answer` says at once how a call ends.
    """

    name: str = "near"
    device: str = "gpu"
    shared: bool = True
    able: Available | Unavailable = field(default_factory=Available)
    answer: Callable[[CallRequest], Any] | None = None
    claims: bool = True
    fails: list[Exception] = field(default_factory=list)
    after: bool = False
    cancel_fails: Exception | None = None
    hangs: bool = False
    health_hangs: bool = False
    submitted: list[CallRequest] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)  # items whose work was done: what is paid for
    cancelled: list[str] = field(default_factory=list)
    prewarmed: list[str] = field(default_factory=list)
    polls: int = 0
    _said: dict[str, Any] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            device="gpu" if self.device == "gpu" else "cpu",
            cancels=True,
            webhooks=False,
            prewarms=True,
            shared=self.shared,
            retention_s=0.0,
        )

    async def health(self) -> Available | Unavailable:
        if self.health_hangs:
            await asyncio.Event().wait()
        return self.able

    async def submit(self, request: CallRequest) -> str:
        if self.hangs:
            await asyncio.Event().wait()
        problem = self.fails.pop(0) if self.fails else None
        if problem is not None and not self.after:
            raise problem
        handle = f"{self.name}-{uuid4().hex[:8]}"
        self.submitted.append(request)
        if self.claims:
            await self.begin(handle, request)
        if problem is not None:
            raise problem
        return handle

    async def begin(self, handle: str, request: CallRequest) -> None:
        """The function begins: it claims each item, works on those that are its own, and says how that ended."""
        mine = [item for item in request.items if await claimed(item, handle)]
        self.bodies += [item.id for item in mine]
        if not mine:
            others = [ItemResult(id=item.id, duplicate_of=await owner(item)) for item in request.items]
            self._said[handle] = answered(request, others)
        elif self.answer is not None:
            for item in request.items:
                await write(item)
            self._said[handle] = self.answer(request)

    def say(self, handle: str, what: Any) -> None:
        self._said[handle] = what

    async def poll(self, handle: str, wait_s: float) -> News:
        self.polls += 1
        if self.hangs:
            await asyncio.Event().wait()
        said = self._said.get(handle, Pending())
        if isinstance(said, Exception):
            raise said
        if isinstance(said, CallResponse):
            return Ended(said)
        if wait_s:
            await asyncio.sleep(0.02)
        found: News = said
        return found

    async def cancel(self, handle: str) -> None:
        self.cancelled.append(handle)
        if self.cancel_fails:
            raise self.cancel_fails
        self._said.setdefault(handle, Broken("CALL_KILLED"))

    async def prewarm(self, function: str) -> None:
        self.prewarmed.append(function)

    async def close(self) -> None: ...


async def claimed(item: Item, handle: str) -> bool:
    assert item.marks
    claim = Claim(owner=handle, at=datetime.now(UTC))
    async with httpx.AsyncClient() as http:
        put = await http.put(item.marks.claim, content=claim.model_dump_json(), headers={"If-None-Match": "*"})
    return put.status_code < 300


async def write(item: Item) -> None:
    async with httpx.AsyncClient() as http:
        for target in item.outputs.values():
            (await http.put(target.url, content=b"x")).raise_for_status()


async def owner(item: Item) -> str:
    assert item.marks
    async with httpx.AsyncClient() as http:
        return Claim.model_validate_json((await http.get(item.marks.claimed)).content).owner


async def result(item: Item, handle: str, done: ItemResult) -> None:
    """The function writes its result object."""
    assert item.marks
    found = Result(owner=handle, function="style.apply", engine="scripted@1", device="L4", item=done, usage=used())
    async with httpx.AsyncClient() as http:
        (await http.put(item.marks.result, content=found.model_dump_json())).raise_for_status()


async def tells(item: Item, fraction: float, **told: Any) -> None:
    """The function tells of itself by its mark."""
    assert item.marks
    progress = Progress(fraction=fraction, at=datetime.now(UTC), **told)
    async with httpx.AsyncClient() as http:
        (await http.put(item.marks.progress, content=progress.model_dump_json())).raise_for_status()


def used(seconds: float = 2.0, cold: bool = True) -> Usage:
    now = datetime.now(UTC)
    began = now.timestamp() - seconds
    return Usage(started_at=datetime.fromtimestamp(began, UTC), ended_at=now, cold=cold, boot_s=5.0 if cold else 0.0)


def wrote(key: str) -> StoredOutput:
    return StoredOutput(key=key, sha256="0" * 64, size=1, media_type="image/png")


def done(item: Item, **facts: Any) -> ItemResult:
    outputs = {role: wrote(target.key) for role, target in item.outputs.items()}
    return ItemResult(id=item.id, facts=facts, outputs=outputs)


def answered(asked: CallRequest, items: Sequence[ItemResult], device: str = "L4") -> CallResponse:
    return CallResponse(
        call_id=asked.call_id,
        function=asked.function,
        engine="scripted@1",
        device=device,
        items=list(items),
        usage=used(),
    )


def succeeded(asked: CallRequest, device: str = "L4", **facts: Any) -> CallResponse:
    return answered(asked, [done(item, **facts) for item in asked.items], device)


def on_cpu(asked: CallRequest) -> CallResponse:
    return succeeded(asked, "cpu")


def with_item(asked: CallRequest, **changes: Any) -> CallResponse:
    """A success whose one item says something else."""
    [item] = [done(item) for item in asked.items]
    return answered(asked, [item.model_copy(update=changes)])


@dataclass
class Bridge:
    """What one process of the bridge is made of, but for the broker's side."""

    ledger: Ledger
    vendors: Vendors
    submitter: Submitter
    watcher: Watcher
    handlers: Handlers
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self) -> None:
        works = (
            self.vendors.feel_forever(),
            self.submitter.run_forever(),
            self.watcher.run_forever(),
            self.watcher.keep_forever(),
        )
        for work in works:
            self.tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@dataclass
class Desk:
    """A ledger of its own: nothing else runs on it."""

    engine: AsyncEngine
    nc: Client
    objects: Objects
    image: ObjectRef
    lut: ObjectRef
    bridges: list[Bridge] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.engine, OUTBOX, self.nc.jetstream())

    def made(
        self,
        *providers: Provider,
        limits: Mapping[str, Limits] | None = None,
        pace: Pace = QUICK,
        in_flight_max: int = 5000,
        long: bool = False,
        obeyed: Policy | None = None,
        **clocks: float,
    ) -> Bridge:
        """One process of the bridge, at rest. Its function goes to these providers, in this order."""
        names = [provider.name for provider in providers]
        functions = (function(names, long, **clocks), *FUNCTIONS[1:])
        offered = Terms(
            currency="EUR",
            limits={name: (limits or {}).get(name, ROOMY) for name in names},
            prices=terms.read().prices
            + tuple(replace_price(price, name) for price in terms.read().prices[:2] for name in names),
        )
        ledger = Ledger(self.engine, Outbox(self.engine, OUTBOX, self.nc.jetstream()))
        marks, arrived = MarkStore(self.objects), asyncio.Event()
        vendors = Vendors(providers, offered, obeyed or policy.read(), own_workers=2)
        watcher = Watcher(ledger, marks, vendors, self.nc.jetstream(), arrived, functions, pace)
        submitter = Submitter(ledger, marks, vendors, watcher, arrived, in_flight_max, functions)
        handlers = Handlers(ledger, marks, vendors, arrived, watcher.stop, functions)
        bridge = Bridge(ledger, vendors, submitter, watcher, handlers)
        self.bridges.append(bridge)
        return bridge

    async def runs(self, *providers: Provider, **how: Any) -> Bridge:
        """A process of the bridge that is at work."""
        bridge = self.made(*providers, **how)
        await bridge.ledger.stay_alive()
        if not any(isinstance(one, Scripted) and one.health_hangs for one in providers):
            await bridge.vendors.feel()
        bridge.start()
        return bridge

    def given(self, deadline_s: float = 60, **changes: Any) -> RunPhase:
        """A command to style the desk's picture, by work of its own unless `parameters` are given."""
        inputs = {"image": self.image, "lut": self.lut}
        changes = {"parameters": {"strength": uuid4().int % 10**9 / 10**9}} | changes
        return command("style", inputs=inputs, deadline_s=deadline_s).model_copy(update=changes)

    async def written(self, bridge: Bridge, **changes: Any) -> RunPhase:
        """A command that follows its call."""
        given = self.given(**changes)
        await self.follows(bridge, given)
        return given

    async def follows(self, bridge: Bridge, *given: RunPhase) -> None:
        await bridge.handlers.commands([Brought(one, "cmd.gpu.v1.run.style") for one in given])  # type: ignore[misc]

    async def call(self, given: RunPhase) -> Any:
        """The row of the call that a command follows."""
        async with self.engine.connect() as conn:
            query = "SELECT c.* FROM gpu_bridge.calls c JOIN gpu_bridge.commands o ON o.call = c.key WHERE o.key = :key"
            return (await conn.execute(text(query), {"key": given.key})).one()

    async def epochs(self, given: RunPhase) -> list[Any]:
        async with self.engine.connect() as conn:
            query = (
                "SELECT e.* FROM gpu_bridge.epochs e JOIN gpu_bridge.commands o ON o.call = e.call "
                "WHERE o.key = :key ORDER BY e.epoch"
            )
            return list(await conn.execute(text(query), {"key": given.key}))

    async def stands(self, given: RunPhase, *states: State) -> Any:
        """The row of its call as soon as it is in one of these states."""

        async def there() -> Any:
            row = await self.call(given)
            return row if row.state in states else None

        return await until(there)

    async def over(self, given: RunPhase) -> Any:
        return await self.stands(given, *(state for state in State if state.is_terminal))

    async def do(self, statement: str, **values: Any) -> None:
        async with self.engine.begin() as conn:
            await conn.execute(text(statement), values)

    async def clean(self) -> None:
        for table in ("outbox", "epochs", "commands", "calls", "leftovers", "bridges", "providers", "batches"):
            await self.do(f"DELETE FROM gpu_bridge.{table}")


def replace_price(price: Any, provider: str) -> Any:
    return price.model_copy(update={"provider": provider})


@dataclass
class Brought:
    """A command as the broker hands it over."""

    command: RunPhase | StopPhase
    subject: str
    traceparent: str | None = None

    @property
    def body(self) -> bytes:
        return self.command.model_dump_json().encode()


__all__ = ["Desk", "Scripted", "replace"]
