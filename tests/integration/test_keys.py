"""Tenants and keys on real servers: made over the API of ingest, they open the other services too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from console import cli
from console.client import Connection
from ingest import app as ingest
from ingest.settings import Settings as IngestSettings
from orchestrator import app as orchestrator
from orchestrator.settings import Settings as OrchestratorSettings
from runtime import postgres
from runtime.keys import Remembered
from tests.integration.conftest import SettingsOf, until
from tests.integration.wire import Site, served
from tests.servers.models import NatsServer, PostgresServer

OPS = "an-operators-key-of-the-tests"
DAY_S = 24 * 3600


@dataclass
class House:
    """Ingest, and the orchestrator as one that asks it. `elsewhere` is what that one remembers of keys."""

    ingest: Site
    orchestrator: Site
    elsewhere: Remembered
    engine: AsyncEngine
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, key: str = OPS, status: int = 200, **about: Any) -> Any:
        """The JSON of ingest's answer."""
        return await self._asked(self.ingest, method, path, key, status, **about)

    async def there(self, method: str, path: str, key: str, status: int = 200, **about: Any) -> Any:
        """The JSON of the orchestrator's answer."""
        return await self._asked(self.orchestrator, method, path, key, status, **about)

    async def _asked(self, site: Site, method: str, path: str, key: str, status: int, **about: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        answer = await self.http.request(method, site.url + path, headers=headers, **about)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def tenant(self) -> str:
        """A new one."""
        made = await self.ask("POST", "/v1/tenants", json={"name": f"t-{uuid4().hex[:12]}"}, status=201)
        return str(made["name"])

    async def key(self, tenant: str, *scopes: str, **about: Any) -> dict[str, Any]:
        """A new one, as it was answered."""
        body = {"name": "test", **({"scopes": list(scopes)} if scopes else {}), **about}
        found: dict[str, Any] = await self.ask("POST", f"/v1/tenants/{tenant}/keys", json=body, status=201)
        return found

    async def audit(self, key: str, subject: str, lines: int, within_s: float = 20.0) -> list[dict[str, Any]]:
        """What the orchestrator's table says of a subject, oldest first, once it has so many lines."""

        async def there() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = (await self.there("GET", "/v1/audit", key, params={"subject": subject}))[
                "items"
            ]
            return found[::-1] if len(found) >= lines else None

        table: list[dict[str, Any]] = await until(there, within_s)
        return table

    async def keys(self, tenant: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("GET", f"/v1/tenants/{tenant}/keys"))["items"]
        return found


@pytest.fixture(scope="module")
async def house(prepared: object, settings_of: SettingsOf) -> AsyncIterator[House]:
    operators = {"operator_keys": SecretStr(f"ops:{OPS}")}
    mine = settings_of(IngestSettings, "ingest", analysis_workers=1, **operators)
    engine = postgres.create_engine(mine.postgres_url.get_secret_value(), service="test")
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        first = await stack.enter_async_context(served(ingest.build(mine)))
        other: FastAPI = orchestrator.build(
            settings_of(OrchestratorSettings, "orchestrator", ingest_url=first.url, operator_keys=SecretStr(""))
        )
        second = await stack.enter_async_context(served(other))
        yield House(first, second, other.state.keys.beyond, engine, http)
    await engine.dispose()


# -- tenants ---------------------------------------------------------------------------------------


async def test_a_tenant_is_made_once_listed_and_changed(house: House) -> None:
    name = await house.tenant()
    again = await house.ask("POST", "/v1/tenants", json={"name": name}, status=409)
    assert again["code"] == "STATE_CONFLICT"
    changed = await house.ask("PATCH", f"/v1/tenants/{name}", json={"title": " Studio Ära "})
    assert (changed["title"], changed["changed_by"]) == ("Studio Ära", "operator:ops")
    assert await house.ask("GET", f"/v1/tenants/{name}") == changed
    page = await house.ask("GET", "/v1/tenants", params={"limit": 1, "cursor": name[:-1]})
    assert [one["name"] for one in page["items"]] == [name]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("POST", "/v1/tenants", {"name": "../etc"}, 422, id="a name with a path"),
        pytest.param("POST", "/v1/tenants", {"name": "-"}, 422, id="the name that stands for operators"),
        pytest.param("POST", "/v1/tenants", {"name": "a", "title": "\x00"}, 422, id="a title with NUL"),
        pytest.param("POST", "/v1/tenants", {"name": "a", "rights": "all"}, 422, id="a field that nobody knows"),
        pytest.param("PATCH", "/v1/tenants/nobody", {"title": "x"}, 404, id="a change of nobody"),
        pytest.param("GET", "/v1/tenants/nobody", None, 404, id="nobody"),
        pytest.param("GET", "/v1/tenants/nobody/keys", None, 404, id="nobody's keys"),
        pytest.param("POST", "/v1/tenants/nobody/keys", {"name": "k"}, 404, id="a key for nobody"),
        pytest.param("POST", "/v1/tenants/-/keys", {"name": ""}, 422, id="a key without a name"),
        pytest.param("POST", "/v1/tenants/-/keys", {"name": "k", "scopes": []}, 422, id="a key that may nothing"),
        pytest.param("POST", "/v1/tenants/-/keys", {"name": "k", "scopes": ["upload"]}, 422, id="an operator uploads"),
        pytest.param("POST", "/v1/tenants/-/keys", {"name": "k", "lives_s": 1}, 422, id="a key that ends at once"),
        pytest.param("POST", "/v1/tenants/-/keys/000000000000/rotate", {}, 404, id="a new key for none"),
        pytest.param("POST", "/v1/tenants/-/keys/000000000000/revoke", None, 404, id="a key that is not there"),
        pytest.param("POST", "/v1/tenants/-/keys/short/revoke", None, 422, id="an id that is none"),
    ],
)
async def test_what_is_no_tenant_and_no_key_is_refused(
    house: House, method: str, path: str, body: Any, status: int
) -> None:
    await house.ask(method, path, json=body, status=status)


