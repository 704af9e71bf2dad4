"""What operators do about GPU providers over HTTP, against the real bridge, and what of it nobody else may do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from nats.aio.client import Client
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.audit import AUDIT_NOTED
from contracts.errors import error
from contracts.phases import RUN_STYLE
from gpu_bridge import api, policy, terms
from gpu_bridge.app import build
from gpu_bridge.call import CLAIM, PROGRESS, RESULT
from gpu_bridge.catalog import FUNCTIONS
from gpu_bridge.marks import MarkStore
from gpu_bridge.providers.port import Broken, Pending
from gpu_bridge.settings import Settings
from gpu_bridge.vendors import Vendors
from runtime import postgres, service
from runtime.http import BODY_BYTES_MAX
from runtime.objects import Objects
from runtime.outbox import Outbox
from tests.integration.conftest import SettingsOf, until
from tests.integration.ledger_desk import Scripted
from tests.integration.provider_conformance import INVERSE
from tests.integration.wire import acts, command, outcome, picture, send, served, stored, told

OPS, DEMO = "ops-key-0123456789", "demo-key-0123456789"


@dataclass
class Site:
    """The bridge over HTTP, asked with an operator's key."""

    http: httpx.AsyncClient
    engine: AsyncEngine
    outbox: Outbox
    objects: Objects

    async def ask(self, method: str, path: str, status: int = 200, **about: Any) -> Any:
        answer = await self.http.request(method, f"/v1/providers{path}", **about)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def provider(self, name: str = "local") -> dict[str, Any]:
        [found] = [one for one in await self.ask("GET", "") if one["name"] == name]
        return dict(found)

    async def run(self, *statements: str) -> None:
        async with self.engine.begin() as conn:
            for statement in statements:
                await conn.execute(text(statement))

    async def clean(self) -> None:
        await self.run(*(f"DELETE FROM gpu_bridge.{name}" for name in ("providers", "epochs", "commands", "calls")))


def settings(settings_of: SettingsOf) -> Settings:
    keys = {"operator_keys": SecretStr(f"ada:{OPS}"), "api_keys": SecretStr(f"demo:{DEMO}")}
    found: Settings = settings_of(Settings, "gpu-bridge", local_workers=1, **keys)
    return found


@pytest.fixture(scope="module")
async def site(prepared: object, settings_of: SettingsOf) -> AsyncIterator[Site]:
    known = settings(settings_of)
    engine = postgres.create_engine(known.postgres_url.get_secret_value(), service="test", connections_max=5)
    objects = Objects(known)
    headers = {"Authorization": f"Bearer {OPS}"}
    bridge = build(known)
    async with served(bridge) as app, httpx.AsyncClient(base_url=app.url, headers=headers, timeout=60) as http:
        yield Site(http, engine, bridge.state.use_cases.outbox, objects)
    await engine.dispose()
    objects.close()


@pytest.fixture(autouse=True)
async def clean(site: Site) -> AsyncIterator[None]:
    yield
    await site.clean()


# -- what there is ----------------------------------------------------------------------------------


async def test_every_provider_of_the_catalogue_is_listed_here_or_not(site: Site) -> None:
    box, modal, local = await site.ask("GET", "")
    assert (box["name"], box["here"], box["device"]) == ("box", False, None)
    assert (modal["name"], modal["here"], modal["device"]) == ("modal", False, None)
    assert {f["takes_work"] for f in modal["functions"]} == {False}
    assert {f["code"] for f in modal["functions"]} == {"NO_PROVIDER"}
    assert (local["name"], local["here"], local["device"], local["mode"]) == ("local", True, "cpu", "working")
    assert [f["function"] for f in local["functions"]] == [row.label for row in FUNCTIONS]
    assert {f["takes_work"] for f in local["functions"]} == {True}
    assert (local["in_flight"], local["in_flight_max"], local["currency"]) == (0, 1, "USD")
    assert {price["device"] for price in modal["prices"]} >= {"L4", "cpu"}
    assert [row["allowed"] for row in (*local["sensitive"], *modal["sensitive"])] == [True, False]
    assert "no FERPA is in force" in modal["sensitive"][0]["why"]
    assert (modal["declared"]["retention_s"], modal["declared"]["as_of"]) == (604800, "2026-09-18")


