"""A POST with an Idempotency-Key acts once: over races, restarts, crashes, and an hour without a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import error
from gpu_bridge import app as gpu_bridge
from ingest import app as ingest
from orchestrator import app as orchestrator
from orchestrator.tables import ANSWERS
from output import app as output
from runtime import http, idempotency, postgres
from runtime.http import Bounded, Caller
from runtime.idempotency import KEPT, Answers, shown_once
from runtime.keys import Keys
from tests.integration.conftest import SettingsOf, until
from tests.servers.models import PostgresServer

ALICE, BOB, OPS = "alice-0123456789", "bob-0123456789ab", "ops-0123456789ab"


@dataclass
class Desk:
    """A small app on the real table. `acts` counts what was done; `wrong` makes the next act fail; `hold` stops one."""

    engine: AsyncEngine
    acts: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> FastAPI:
        app, router = FastAPI(), APIRouter(route_class=Bounded)
        app.state.keys = Keys(f"alice:{ALICE},bob:{BOB}", f"ops:{OPS}")
        app.state.answers = Answers(self.engine, ANSWERS)
        http.install(app)

        @router.post("/things", status_code=201)
        async def make(asker: Caller, request: Request) -> dict[str, Any]:
            self.reached.set()
            if self.wrong:
                code = self.wrong.pop()
                raise error(code) if code else RuntimeError("a defect")
            if "hold" in request.query_params:
                await self.hold.wait()
            self.acts.append(asker.name)
            return {"thing": len(self.acts), "of": asker.name}

        @router.post("/secrets")
        async def secret(request: Request, _asker: Caller) -> dict[str, Any]:
            shown_once(request, "secret")
            return {"id": len(self.acts), "secret": "hush-hush"}

        @router.post("/slow")
        async def slow(_asker: Caller) -> StreamingResponse:
            async def body() -> AsyncIterator[str]:
                yield " "
                self.acts.append("slow")
                yield '{"done": true}'

            return StreamingResponse(body(), media_type="application/json")

        app.include_router(router)
        return app

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpx.AsyncClient]:
        transport = httpx.ASGITransport(self.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            yield client

    async def rows(self, statement: str, **values: Any) -> Any:
        async with self.engine.begin() as conn:
            return await conn.execute(text(statement), values)


@pytest.fixture(scope="module")
async def engine(prepared: object, settings_of: SettingsOf) -> AsyncIterator[AsyncEngine]:
    from orchestrator.settings import Settings

    known = settings_of(Settings, "orchestrator")
    made = postgres.create_engine(known.postgres_url.get_secret_value(), service="test", connections_max=5)
    yield made
    await made.dispose()


@pytest.fixture
def desk(engine: AsyncEngine) -> Desk:
    return Desk(engine)


@pytest.fixture
async def client(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    async with desk.open() as client:
        yield client


def headers(key: str | None = None, who: str = ALICE) -> dict[str, str]:
    return {"Authorization": f"Bearer {who}", **({"Idempotency-Key": key} if key else {})}


async def test_the_same_request_gets_the_same_answer_also_from_a_new_process(
    desk: Desk, client: httpx.AsyncClient
) -> None:
    key = str(uuid4())
    first = await client.post("/things", headers=headers(key), json={"a": 1})
    async with desk.open() as another:
        again = await another.post("/things", headers=headers(key), json={"a": 1})
    assert (first.status_code, again.status_code, again.content) == (201, 201, first.content)
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert again.headers["content-type"] == first.headers["content-type"]
    assert desk.acts == ["alice"]


@pytest.mark.parametrize(
    ("path", "body"), [("/things", {"a": 2}), ("/things?x=1", {"a": 1}), ("/slow", {"a": 1})], ids=str
)
async def test_another_request_may_not_use_the_key(client: httpx.AsyncClient, path: str, body: Any) -> None:
    key = str(uuid4())
    await client.post("/things", headers=headers(key), json={"a": 1})
    refused = await client.post(path, headers=headers(key), json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_a_key_is_its_tenants_own(desk: Desk, client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    for who in (ALICE, BOB, OPS, ALICE):
        assert (await client.post("/things", headers=headers(key, who))).status_code == 201
    assert desk.acts == ["alice", "bob", "ops"]


async def test_without_a_key_each_request_acts(desk: Desk, client: httpx.AsyncClient) -> None:
    for _ in range(2):
        await client.post("/things", headers=headers())
    assert len(desk.acts) == 2


async def test_while_one_is_at_work_the_others_are_told_so(desk: Desk, client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    first = asyncio.create_task(client.post("/things?hold", headers=headers(key)))
    await desk.reached.wait()
    others = await asyncio.gather(*(client.post("/things?hold", headers=headers(key)) for _ in range(5)))
    assert {(one.status_code, one.json()["code"]) for one in others} == {(409, "IDEMPOTENCY_KEY_IN_USE")}
    assert others[0].headers["Retry-After"] == "1"
    desk.hold.set()
    done = await first
    assert (await client.post("/things?hold", headers=headers(key))).content == done.content
    assert desk.acts == ["alice"]


@pytest.mark.parametrize(
    "wrong", ["STATE_CONFLICT", "DATABASE_UNAVAILABLE", ""], ids=["refused", "transient", "defect"]
)
async def test_what_did_not_end_well_may_be_tried_again(desk: Desk, client: httpx.AsyncClient, wrong: str) -> None:
    key = str(uuid4())
    desk.wrong.append(wrong)
    assert (await client.post("/things", headers=headers(key))).status_code >= 400
    assert (await client.post("/things", headers=headers(key))).status_code == 201
    assert desk.acts == ["alice"]


@pytest.mark.parametrize(("ends_in", "status"), [("-1 second", 201), ("1 minute", 409)], ids=["it is over", "it holds"])
async def test_a_claim_whose_process_died_ends_by_itself(
    desk: Desk, client: httpx.AsyncClient, ends_in: str, status: int
) -> None:
    key = str(uuid4())
    await client.post("/things", headers=headers(key))
    await desk.rows(
        "UPDATE orchestrator.answers SET status = NULL, claimed_until = now() + CAST(:t AS text)::interval "
        "WHERE key = :key",
        t=ends_in,
        key=key,
    )
    assert (await client.post("/things", headers=headers(key))).status_code == status
    if status == 201:
        other = await client.post("/things?x", headers=headers(key))
        assert other.status_code == 422, "who takes it over brings the same request"


async def test_a_long_act_keeps_its_claim(
    desk: Desk, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "CLAIM", timedelta(seconds=0.3))
    key = str(uuid4())
    first = asyncio.create_task(client.post("/things?hold", headers=headers(key)))
    await desk.reached.wait()
    at = "SELECT claimed_until FROM orchestrator.answers WHERE key = :key"
    begun = (await desk.rows(at, key=key)).scalar_one()

    async def renewed() -> bool:
        return bool((await desk.rows(at, key=key)).scalar_one() > begun)

    await until(renewed)
    desk.hold.set()
    assert (await first).status_code == 201


async def test_a_secret_is_shown_once_and_not_kept(desk: Desk, client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    first = await client.post("/secrets", headers=headers(key))
    again = await client.post("/secrets", headers=headers(key))
    assert first.json()["secret"] == "hush-hush"
    assert again.json() == {**first.json(), "secret": None}
    kept = await desk.rows("SELECT count(*) FROM orchestrator.answers WHERE position('hush'::bytea IN body) > 0")
    assert kept.scalar_one() == 0


async def test_an_answer_that_comes_in_pieces_is_kept_whole(desk: Desk, client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    first, again = [await client.post("/slow", headers=headers(key)) for _ in range(2)]
    assert first.json() == again.json() == {"done": True}
    assert desk.acts == ["slow"]


@pytest.mark.parametrize("key", ["x" * 256, "caf\xe9", "\x7f"], ids=["too long", "not ASCII", "not printable"])
async def test_what_is_no_key_is_refused(client: httpx.AsyncClient, key: str) -> None:
    given = [(b"Authorization", f"Bearer {ALICE}".encode()), (b"Idempotency-Key", key.encode("latin-1"))]
    refused = await client.post("/things", headers=given)
    assert (refused.status_code, refused.json()["code"]) == (422, "REQUEST_INVALID")


async def test_nobody_reads_an_answer_with_an_unknown_key(client: httpx.AsyncClient) -> None:
    key = str(uuid4())
    await client.post("/things", headers=headers(key))
    assert (await client.post("/things", headers=headers(key, "eve-0123456789ab"))).status_code == 401


async def test_what_is_a_day_old_is_forgotten(
    desk: Desk, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = str(uuid4()), str(uuid4())
    for key in (old, new):
        await client.post("/things", headers=headers(key))
    age = KEPT.total_seconds() + 1
    await desk.rows(
        "UPDATE orchestrator.answers SET created_at = now() - make_interval(secs => :s) WHERE key = :key",
        s=age,
        key=old,
    )
    monkeypatch.setattr(idempotency, "SWEEP_EVERY_S", 0.01)
    sweeping = asyncio.create_task(Answers(desk.engine, ANSWERS).sweep_forever())
    left = "SELECT array_agg(key) FROM orchestrator.answers WHERE key IN (:old, :new)"

    async def forgotten() -> bool:
        return bool((await desk.rows(left, old=old, new=new)).scalar_one() == [new])

    await until(forgotten)
    sweeping.cancel()


async def test_without_a_database_nothing_is_done(
    desk: Desk, client: httpx.AsyncClient, postgres_server: PostgresServer
) -> None:
    key = str(uuid4())
    postgres_server.kill()
    try:
        refused = await client.post("/things", headers=headers(key))
        assert (refused.status_code, refused.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
        assert desk.acts == []
    finally:
        postgres_server.restart()
    assert (await client.post("/things", headers=headers(key))).status_code == 201


SERVICES: Final = {"ingest": ingest, "orchestrator": orchestrator, "gpu-bridge": gpu_bridge, "output": output}


@pytest.mark.parametrize("service", SERVICES)
def test_every_post_of_the_api_acts_once(settings_of: SettingsOf, service: str) -> None:
    module = import_module(f"{SERVICES[service].__package__}.settings")
    app = SERVICES[service].build(settings_of(module.Settings, service))
    for path, item in app.openapi()["paths"].items():
        if "post" in item:
            taken = [one["name"].lower() for one in item["post"].get("parameters", []) if one["in"] == "header"]
            assert taken.count("idempotency-key") == 1, f"{path}: route_class=Bounded, or a key of its own"