async def test_a_tenant_s_key_never_operates(house: House) -> None:
    tenant = await house.tenant()
    refused = await house.ask(
        "POST", f"/v1/tenants/{tenant}/keys", json={"name": "k", "scopes": ["operate"]}, status=422
    )
    assert refused["detail"] == "scopes: such a key may have read, upload"
    key = (await house.key(tenant))["key"]
    for path in ("/v1/tenants", f"/v1/tenants/{tenant}", f"/v1/tenants/{tenant}/keys"):
        assert (await house.ask("GET", path, key, 403))["code"] == "FORBIDDEN"


# -- keys ------------------------------------------------------------------------------------------


async def test_a_key_is_shown_once_and_kept_as_its_hash(house: House) -> None:
    tenant = await house.tenant()
    made = await house.key(tenant, "read")
    assert made["key"].startswith(made["prefix"] + "_")
    [listed] = await house.keys(tenant)
    assert {**listed, "key": made["key"]} == made
    async with house.engine.connect() as conn:
        rows = (await conn.execute(text("SELECT to_jsonb(k)::text FROM ingest.keys k"))).scalars().all()
    assert not [row for row in rows if made["key"][17:] in row], "no secret is in the table"


@pytest.mark.parametrize(
    ("scopes", "method", "path", "status"),
    [
        pytest.param(("read",), "GET", "/v1/batches", 200, id="who may read reads"),
        pytest.param(("read",), "POST", "/v1/batches", 403, id="who may only read makes nothing"),
        pytest.param(("upload",), "POST", "/v1/batches", 201, id="who may upload makes a batch"),
        pytest.param(("upload",), "GET", "/v1/batches", 403, id="who may only upload reads nothing"),
        pytest.param(("upload", "read"), "GET", "/v1/audit", 403, id="a tenant does not operate"),
    ],
)
async def test_a_key_opens_another_service_as_far_as_its_scopes_go(
    house: House, scopes: tuple[str, ...], method: str, path: str, status: int
) -> None:
    key = (await house.key(await house.tenant(), *scopes))["key"]
    answer = await house.there(method, path, key, status)
    if status == 403:
        assert answer["code"] == "FORBIDDEN"


async def test_operators_have_keys_too(house: House) -> None:
    both, reads = await house.key("-"), await house.key("-", "read")
    assert both["tenant"] is None
    await house.there("GET", "/v1/audit", both["key"])
    await house.there("GET", "/v1/audit", reads["key"], 403)
    await house.there("GET", "/v1/batches", reads["key"])
    made = await house.ask("POST", "/v1/tenants", both["key"], json={"name": f"t-{uuid4().hex[:12]}"}, status=201)
    assert made["created_by"] == "operator:test"
    await house.ask("POST", f"/v1/tenants/-/keys/{both['id']}/revoke", both["key"])


async def test_a_revoked_key_is_refused_everywhere_soon(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.elsewhere, "fresh_s", 0.0)
    tenant = await house.tenant()
    made = await house.key(tenant)
    await house.there("GET", "/v1/batches", made["key"])
    revoked = await house.ask("POST", f"/v1/tenants/{tenant}/keys/{made['id']}/revoke")
    assert (revoked["state"], revoked["revoked_by"]) == ("revoked", "operator:ops")
    assert (await house.there("GET", "/v1/batches", made["key"], 401))["code"] == "UNAUTHENTICATED"
    again = await house.ask("POST", f"/v1/tenants/{tenant}/keys/{made['id']}/revoke")
    assert again == revoked, "who comes second changes nothing"
    await house.ask("POST", f"/v1/tenants/{tenant}/keys/{made['id']}/rotate", status=409)