# -- an operator's word -----------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "mode"), [("pause", "paused"), ("drain", "draining")])
async def test_a_provider_that_is_stopped_takes_no_work_until_it_is_resumed(site: Site, what: str, mode: str) -> None:
    done = await site.ask("POST", f"/local/{what}", json={"reason": " it is  ill "})
    assert (done["mode"], done["why"], done["by"]) == (mode, "it is  ill", "operator:ada")
    assert datetime.fromisoformat(done["at"]) - datetime.now(UTC) < timedelta(minutes=1)
    assert {(f["takes_work"], f["code"]) for f in done["functions"]} == {(False, "PROVIDER_UNAVAILABLE")}
    seen = await site.provider()
    assert [seen[name] for name in ("mode", "why", "by", "at")] == [done[name] for name in ("mode", "why", "by", "at")]
    done = await site.ask("POST", "/local/resume")
    assert (done["mode"], done["why"], {f["takes_work"] for f in done["functions"]}) == ("working", "", {True})


async def test_what_operators_say_of_a_provider_is_told_to_the_audit_with_the_reason(site: Site, nc: Client) -> None:
    async def lines() -> list[tuple[str, ...]]:
        found = [one.body for one in await told(nc, "modal") if one.subject == AUDIT_NOTED.subject]
        return [(line["room"], line["who"], line["action"], line["why"]) for line in found]

    before = await lines()
    for what, reason in (
        ("resume", ""),  # it works: nothing is changed
        ("pause", "prices"),
        ("pause", "prices"),
        ("pause", "outage"),
        ("drain", "outage"),
        ("resume", "over"),
    ):
        await site.ask("POST", f"/modal/{what}", json={"reason": reason})
    who = ("gpu-bridge", "operator:ada")
    assert (await lines())[len(before) :] == [
        (*who, "provider.paused", "prices"),
        (*who, "provider.paused", "outage"),
        (*who, "provider.drained", "outage"),
        (*who, "provider.resumed", "over"),
    ]


async def test_a_provider_is_not_paused_without_its_line(site: Site) -> None:
    await site.run("ALTER TABLE gpu_bridge.outbox RENAME TO away")
    try:
        await site.ask("POST", "/local/pause", 500, json={"reason": "ill"})
    finally:
        await site.run("ALTER TABLE gpu_bridge.away RENAME TO outbox")
    assert (await site.provider())["mode"] == "working"


async def test_who_comes_while_it_is_paused_is_deferred_and_served_once_it_is_resumed(site: Site, nc: Client) -> None:
    image = await stored(site.objects, picture(), "image/jpeg")
    lut = await stored(site.objects, INVERSE.encode(), "application/x-cube-lut")
    await site.ask("POST", "/local/pause", json={"reason": "maintenance"})
    given = command("style", inputs={"image": image, "lut": lut})
    ended = await outcome(nc, await send(nc, RUN_STYLE, given))
    assert (ended.subject, ended.body["provider"], ended.body["code"]) == (
        "evt.phase.v1.deferred",
        "local",
        "PROVIDER_UNAVAILABLE",
    )
    await site.ask("POST", "/local/resume", json={"reason": "done"})
    ended = await outcome(nc, await send(nc, RUN_STYLE, given.model_copy(update={"attempt": 2})))
    assert ended.subject == "evt.phase.v1.succeeded"


async def test_a_provider_that_is_not_set_up_can_be_paused_before_it_is(site: Site) -> None:
    assert (await site.ask("POST", "/modal/pause", json={"reason": "not yet"}))["mode"] == "paused"
    assert (await site.provider("modal"))["why"] == "not yet"


