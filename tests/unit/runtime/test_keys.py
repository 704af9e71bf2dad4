"""Who asks: the environment's keys, those that somebody else knows, and what each may do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI

from contracts.errors import SafelightError, error
from runtime.http import install
from runtime.keys import KEY_PREFIX, Asker, Caller, Keys, Operator, Remembered, Scope, Tenant

TENANTS_KEY, OPERATORS_KEY = "0123456789abcdef", "fedcba9876543210"
READS, WRITES, SERVES, AUDITS = (f"{KEY_PREFIX}{name}" for name in ("reads", "writes", "serves", "audits"))
OLD = f"{KEY_PREFIX}old"


def asker(name: str, tenant: str | None, *scopes: Scope, lives_s: float = 86_400) -> Asker:
    return Asker(name, tenant, frozenset(scopes), name, None, datetime.now(UTC) + timedelta(seconds=lives_s))


BEYOND = {
    READS: asker("reads", "studio", "read"),
    WRITES: asker("writes", "studio", "upload"),
    SERVES: asker("serves", None, "read", "operate"),
    AUDITS: asker("audits", None, "read"),
    OLD: asker("old", "studio", "read", "upload", lives_s=-1),
}


async def beyond(key: str) -> Asker | None:
    return BEYOND.get(key)


async def test_a_key_names_its_tenant() -> None:
    keys = Keys("studio:0123456789abcdef, school:fedcba9876543210")
    assert [(await keys.asker(key)).tenant for key in (TENANTS_KEY, OPERATORS_KEY)] == ["studio", "school"]


@pytest.mark.parametrize("key", ["", "0123456789abcde", "0123456789abcdef ", "studio", "\udce4" * 16])
async def test_another_key_names_nobody(key: str) -> None:
    with pytest.raises(SafelightError, match="UNAUTHENTICATED"):
        await Keys("studio:0123456789abcdef").asker(key)


@pytest.mark.parametrize("pairs", ["studio", "studio:short", ":0123456789abcdef"])
def test_a_key_that_is_none_stops_the_service(pairs: str) -> None:
    with pytest.raises(ValueError, match="SAFELIGHT_API_KEYS reads tenant:key"):
        Keys(pairs)
    with pytest.raises(ValueError, match="SAFELIGHT_OPERATOR_KEYS reads name:key"):
        Keys("", pairs)


def guarded() -> FastAPI:
    app = FastAPI()
    app.state.keys = Keys(f"studio:{TENANTS_KEY}", f"ops:{OPERATORS_KEY}", beyond)
    install(app)

    @app.get("/tenant")
    @app.post("/tenant")
    async def of_a_tenant(tenant: Tenant) -> str:
        return tenant

    @app.get("/operator")
    @app.post("/operator")
    async def of_an_operator(operator: Operator) -> str:
        return operator

    @app.get("/anybody")
    @app.delete("/anybody")
    async def of_anybody(caller: Caller) -> tuple[str, str | None]:
        return caller.who, caller.tenant

    return app


@pytest.mark.parametrize(
    ("asked", "key", "answer"),
    [
        pytest.param("GET /tenant", TENANTS_KEY, "studio", id="a tenant's key names its tenant"),
        pytest.param("GET /tenant", OPERATORS_KEY, "FORBIDDEN", id="an operator is no tenant"),
        pytest.param("GET /tenant", "another-key-of-mine", "UNAUTHENTICATED", id="an unknown key is no tenant's"),
        pytest.param("GET /operator", OPERATORS_KEY, "ops", id="an operator's key names its operator"),
        pytest.param("GET /operator", TENANTS_KEY, "FORBIDDEN", id="a tenant is no operator"),
        pytest.param("GET /operator", "another-key-of-mine", "UNAUTHENTICATED", id="an unknown key is no operator's"),
        pytest.param("GET /operator", None, "UNAUTHENTICATED", id="no key is no operator's"),
        pytest.param("GET /anybody", TENANTS_KEY, ["tenant:studio", "studio"], id="a tenant sees its own"),
        pytest.param("GET /anybody", OPERATORS_KEY, ["operator:ops", None], id="an operator sees every tenant's"),
        pytest.param("GET /anybody", None, "UNAUTHENTICATED", id="no key is nobody's"),
        pytest.param("POST /tenant", TENANTS_KEY, "studio", id="the environment's key may change things"),
        pytest.param("GET /tenant", READS, "studio", id="who may read reads"),
        pytest.param("POST /tenant", READS, "FORBIDDEN", id="who may only read changes nothing"),
        pytest.param("POST /tenant", WRITES, "studio", id="who may upload changes things"),
        pytest.param("GET /tenant", WRITES, "FORBIDDEN", id="who may only upload reads nothing"),
        pytest.param("GET /tenant", OLD, "UNAUTHENTICATED", id="a key that has expired is nobody's"),
        pytest.param("POST /operator", SERVES, "serves", id="who may operate does"),
        pytest.param("GET /operator", AUDITS, "FORBIDDEN", id="an operator who may only read does not operate"),
        pytest.param("GET /anybody", AUDITS, ["operator:audits", None], id="but reads what every tenant has"),
        pytest.param("DELETE /anybody", AUDITS, "FORBIDDEN", id="and changes nothing of it"),
        pytest.param("DELETE /anybody", SERVES, ["operator:serves", None], id="who may operate changes a tenant's"),
    ],
)
async def test_who_may_ask(asked: str, key: str | None, answer: object) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded()), base_url="http://x", headers=headers) as api:
        got = await api.request(*asked.split())
    body = got.json()
    assert (body["code"] if isinstance(body, dict) else body) == answer
    assert got.status_code == {"UNAUTHENTICATED": 401, "FORBIDDEN": 403}.get(str(answer), 200)


async def test_who_lacks_a_scope_reads_which() -> None:
    headers = {"Authorization": f"Bearer {READS}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded()), base_url="http://x", headers=headers) as api:
        assert (await api.post("/tenant")).json()["detail"] == "This API key lacks the scope `upload`."


# -- whom somebody else knows ----------------------------------------------------------------------


class Elsewhere:
    """Who knows keys: `known`, while it is not `away`; `asked` are the questions."""

    def __init__(self) -> None:
        self.known = {READS: asker("reads", "studio", "read")}
        self.asked: list[str] = []
        self.away = False

    async def __call__(self, key: str) -> Asker | None:
        self.asked.append(key)
        await asyncio.sleep(0)
        if self.away:
            raise error("DATABASE_UNAVAILABLE")
        return self.known.get(key)


async def test_many_requests_at_once_are_one_question_and_the_answer_is_remembered() -> None:
    keys = Remembered(there := Elsewhere())
    assert {found and found.name for found in await asyncio.gather(*(keys(READS) for _ in range(20)))} == {"reads"}
    assert await keys(READS)
    assert there.asked == [READS]


async def test_a_key_that_was_revoked_is_refused_once_the_answer_is_old() -> None:
    keys = Remembered(there := Elsewhere(), fresh_s=0.0)
    assert await keys(READS)
    there.known.clear()
    assert await keys(READS) is None


async def test_a_key_that_nobody_knew_works_as_soon_as_it_is_made() -> None:
    keys = Remembered(there := Elsewhere())
    assert await keys(WRITES) is None
    there.known[WRITES] = BEYOND[WRITES]
    assert await keys(WRITES)


async def test_while_nobody_can_tell_known_keys_work_for_a_while_and_others_are_told_to_wait() -> None:
    keys = Remembered(there := Elsewhere(), fresh_s=0.0)
    assert await keys(READS)
    there.away = True
    assert await keys(READS), "it was known"
    with pytest.raises(SafelightError, match="SERVICE_UNAVAILABLE"):
        await keys(WRITES)
    assert there.asked == [READS, READS], "who is silent is left alone for a moment"
    keys.stale_s = 0.0
    with pytest.raises(SafelightError, match="SERVICE_UNAVAILABLE"):
        await keys(READS)


async def test_who_leaves_while_asking_does_not_take_the_question_along() -> None:
    keys = Remembered(there := Elsewhere())
    leaving, staying = asyncio.create_task(keys(READS)), asyncio.create_task(keys(READS))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying
    assert there.asked == [READS]


async def test_memory_for_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.keys.REMEMBERED_MAX", 2)
    keys = Remembered(there := Elsewhere())
    names = [f"{KEY_PREFIX}{n}" for n in range(3)]
    there.known = {name: asker(name, "studio", "read") for name in names}
    for name in (*names, names[2], names[0]):
        assert await keys(name)
    assert there.asked == [*names, names[0]], "the oldest was forgotten"