async def test_a_rotated_key_works_on_for_the_overlap(house: House) -> None:
    tenant = await house.tenant()
    old = await house.key(tenant, "read", lives_s=30 * DAY_S)
    new = await house.ask("POST", f"/v1/tenants/{tenant}/keys/{old['id']}/rotate", json={"overlap_s": 60}, status=201)
    assert (new["replaces"], new["scopes"], new["name"]) == (old["id"], ["read"], "test")
    for key in (old["key"], new["key"]):
        await house.there("GET", "/v1/batches", key)
    ends = {one["id"]: one["expires_at"] for one in await house.keys(tenant)}
    assert ends[old["id"]] < old["expires_at"] < ends[new["id"]], "it lives as long as the first one was to"
    at_once = await house.ask(
        "POST", f"/v1/tenants/{tenant}/keys/{new['id']}/rotate", json={"overlap_s": 0}, status=201
    )
    await house.ask("GET", "/v1/styles", new["key"], 401)
    await house.ask("GET", "/v1/styles", at_once["key"])


async def test_that_a_key_was_used_is_known_to_the_minute(house: House) -> None:
    tenant = await house.tenant()
    made = await house.key(tenant)
    assert made["last_used_at"] is None
    await house.there("GET", "/v1/batches", made["key"])
    [used] = await house.keys(tenant)
    assert used["last_used_at"] >= made["created_at"]
    house.elsewhere.fresh_s, before = 0.0, house.elsewhere.fresh_s
    await house.there("GET", "/v1/batches", made["key"])
    house.elsewhere.fresh_s = before
    assert (await house.keys(tenant)) == [used], "a busy key costs no write per request"


@pytest.mark.parametrize("key", ["x", "slk_", "slk_000000000000_" + "0" * 38, "slg_x", "slk_" + "x" * 5000])
async def test_what_is_no_key_opens_nothing(house: House, key: str) -> None:
    assert (await house.ask("GET", "/v1/styles", key, 401))["code"] == "UNAUTHENTICATED"
    assert (await house.there("GET", "/v1/batches", key, 401))["code"] == "UNAUTHENTICATED"


async def test_the_right_id_with_another_secret_opens_nothing(house: House) -> None:
    from ingest import keys

    made = await house.key(await house.tenant())
    forged = keys.signed(made["key"][:17] + "0" * 32)
    assert keys.read(forged), "it looks like one"
    await house.there("GET", "/v1/batches", forged, 401)


async def test_what_operators_do_to_tenants_and_keys_is_in_the_audit(house: House) -> None:
    ops = (await house.ask("POST", "/v1/tenants/-/keys", json={"name": "reads the audit"}, status=201))["key"]
    tenant = await house.tenant()
    await house.ask("PATCH", f"/v1/tenants/{tenant}", ops, json={"title": "Anna Müller", "options": {"crop": "4:5"}})
    made = await house.key(tenant, "read", lives_s=DAY_S)
    where = f"/v1/tenants/{tenant}/keys/{made['id']}"
    next_ = await house.ask("POST", f"{where}/rotate", json={"overlap_s": 0}, status=201)
    for _ in range(2):
        await house.ask("POST", f"{where}/revoke")
    await house.ask("POST", f"{where}/rotate", status=409)
    lines = await house.audit(ops, tenant, 2) + await house.audit(ops, made["id"], 3)
    assert [(line["who"].partition(":")[0], line["action"], line["room"], line["tenant"]) for line in lines] == [
        ("operator", action, "ingest", tenant)
        for action in ("tenant.made", "tenant.changed", "key.made", "key.rotated", "key.revoked")
    ], "who comes second does nothing, and what was refused was not done"
    about = [line["details"] for line in lines]
    assert about[1] == {"changed": ["options", "title"]}, "what a person wrote is not in it"
    assert about[2] == {"scopes": ["read"], "until": made["expires_at"].replace("Z", "+00:00")}
    assert (about[3]["to"], about[3]["scopes"]) == (next_["id"], ["read"])
    for secret in (made["key"], next_["key"], ops, "Müller"):
        assert secret not in str(lines)


async def test_no_act_without_its_line_nor_a_line_without_its_act(house: House) -> None:
    """The line is a row of the act's own transaction: where it cannot be written, nothing is done."""
    tenant = await house.tenant()
    made = await house.key(tenant)
    async with house.engine.begin() as conn:
        await conn.execute(text("ALTER TABLE ingest.outbox RENAME TO away"))
    try:
        await house.ask("POST", f"/v1/tenants/{tenant}/keys", json={"name": "k"}, status=500)
        await house.ask("POST", f"/v1/tenants/{tenant}/keys/{made['id']}/rotate", status=500)
        await house.ask("POST", f"/v1/tenants/{tenant}/keys/{made['id']}/revoke", status=500)
        await house.ask("PATCH", f"/v1/tenants/{tenant}", json={"title": "x"}, status=500)
    finally:
        async with house.engine.begin() as conn:
            await conn.execute(text("ALTER TABLE ingest.away RENAME TO outbox"))
    assert [(one["id"], one["state"], one["expires_at"]) for one in await house.keys(tenant)] == [
        (made["id"], "working", None)
    ]
    assert (await house.ask("GET", f"/v1/tenants/{tenant}"))["title"] == ""