@pytest.mark.parametrize("what", ["pause", "resume", "drain", "test"])
async def test_a_provider_that_nobody_knows_is_told_to_be_unknown(site: Site, what: str) -> None:
    assert (await site.ask("POST", f"/nobody/{what}", 404, json={}))["code"] == "PROVIDER_UNKNOWN"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"reason": "a\x00b"}, id="NUL"),
        pytest.param({"reason": "x" * 501}, id="too long"),
        pytest.param({"reason": 7}, id="no text"),
        pytest.param([], id="no object"),
    ],
)
async def test_a_reason_that_cannot_be_kept_is_refused(site: Site, body: Any) -> None:
    assert (await site.ask("POST", "/local/pause", 422, json=body))["code"] == "REQUEST_INVALID"
    assert (await site.provider())["mode"] == "working"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"reason": "\\ud800"}', id="half a character"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b" " * (BODY_BYTES_MAX + 1), id="too much"),
    ],
)
async def test_a_body_that_cannot_be_read_is_refused(site: Site, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await site.ask("POST", "/local/pause", 422, content=content, headers=headers)
    assert answer["code"] == "REQUEST_INVALID"


@pytest.mark.parametrize("path", ["/LOCAL/pause", "/local%00/pause", "/local/explode", f"/{'x' * 41}/pause"])
async def test_a_path_that_names_nothing_is_refused(site: Site, path: str) -> None:
    assert (await site.ask("POST", path, 422, json={}))["code"] == "REQUEST_INVALID"


ROUTES = [
    ("GET", ""),
    ("GET", "/costs"),
    *(("POST", f"/local/{what}") for what in ("pause", "resume", "drain", "test")),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_an_operator_gets_in(site: Site, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {}} if method == "POST" else {}
    for key, status, code in (("x", 401, "UNAUTHENTICATED"), (DEMO, 403, "FORBIDDEN")):
        answer = await site.ask(method, path, status, headers={"Authorization": f"Bearer {key}"}, **body)
        assert answer["code"] == code
    assert (await site.provider())["mode"] == "working"


# -- what was bought --------------------------------------------------------------------------------


async def test_costs_are_summed_by_provider_function_and_device(site: Site) -> None:
    call = (
        "INSERT INTO gpu_bridge.calls (key, tenant, function, function_version, command, alike, deadline, state, kept, "
        "ended_at) VALUES ('{key}', '{tenant}', 'style.apply', 1, '{{}}', '', now(), 'succeeded', '{{}}', now())"
    )
    epoch = (
        "INSERT INTO gpu_bridge.epochs (call, epoch, provider, queued_at, spawned_at, started_at, ended_at, code, "
        "cold, device, run_s, billed_s, cost, currency) VALUES ('{key}', {epoch}, 'modal', "
        "now() - interval '{ago} days 3 s', now() - interval '{ago} days 2 s', now() - interval '{ago} days', now(), "
        "{code}, true, 'L4', 4, 6, {cost}, 'USD')"
    )
    await site.run(
        call.format(key="a", tenant="demo"),
        call.format(key="b", tenant="other"),
        epoch.format(key="a", epoch=1, ago=0, code="'CALL_LOST'", cost="NULL"),
        epoch.format(key="a", epoch=2, ago=0, code="NULL", cost=0.5),
        epoch.format(key="b", epoch=1, ago=1, code="NULL", cost=0.25),
        epoch.format(key="b", epoch=2, ago=40, code="NULL", cost=0.125),
    )
    costs = await site.ask("GET", "/costs")
    [line] = costs["lines"]
    assert costs["currency"] == "USD"
    assert (line["provider"], line["function"], line["device"]) == ("modal", "style.apply", "L4")
    assert (line["epochs"], line["failed"], line["cold"], line["unpriced"]) == (3, 1, 3, 1)
    assert (line["queue_s"], line["start_s"], line["run_s"], line["billed_s"]) == (3.0, 6.0, 12.0, 18.0)
    assert line["cost"] == 0.75
    [line] = (await site.ask("GET", "/costs", params={"days": 60, "tenant": "other"}))["lines"]
    assert (line["epochs"], line["cost"]) == (2, 0.375)
    assert (await site.ask("GET", "/costs", params={"tenant": "nobody"}))["lines"] == []


@pytest.mark.parametrize(
    "asked", [{"days": 0}, {"days": 367}, {"days": "x"}, {"tenant": "\x00"}, {"tenant": "x" * 201}]
)
async def test_costs_of_what_cannot_be_are_refused(site: Site, asked: dict[str, Any]) -> None:
    assert (await site.ask("GET", "/costs", 422, params=asked))["code"] == "REQUEST_INVALID"


# -- a test call ------------------------------------------------------------------------------------


async def test_a_test_call_goes_the_whole_way(site: Site, nc: Client) -> None:
    found = await site.ask("POST", "/local/test")
    assert ("operator:ada", "provider.tested", {}) in await acts(nc, "local"), "it is paid for"
    assert (found["provider"], found["ok"], found["code"]) == ("local", True, None)
    assert (found["engine"], found["device"]) == ("cube-lut@3", "cpu")
    assert found["submit_s"] >= 0
    assert found["start_s"] >= 0
    assert found["run_s"] > 0
    assert found["links_to"].startswith("http://127.0.0.1:")


async def test_a_provider_that_is_not_set_up_cannot_be_tested(site: Site) -> None:
    answer = await site.ask("POST", "/modal/test", 404)
    assert (answer["code"], answer["detail"]) == ("PROVIDER_UNKNOWN", "no such provider is set up here")


@contextlib.asynccontextmanager
async def scripted(
    site: Site, settings_of: SettingsOf, provider: Scripted, **changes: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """The routes alone, before a provider that does what the test says."""
    known = settings(settings_of).model_copy(update=changes)
    objects = Objects(known)

    @contextlib.asynccontextmanager
    async def compose(app: FastAPI) -> AsyncIterator[None]:
        vendors = Vendors([provider], terms.read(), policy.read(), 1)
        app.state.use_cases = api.UseCases(site.engine, site.outbox, vendors, MarkStore(objects), still_there_s=0.05)
        yield
        objects.close()

    headers = {"Authorization": f"Bearer {OPS}"}
    async with (
        served(service.create_app("gpu-bridge", known, compose, api.router)) as app,
        httpx.AsyncClient(base_url=app.url, headers=headers, timeout=30) as http,
    ):
        yield http


async def nothing_left(site: Site, provider: Scripted) -> bool:
    [request] = provider.submitted
    [item] = request.items
    keys = [output.key for output in item.outputs.values()]
    prefix = keys[0].rpartition("/")[0]
    names = [*keys, *(f"{prefix}/{name}" for name in (CLAIM, PROGRESS, RESULT))]
    return [await site.objects.size(key) for key in names] == [None] * len(names)


async def test_a_slow_test_call_says_meanwhile_that_it_is_still_there(site: Site, settings_of: SettingsOf) -> None:
    slow = Scripted("modal", answer=lambda _: Pending())
    async with scripted(site, settings_of, slow) as http, http.stream("POST", "/v1/providers/modal/test") as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_text()
        assert await anext(pieces) == " "
        await until(lambda: slow.polls)
        [handle] = slow._said
        slow.say(handle, Broken("CALL_LOST"))
        found = json.loads("".join([piece async for piece in pieces]))
    assert (found["ok"], found["code"], found["run_s"]) == (False, "CALL_LOST", None)
    assert found["start_s"] >= 0, "it was claimed"
    assert await nothing_left(site, slow)


async def test_a_test_call_clears_up_though_its_caller_left(site: Site, settings_of: SettingsOf) -> None:
    slow = Scripted("modal", answer=lambda _: Pending())
    async with scripted(site, settings_of, slow) as http:
        async with http.stream("POST", "/v1/providers/modal/test"):
            await until(lambda: slow.polls)
        [handle] = slow._said
        slow.say(handle, Broken("CALL_LOST"))

        async def clear() -> bool:
            return await nothing_left(site, slow)

        await until(clear)


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        pytest.param(
            error("PROVIDER_UNAUTHORIZED", "the token is not accepted"), "PROVIDER_UNAUTHORIZED", id="refused"
        ),
        pytest.param(RuntimeError("a secret"), "INTERNAL", id="a defect"),
    ],
)
async def test_what_goes_wrong_is_told(site: Site, settings_of: SettingsOf, problem: Exception, code: str) -> None:
    async with scripted(site, settings_of, Scripted("modal", fails=[problem])) as http:
        found = (await http.post("/v1/providers/modal/test")).json()
    assert (found["ok"], found["code"]) == (False, code)
    assert "a secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("outside", "address"),
    [(True, "https://s3.example.com"), (False, "http://127.0.0.1:")],
    ids=["from outside", "in a process of ours"],
)
async def test_links_lead_where_the_provider_can_reach_storage(
    site: Site, settings_of: SettingsOf, outside: bool, address: str
) -> None:
    """So the own CPU goes on when the way from outside is broken."""
    lost = Scripted("modal", shared=outside, claims=False, fails=[error("PROVIDER_TIMEOUT")], after=True)
    public = {"s3_public_endpoint": "https://s3.example.com"}
    async with scripted(site, settings_of, lost, **public) as http:
        found = (await http.post("/v1/providers/modal/test")).json()
    assert (found["code"], found["links_to"][: len(address)]) == ("PROVIDER_TIMEOUT", address)
    [request] = lost.submitted
    [item] = request.items
    assert item.marks is not None
    links = [one.url for one in item.inputs.values()] + [one.url for one in item.outputs.values()]
    links += list(item.marks.model_dump().values())
    assert [link[: len(address)] for link in links] == [address] * 7
