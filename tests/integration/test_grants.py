"""Upload grants, rates, quotas and backpressure on real servers: what is let in, and when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from nats.aio.client import Client
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from console import app as console
from console.settings import Settings as ConsoleSettings
from contracts.errors import SafelightError
from contracts.uploads import UploadReceived
from ingest import app as ingest
from ingest.gate import Gate, Uploader
from ingest.limits import Limits
from ingest.settings import Settings
from orchestrator import app as orchestrator
from orchestrator.settings import Settings as OrchestratorSettings
from output import app as output
from output.settings import Settings as OutputSettings
from runtime import postgres
from tests.integration.conftest import SettingsOf, until
from tests.integration.wire import acts, picture, served, told
from tests.servers.models import PostgresServer

OPS = "an-operators-key-of-the-tests"
PLAIN = "0123456789abcdef"
PAGE = "https://studio.example"
TOKEN = "slg_"


@dataclass
class Site:
    """Ingest over HTTP. `gate` is what lets uploads in."""

    url: str
    gate: Gate
    http: httpx.AsyncClient
    engine: AsyncEngine

    async def ask(self, method: str, path: str, key: str, status: int = 200, **about: Any) -> httpx.Response:
        answer = await self.http.request(
            method, self.url + path, headers=bearer(key) | about.pop("headers", {}), **about
        )
        assert answer.status_code == status, answer.text
        return answer

    async def tenant(self, **about: Any) -> tuple[str, str]:
        """A new tenant, and a key of it."""
        name = f"t-{uuid4().hex[:12]}"
        await self.ask("POST", "/v1/tenants", OPS, 201, json={"name": name, **about})
        return name, await self.key(name)

    async def key(self, tenant: str, *scopes: str) -> str:
        body = {"name": "test", **({"scopes": list(scopes)} if scopes else {})}
        return str((await self.ask("POST", f"/v1/tenants/{tenant}/keys", OPS, 201, json=body)).json()["key"])

    async def grant(self, key: str, **about: Any) -> dict[str, Any]:
        made: dict[str, Any] = (await self.ask("POST", "/v1/grants", key, 201, json=about)).json()
        return made

    async def upload(
        self, key: str, content: bytes | None = None, *, again: str | None = None, **fields: str
    ) -> httpx.Response:
        """`again` is the Idempotency-Key."""
        headers = bearer(key) | ({"Idempotency-Key": again} if again else {})
        file = {"file": ("f", content or picture())}
        return await self.http.post(f"{self.url}/v1/uploads", data=fields, files=file, headers=headers)

    async def uploads(self, tenant: str) -> int:
        async with self.engine.connect() as conn:
            query = text("SELECT count(*) FROM ingest.uploads WHERE tenant = :tenant")
            return int((await conn.execute(query, {"tenant": tenant})).scalar_one())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


Open = Callable[..., Any]


@pytest.fixture(scope="module")
def open_site(prepared: object, settings_of: SettingsOf) -> Open:
    """Serve an ingest with these settings."""

    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[Site]:
        known = settings_of(
            Settings, "ingest", analysis_workers=1, operator_keys=SecretStr(f"ops:{OPS}"), cors_origins=PAGE, **changes
        )
        engine = postgres.create_engine(known.postgres_url.get_secret_value(), service="test")
        app = ingest.build(known)
        async with served(app) as site, httpx.AsyncClient(timeout=30) as http:
            yield Site(site.url, app.state.gate, http, engine)
        await engine.dispose()

    return opened


@pytest.fixture(scope="module")
async def site(open_site: Open) -> AsyncIterator[Site]:
    async with open_site() as site:
        site.gate.loads.remember_s = 3600  # the orchestrator is not there, and is not asked each time
        yield site


# -- grants ----------------------------------------------------------------------------------------


async def test_a_browser_uploads_with_a_grant_what_it_allows(site: Site, nc: Client) -> None:
    tenant, key = await site.tenant()
    grant = await site.grant(key, files=2, fields={"crop": "1:1"}, open_fields=["straighten"], lives_s=60)
    assert grant["token"].startswith(TOKEN)
    given = await site.upload(grant["token"], straighten="false")
    assert given.status_code == 202, given.text
    [event] = await told(nc, given.json()["job_id"])
    received = UploadReceived.model_validate(event.body)
    assert (received.tenant, str(received.grant_id)) == (tenant, grant["id"])
    assert (received.options["crop"], received.options["straighten"]) == ("1:1", False)
    assert (await site.ask("GET", f"/v1/grants/{grant['id']}", key)).json()["used"] == 1


@pytest.mark.parametrize(
    ("allowed", "content", "fields", "status", "code"),
    [
        pytest.param({"bytes_max": 1000}, ".jpg", {}, 413, "UPLOAD_TOO_LARGE", id="a file that is larger"),
        pytest.param({"media_types": ["image/png"]}, ".jpg", {}, 415, "MEDIA_TYPE_UNSUPPORTED", id="another type"),
        pytest.param({"fields": {"crop": "1:1"}}, ".jpg", {"crop": "none"}, 403, "FORBIDDEN", id="another crop"),
        pytest.param({}, ".jpg", {"batch": str(UUID(int=1))}, 403, "FORBIDDEN", id="a batch that it does not name"),
    ],
)
async def test_what_a_grant_does_not_allow_is_refused_and_not_counted(
    site: Site, allowed: dict[str, Any], content: str, fields: dict[str, str], status: int, code: str
) -> None:
    tenant, key = await site.tenant()
    grant = await site.grant(key, **allowed)
    refused = await site.upload(grant["token"], picture(content), **fields)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert await site.uploads(tenant) == 0
    assert (await site.ask("GET", f"/v1/grants/{grant['id']}", key)).json()["used"] == 0


async def test_of_many_uploads_at_once_for_the_last_place_one_gets_it(site: Site) -> None:
    tenant, key = await site.tenant()
    grant = await site.grant(key, files=1)
    answers = await asyncio.gather(*(site.upload(grant["token"]) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [202, *[403] * 5]
    assert {one.json()["code"] for one in answers if one.status_code == 403} == {"GRANT_SPENT"}
    assert await site.uploads(tenant) == 1


async def test_the_last_upload_of_a_grant_may_be_sent_again(site: Site) -> None:
    _, key = await site.tenant()
    grant, again = await site.grant(key, files=1), str(uuid4())
    first, second = [await site.upload(grant["token"], again=again) for _ in range(2)]
    assert (first.status_code, second.json()) == (202, first.json())


async def test_who_makes_and_revokes_a_grant_is_told_to_the_audit(site: Site, nc: Client) -> None:
    tenant, key = await site.tenant()
    grant = await site.grant(key, files=3, fields={"subject": "student-4711"})
    for _ in range(2):
        await site.ask("POST", f"/v1/grants/{grant['id']}/revoke", key)
    made, revoked = await acts(nc, grant["id"])
    assert (made[:2], revoked) == ((f"tenant:{tenant}", "grant.made"), (f"tenant:{tenant}", "grant.revoked", {}))
    assert sorted(made[2]) == ["bytes_max", "files", "key", "until"]
    assert (made[2]["files"], made[2]["key"]) == (3, key.split("_")[1])


async def test_a_grant_ends_by_time_by_hand_and_with_the_key_that_made_it(site: Site) -> None:
    tenant, key = await site.tenant()
    maker = (await site.ask("POST", f"/v1/tenants/{tenant}/keys", OPS, 201, json={"name": "maker"})).json()
    by_time, by_hand, by_key = [await site.grant(maker["key"]) for _ in range(3)]
    async with site.engine.begin() as conn:
        await conn.execute(text("UPDATE ingest.grants SET expires_at = now() WHERE id = :id"), {"id": by_time["id"]})
    await site.ask("POST", f"/v1/grants/{by_hand['id']}/revoke", key)
    for token in (by_hand["token"], by_key["token"]):
        code = (await site.upload(token)).json()
        assert ("job_id" in code) == (token == by_key["token"])
    await site.ask("POST", f"/v1/tenants/{tenant}/keys/{maker['id']}/revoke", OPS)
    asked = await site.http.get(f"{site.url}/internal/asker", headers=bearer(by_key["token"]))
    assert asked.status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/grants"), ("GET", "/v1/styles"), ("GET", "/v1/usage"), ("POST", "/v1/styles/import")],
)
async def test_a_grant_opens_nothing_but_uploads(site: Site, method: str, path: str) -> None:
    _, key = await site.tenant()
    token = (await site.grant(key))["token"]
    refused = await site.ask(method, path, token, 403, **({"json": {}} if method == "POST" else {}))
    assert refused.json()["detail"] == "An upload grant may not do that."


async def test_who_may_only_read_makes_no_grant_and_another_tenant_sees_none(site: Site) -> None:
    tenant, key = await site.tenant()
    await site.ask("POST", "/v1/grants", await site.key(tenant, "read"), 403, json={})
    grant = await site.grant(key)
    _, others = await site.tenant()
    await site.ask("GET", f"/v1/grants/{grant['id']}", others, 404)
    await site.ask("POST", f"/v1/grants/{grant['id']}/revoke", others, 404)


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": 0},
        {"lives_s": 10**6},
        {"fields": {"nothing": "x"}},
        {"fields": {"crop": "7:1"}},
        {"open_fields": ["nothing"]},
        {"media_types": []},
    ],
    ids=str,
)
async def test_what_is_no_grant_is_refused(site: Site, wrong: dict[str, Any]) -> None:
    _, key = await site.tenant()
    assert (await site.ask("POST", "/v1/grants", key, 422, json=wrong)).json()["code"] == "REQUEST_INVALID"


async def test_a_page_follows_its_own_job_with_the_grant_and_no_other(
    site: Site, nc: Client, settings_of: SettingsOf
) -> None:
    _, key = await site.tenant()
    grant, other = await site.grant(key, files=5), await site.grant(key)
    job = (await site.upload(grant["token"])).json()["job_id"]
    async with served(
        output.build(settings_of(OutputSettings, "output", ingest_url=site.url, render_workers=1))
    ) as there:
        path = f"{there.url}/v1/jobs/{job}"

        async def status(token: str, path: str = path) -> int:
            return (await site.http.get(path, headers=bearer(token))).status_code

        async def shown() -> bool:
            return await status(grant["token"]) == 200

        await until(shown)
        assert [await status(other["token"]), await status(key)] == [404, 200]
        assert await status(grant["token"], f"{there.url}/v1/jobs") == 403
        assert await status(grant["token"], f"{path}/artifacts/original") == 403
        async with site.http.stream("GET", f"{path}/events", headers=bearer(grant["token"])) as stream:
            lines = stream.aiter_lines()
            while "upload.v1.received" not in (line := await anext(lines)):
                assert "grant" not in line


async def test_a_grant_uploads_in_pieces_too_and_sees_its_own_alone(site: Site, nc: Client) -> None:
    _, key = await site.tenant()
    grant, other = await site.grant(key, fields={"crop": "1:1"}), await site.grant(key)
    content, tus = picture(), {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    half = len(content) // 2

    async def send(method: str, path: str, token: str, data: bytes = b"", **headers: str) -> httpx.Response:
        told = bearer(token) | tus | headers
        return await site.http.request(method, site.url + path, content=data or None, headers=told)

    begun = await site.http.post(
        f"{site.url}/v1/uploads/tus", headers=bearer(grant["token"]) | {**tus, "Upload-Length": str(len(content))}
    )
    assert begun.status_code == 201, begun.text
    at = begun.headers["Location"]
    assert (await send("HEAD", at, other["token"])).status_code == 404
    assert (await send("PATCH", at, grant["token"], content[:half], **{"Upload-Offset": "0"})).status_code == 204
    done = await send("PATCH", at, grant["token"], content[half:], **{"Upload-Offset": str(half)})
    assert done.status_code == 204, done.text
    [event] = await told(nc, done.headers["Safelight-Job-Id"])
    received = UploadReceived.model_validate(event.body)
    assert (str(received.grant_id), received.options["crop"]) == (grant["id"], "1:1")
    spent = await site.http.post(
        f"{site.url}/v1/uploads/tus", headers=bearer(grant["token"]) | {**tus, "Upload-Length": str(len(content))}
    )
    assert (spent.status_code, spent.json()["code"]) == (403, "GRANT_SPENT")


async def test_without_a_secret_there_are_no_grants(open_site: Open) -> None:
    async with open_site(grant_keys=SecretStr("")) as plain:
        _, key = await plain.tenant()
        assert (await plain.ask("POST", "/v1/grants", key, 503, json={})).json()["code"] == "SERVICE_UNAVAILABLE"


# -- pages of other origins ------------------------------------------------------------------------


async def test_a_listed_page_may_upload_and_another_may_not(site: Site) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,tus-resumable"}
    url = f"{site.url}/v1/uploads"
    mine = await site.http.options(url, headers={"Origin": PAGE, **asked})
    assert (mine.status_code, mine.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
    assert "Access-Control-Allow-Credentials" not in mine.headers
    other = await site.http.options(url, headers={"Origin": "https://elsewhere.example", **asked})
    assert "Access-Control-Allow-Origin" not in other.headers
    refused = await site.http.post(url, headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, PAGE)
    assert "Upload-Offset" in refused.headers["Access-Control-Expose-Headers"]


async def test_a_page_asks_through_the_front_door(site: Site, settings_of: SettingsOf) -> None:
    _, key = await site.tenant()
    token = (await site.grant(key))["token"]
    known = settings_of(ConsoleSettings, "console", ingest_url=site.url, cors_origins=PAGE)
    async with served(console.build(known)) as door:
        url, origin = f"{door.url}/v1/uploads", {"Origin": PAGE}
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await site.http.options(url, headers=origin | asked)
        assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (200, PAGE)
        given = await site.http.post(url, headers=bearer(token) | origin, files={"file": ("f", picture())})
        assert given.status_code == 202, given.text
        allowed = [value for name, value in given.headers.multi_items() if name == "access-control-allow-origin"]
        assert allowed == [PAGE], "one answer, though two of us say it"
        inside = await site.http.get(f"{door.url}/internal/asker", headers=bearer(key))
        assert inside.status_code == 404, "the front door leads nobody there"


# -- rates and quotas ------------------------------------------------------------------------------


async def test_a_tenant_and_a_key_have_rates_and_say_how_much_is_left(site: Site) -> None:
    limits = {"uploads_per_s": 0.01, "burst": 3, "key_uploads_per_s": 0.01, "key_burst": 2}
    tenant, key = await site.tenant(limits=limits)
    given = [await site.upload(key) for _ in range(3)]
    assert [one.status_code for one in given] == [202, 202, 429]
    assert given[0].headers["RateLimit-Policy"] == '"tenant";q=3;w=300, "key";q=2;w=200'
    assert given[0].headers["RateLimit"].startswith('"tenant";r=2;t=100')
    refused = given[2].json()
    assert (refused["code"], refused["fixer"]) == ("RATE_LIMITED", "caller")
    assert 90 < int(given[2].headers["Retry-After"]) <= 100
    assert refused["retry_after_s"] == pytest.approx(int(given[2].headers["Retry-After"]), abs=1)
    others = await site.key(tenant)
    assert [(await site.upload(others)).status_code for _ in range(2)] == [202, 429], "the tenant's own is empty now"
    assert await site.uploads(tenant) == 3


async def test_at_once_no_more_than_the_burst_pass_over_two_replicas(site: Site, open_site: Open) -> None:
    tenant, _ = await site.tenant(limits={"uploads_per_s": 0.01, "burst": 5})
    async with open_site() as replica:
        replica.gate.loads.remember_s = 3600

        async def admitted(gate: Gate) -> bool:
            try:
                await gate.admit(Uploader(tenant), 1)
            except SafelightError as problem:
                return {"RATE_LIMITED": False}[problem.code]
            return True

        passed = await asyncio.gather(*(admitted(one.gate) for _ in range(10) for one in (site, replica)))
    assert sum(passed) == 5


SIZE = len(picture())


@pytest.mark.parametrize(
    ("limits", "let_in"),
    [
        pytest.param({"files_per_day": 2}, 2, id="files a day"),
        pytest.param({"files_per_month": 1}, 1, id="files a month"),
        pytest.param({"files_stored": 2}, 2, id="files that are stored"),
        pytest.param({"bytes_per_day": 2 * SIZE}, 2, id="bytes a day, to the last"),
        pytest.param({"bytes_per_month": 2 * SIZE - 1}, 1, id="bytes a month"),
        pytest.param({"bytes_stored": SIZE - 1}, 0, id="not even one"),
    ],
)
async def test_a_quota_is_exact_however_many_come_at_once(site: Site, limits: dict[str, int], let_in: int) -> None:
    tenant, key = await site.tenant(limits=limits)
    answers = await asyncio.gather(*(site.upload(key) for _ in range(5)))
    assert sorted(one.status_code for one in answers) == [202] * let_in + [429] * (5 - let_in)
    refused = next(one for one in answers if one.status_code == 429)
    assert refused.json()["code"] == "QUOTA_EXCEEDED"
    assert int(refused.headers["Retry-After"]) > 0
    assert await site.uploads(tenant) == let_in
    usage = (await site.ask("GET", "/v1/usage", key)).json()
    assert usage["day"] == usage["month"] == usage["stored"] == {"files": let_in, "bytes": let_in * SIZE}
    assert {name: usage["limits"][name] for name in limits} == limits


async def test_what_is_deleted_makes_room_again(site: Site) -> None:
    tenant, key = await site.tenant(limits={"files_stored": 1})
    assert (await site.upload(key)).status_code == 202
    assert (await site.upload(key)).status_code == 429
    async with site.engine.begin() as conn:
        await conn.execute(text("DELETE FROM ingest.uploads WHERE tenant = :tenant"), {"tenant": tenant})
    assert (await site.upload(key)).status_code == 202


async def test_what_was_answered_is_answered_again_whatever_the_quota_says(site: Site) -> None:
    tenant, key = await site.tenant(limits={"files_per_day": 1})
    again = str(uuid4())
    first, second = [await site.upload(key, again=again) for _ in range(2)]
    assert (first.status_code, second.json()) == (202, first.json())
    assert await site.uploads(tenant) == 1


async def test_limits_are_changed_and_tenants_without_a_row_have_everybodys(open_site: Open) -> None:
    async with open_site(tenant_limits=Limits(files_per_day=1), api_keys=SecretStr(f"plain-one:{PLAIN}")) as site:
        site.gate.loads.remember_s = 3600
        async with site.engine.begin() as conn:
            await conn.execute(text("DELETE FROM ingest.usage WHERE tenant = 'plain-one'"))
        answers = [(await site.upload(PLAIN)).status_code for _ in range(2)]
        assert answers == [202, 429]
        tenant, key = await site.tenant(limits={"files_per_day": 2})
        await site.ask("PATCH", f"/v1/tenants/{tenant}", OPS, json={"limits": {"files_per_day": 3}})
        assert [(await site.upload(key)).status_code for _ in range(4)] == [202, 202, 202, 429]


@pytest.mark.parametrize("wrong", [{"limits": {"burst": 0}}, {"options": {"crop": "7:1"}}, {"options": {"batch": "x"}}])
async def test_settings_that_are_none_are_refused(site: Site, wrong: dict[str, Any]) -> None:
    body = {"name": f"t-{uuid4().hex[:12]}", **wrong}
    assert (await site.ask("POST", "/v1/tenants", OPS, 422, json=body)).json()["code"] == "REQUEST_INVALID"


async def test_a_tenant_s_options_are_its_uploads_defaults(site: Site, nc: Client) -> None:
    _, key = await site.tenant(options={"crop": "4:5", "straighten": False})
    job = (await site.upload(key, straighten="true")).json()["job_id"]
    [event] = await told(nc, job)
    options = UploadReceived.model_validate(event.body).options
    assert (options["crop"], options["straighten"]) == ("4:5", True)


# -- a full pipeline -------------------------------------------------------------------------------


async def test_a_full_pipeline_takes_nothing_in_and_says_when_there_is_room(
    open_site: Open, settings_of: SettingsOf, nc: Client
) -> None:
    async with AsyncExitStack() as stack:
        settings = settings_of(OrchestratorSettings, "orchestrator")
        there = await stack.enter_async_context(served(orchestrator.build(settings)))
        loads = httpx.AsyncClient(base_url=there.url)
        stack.push_async_callback(loads.aclose)

        async def jobs(of: str | None = None) -> int:
            load = (await loads.get("/internal/load")).raise_for_status().json()
            return int(load["tenants"].get(of, 0) if of else load["jobs"])

        site: Site = await stack.enter_async_context(open_site(orchestrator_url=there.url))
        site.gate.loads.remember_s = 0.0
        tenant, key = await site.tenant()
        for n in (1, 2):
            assert (await site.upload(key)).status_code == 202
            await until(_reach(jobs, tenant, n))
        site.gate.jobs_max = 2
        refused = await site.upload(key)
        assert (refused.status_code, refused.json()["code"]) == (503, "PIPELINE_FULL")
        assert "there is room again in about" in refused.json()["detail"]
        assert int(refused.headers["Retry-After"]) >= 5
        assert await site.uploads(tenant) == 2

        few, its_key = await site.tenant(limits={"jobs_open": 1})
        site.gate.jobs_max = 10**6
        assert (await site.upload(its_key)).status_code == 202
        await until(_reach(jobs, few, 1))
        enough = await site.upload(its_key)
        assert (enough.status_code, enough.json()["code"]) == (429, "QUOTA_EXCEEDED")
        assert (await site.upload(key)).status_code == 202, "another tenant has room"


def _reach(jobs: Callable[[str], Awaitable[int]], tenant: str, count: int) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return await jobs(tenant) >= count

    return reached


async def test_without_the_orchestrator_uploads_are_taken(open_site: Open) -> None:
    async with open_site(orchestrator_url="http://127.0.0.1:9", jobs_open_max=1) as site:
        _, key = await site.tenant()
        assert (await site.upload(key)).status_code == 202


async def test_without_the_database_an_upload_is_told_to_come_again(
    site: Site, postgres_server: PostgresServer
) -> None:
    _, key = await site.tenant()
    assert (await site.upload(key)).status_code == 202
    postgres_server.kill()
    try:
        refused = await site.upload(key)
        assert (refused.status_code, refused.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
    finally:
        postgres_server.restart()

    async def back() -> bool:
        return (await site.upload(key)).status_code == 202

    await until(back)