async def test_what_is_done_while_the_broker_is_away_is_in_the_audit_once_it_is_back(
    house: House, nats_server: NatsServer
) -> None:
    ops = (await house.ask("POST", "/v1/tenants/-/keys", json={"name": "reads the audit"}, status=201))["key"]
    await asyncio.to_thread(nats_server.kill)
    try:
        tenant = await house.tenant()
    finally:
        await asyncio.to_thread(nats_server.restart)
    [line] = await house.audit(ops, tenant, 1, within_s=60)
    assert line["action"] == "tenant.made"


async def test_no_key_is_in_a_log(house: House, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level(logging.DEBUG)
    tenant = await house.tenant()
    made = await house.key(tenant)
    await house.there("GET", "/v1/batches", made["key"])
    await house.ask("POST", f"/v1/tenants/{tenant}/keys/{made['id']}/revoke")
    said = caplog.text + "".join(capfd.readouterr())
    assert made["key"][17:] not in said


# -- boundaries ------------------------------------------------------------------------------------


async def test_without_ingest_known_keys_work_on_and_others_are_told_to_come_back(
    house: House, settings_of: SettingsOf
) -> None:
    tenant = await house.tenant()
    known, fresh = [(await house.key(tenant))["key"] for _ in range(2)]
    mine = settings_of(IngestSettings, "ingest", analysis_workers=1)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(served(ingest.build(mine)))
        app = orchestrator.build(settings_of(OrchestratorSettings, "orchestrator", ingest_url=first.url))
        async with served(app) as second:
            app.state.keys.beyond.fresh_s = 0.0
            get = f"{second.url}/v1/batches"

            async def status(key: str) -> int:
                return (await house.http.get(get, headers={"Authorization": f"Bearer {key}"})).status_code

            assert await status(known) == 200
            await stack.aclose()
            assert await status(known) == 200
            refused = await house.http.get(get, headers={"Authorization": f"Bearer {fresh}"})
            assert (refused.status_code, refused.json()["code"]) == (503, "SERVICE_UNAVAILABLE")
            assert int(refused.headers["Retry-After"]) > 0
            assert await status("an-unknown-key-of-another-kind") == 401, "for this nobody needs to be asked"


async def test_without_the_database_nobody_can_tell(house: House, postgres_server: PostgresServer) -> None:
    key = (await house.key(await house.tenant()))["key"]
    postgres_server.kill()
    try:
        refused = await house.ask("GET", "/v1/styles", key, 503)
        assert refused["code"] == "SERVICE_UNAVAILABLE"
    finally:
        postgres_server.restart()

    async def back() -> bool:
        headers = {"Authorization": f"Bearer {key}"}
        return (await house.http.get(f"{house.ingest.url}/v1/styles", headers=headers)).status_code == 200

    await until(back)


# -- the command line ------------------------------------------------------------------------------


async def test_operators_do_it_from_the_command_line(house: House) -> None:
    def discover() -> Connection:
        return Connection(house.ingest.url, "", OPS)

    async def run(*arguments: str) -> tuple[str, str]:
        done = await asyncio.to_thread(CliRunner().invoke, cli.client, list(arguments), obj=discover)
        assert done.exit_code == 0, done.output
        return done.stdout, done.stderr

    def last(said: str) -> str:
        """The service logs to the same stdout here."""
        return said.strip().splitlines()[-1]

    name = f"t-{uuid4().hex[:12]}"
    assert name in (await run("tenants", "make", name, "--title", "Studio"))[0]
    assert "Atelier" in (await run("tenants", "change", name, "--title", "Atelier"))[0]
    assert name in (await run("tenants", "list"))[0]
    made, said = await run("keys", "make", name, "--name", "web", "--scope", "upload", "--days", "1")
    assert "shown this once" in said
    await house.ask("GET", "/v1/styles", last(made), 403)
    [row] = await house.keys(name)
    second, _ = await run("keys", "rotate", name, row["id"], "--overlap-h", "0")
    await house.ask("GET", "/v1/styles", last(second), 403)
    table, _ = await run("keys", "list", name)
    assert "expired" in table
    assert "working" in table
    assert "slk_" not in table
    assert "revoked" in (await run("keys", "revoke", name, last(second)[4:16]))[0]
