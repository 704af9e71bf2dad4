"""API keys and problem documents."""

from __future__ import annotations

import json

import httpx
import pytest
from fastapi import FastAPI

from contracts.errors import ERRORS, error
from runtime.http import ApiKeys, Caller, Operator, OperatorKeys, Tenant, install, problem_response, responses

TENANTS_KEY, OPERATORS_KEY = "0123456789abcdef", "fedcba9876543210"


def test_a_key_names_its_tenant() -> None:
    keys = ApiKeys("studio:0123456789abcdef, school:fedcba9876543210")
    assert (keys.tenant("0123456789abcdef"), keys.tenant("fedcba9876543210")) == ("studio", "school")


@pytest.mark.parametrize("key", ["", "0123456789abcde", "0123456789abcdef ", "studio"])
def test_another_key_names_nobody(key: str) -> None:
    assert ApiKeys("studio:0123456789abcdef").tenant(key) is None


@pytest.mark.parametrize("pairs", ["studio", "studio:short", ":0123456789abcdef"])
def test_a_key_that_is_none_stops_the_service(pairs: str) -> None:
    with pytest.raises(ValueError, match="tenant:key"):
        ApiKeys(pairs)


@pytest.mark.parametrize("pairs", ["ops", "ops:short", ":0123456789abcdef"])
def test_an_operators_key_that_is_none_stops_the_service(pairs: str) -> None:
    with pytest.raises(ValueError, match="SAFELIGHT_OPERATOR_KEYS reads name:key"):
        OperatorKeys(pairs)


def guarded() -> FastAPI:
    app = FastAPI()
    app.state.api_keys = ApiKeys(f"studio:{TENANTS_KEY}")
    app.state.operator_keys = OperatorKeys(f"ops:{OPERATORS_KEY}")
    install(app)

    @app.get("/tenant")
    async def of_a_tenant(tenant: Tenant) -> str:
        return tenant

    @app.get("/operator")
    async def of_an_operator(operator: Operator) -> str:
        return operator

    @app.get("/anybody")
    async def of_anybody(caller: Caller) -> tuple[str, str | None]:
        return caller.who, caller.tenant

    return app


@pytest.mark.parametrize(
    ("path", "key", "answer"),
    [
        pytest.param("/tenant", TENANTS_KEY, "studio", id="a tenant's key names its tenant"),
        pytest.param("/tenant", OPERATORS_KEY, "FORBIDDEN", id="an operator is no tenant"),
        pytest.param("/tenant", "another-key-of-mine", "UNAUTHENTICATED", id="an unknown key is no tenant's"),
        pytest.param("/operator", OPERATORS_KEY, "ops", id="an operator's key names its operator"),
        pytest.param("/operator", TENANTS_KEY, "FORBIDDEN", id="a tenant is no operator"),
        pytest.param("/operator", "another-key-of-mine", "UNAUTHENTICATED", id="an unknown key is no operator's"),
        pytest.param("/operator", None, "UNAUTHENTICATED", id="no key is no operator's"),
        pytest.param("/anybody", TENANTS_KEY, ["tenant:studio", "studio"], id="a tenant sees its own"),
        pytest.param("/anybody", OPERATORS_KEY, ["operator:ops", None], id="an operator sees every tenant's"),
        pytest.param("/anybody", None, "UNAUTHENTICATED", id="no key is nobody's"),
    ],
)
async def test_who_may_ask(path: str, key: str | None, answer: object) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded()), base_url="http://x", headers=headers) as api:
        got = await api.get(path)
    body = got.json()
    assert (body["code"] if isinstance(body, dict) else body) == answer
    assert got.status_code == {"UNAUTHENTICATED": 401, "FORBIDDEN": 403}.get(str(answer), 200)


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_code_makes_a_problem_document(code: str) -> None:
    response = problem_response(error(code, "what happened"))
    body = json.loads(bytes(response.body))
    assert response.media_type == "application/problem+json"
    assert response.status_code == body["status"] == ERRORS[code].status
    assert (body["code"], body["detail"], body["title"]) == (code, "what happened", ERRORS[code].title)


def test_a_busy_server_says_when_to_come_back() -> None:
    assert problem_response(error("BROKER_UNAVAILABLE")).headers["retry-after"] == "5"


def test_codes_that_share_a_status_share_its_entry() -> None:
    entry = responses("UPLOAD_EMPTY", "STYLE_UNKNOWN", "UPLOAD_TOO_LARGE")
    assert set(entry) == {422, 413}
    assert "UPLOAD_EMPTY" in entry[422]["description"]
    assert "STYLE_UNKNOWN" in entry[422]["description"]
