"""The commands about GPU providers, and the upgrade of degraded jobs, against a small real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from typer.testing import CliRunner

from console import cli, providers
from console.client import Connection
from contracts.errors import SafelightError, error
from runtime.http import problem_response
from tests.integration.console_upstream import Served

KEY, BATCH, AT = "an-operators-key-of-mine", UUID(int=9), "2026-01-02T03:04:05Z"
HOME = "http://127.0.0.1:8333"


def function(name: str, code: str | None = None) -> dict[str, Any]:
    return {"function": name, "takes_work": code is None, "code": code, "until": AT if code else None}


def provider(name: str, device: str, *functions: dict[str, Any], **changes: Any) -> dict[str, Any]:
    prices = [{"device": "L4", "per_s": 0.000222, "as_of": "2025-10-01"}]
    about = {"here": True, "mode": "working", "why": "", "by": "", "at": None, "device": device, "prices": prices}
    numbers = {"in_flight": 3, "in_flight_max": 100, "currency": "USD", "gpus": [], "regions": [], "retention_s": None}
    return {"name": name, "functions": list(functions), **about, **numbers, **changes}


LOCAL = provider("local", "cpu", function("style.apply@1"))
MODAL = provider("modal", "gpu", function("style.apply@1"), function("retouch.faces@1", "PROVIDER_RATE_LIMITED"))
COSTS = {
    "since": AT,
    "currency": "USD",
    "lines": [
        {
            "provider": "modal",
            "function": "style.apply",
            "device": "L4",
            "epochs": 4,
            "failed": 1,
            "cold": 2,
            "queue_s": 2.0,
            "start_s": 42.0,
            "run_s": 600.0,
            "billed_s": 640.0,
            "cost": 0.1421,
            "unpriced": 1,
        }
    ],
}
WORKS = {
    "provider": "modal",
    "ok": True,
    "code": None,
    "detail": "",
    "engine": "gpu-lut@1",
    "device": "L4",
    "cold": True,
    "submit_s": 0.512,
    "start_s": 31.25,
    "run_s": 0.75,
    "links_to": "https://s3.example.com",
}


class Desk(Served):
    """Answers as the services are agreed to; `asked` are the changes that it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.queries: list[dict[str, str]] = []
        self.providers = [MODAL, LOCAL]
        self.costs: dict[str, Any] = COSTS
        self.tested: dict[str, Any] = WORKS
        self.degraded = 7
        super().__init__(self._app())

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def needs_a_key(request: Request, call_next: Any) -> Response:
            if request.headers.get("authorization") != f"Bearer {KEY}":
                return problem_response(error("UNAUTHENTICATED"))
            answer: Response = await call_next(request)
            return answer

        @app.exception_handler(SafelightError)
        async def told(_request: Request, problem: SafelightError) -> Response:
            return problem_response(problem)

        @app.get("/v1/providers")
        async def every() -> list[dict[str, Any]]:
            return self.providers

        @app.get("/v1/providers/costs")
        async def costs(request: Request) -> dict[str, Any]:
            self.queries.append(dict(request.query_params))
            return self.costs

        @app.post("/v1/providers/{name}/test")
        async def test(name: str) -> Response:
            async def slowly() -> Any:
                yield "  "
                yield json.dumps(self.tested)

            return StreamingResponse(slowly(), media_type="application/json")

        @app.post("/v1/providers/{name}/{what}")
        async def say(name: str, what: str, request: Request) -> dict[str, Any]:
            self.asked.append((request.url.path, await request.json()))
            if name != "modal":
                raise error("PROVIDER_UNKNOWN")
            return {**MODAL, "mode": "paused", "why": "it is ill", "by": "operator:ada", "at": AT}

        @app.post("/v1/jobs/upgrade")
        async def upgrade(request: Request) -> dict[str, Any]:
            body = await request.json()
            self.asked.append((request.url.path, body))
            start = int(body.get("cursor", 0))
            end = min(start + body["limit"], self.degraded)
            more = str(end) if end < self.degraded else None
            return {
                "found": self.degraded - start,
                "jobs": end - start,
                "passed_over": 0,
                "phases": {"style": end - start},
                "until": AT,
                "next_cursor": more,
            }

        return app


@pytest.fixture
def desk() -> Iterator[Desk]:
    served = Desk()
    yield served
    served.stop()


def run(desk: Desk, *arguments: str) -> tuple[int, str, str]:
    known = Connection(desk.url, "a-tenants-key", KEY)
    result = CliRunner().invoke(cli.client, arguments, obj=lambda: known, env={"COLUMNS": "160"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# -- providers --------------------------------------------------------------------------------------


def test_providers_are_listed_with_what_keeps_them_from_work(desk: Desk) -> None:
    gone = provider("far", "gpu", function("style.apply@1", "NO_PROVIDER"), here=False, in_flight_max=None)
    desk.providers = [MODAL, LOCAL, gone | {"device": None}]
    code, out, _ = run(desk, "providers", "list")
    assert code == 0
    lines = out.splitlines()
    assert next(line for line in lines if "modal" in line).split()[:4] == ["modal", "gpu", "working", "3/100"]
    assert "PROVIDER_RATE_LIMITED until 2026-01-02" in next(line for line in lines if "retouch.faces" in line)
    assert "not set up here" in next(line for line in lines if "far" in line)
    _, out, _ = run(desk, "providers", "list", "--json")
    assert json.loads(out)[0]["prices"] == MODAL["prices"]


@pytest.mark.parametrize("what", ["pause", "resume", "drain"])
def test_a_provider_is_told_with_the_reason(desk: Desk, what: str) -> None:
    code, out, _ = run(desk, "providers", what, "modal", "--reason", "it is ill")
    assert (code, desk.asked) == (0, [(f"/v1/providers/modal/{what}", {"reason": "it is ill"})])
    assert "it is ill (operator:ada)" in out


def test_a_provider_that_nobody_knows_is_one_sentence(desk: Desk) -> None:
    code, out, err = run(desk, "providers", "pause", "nobody")
    assert (code, out) == (1, "")
    assert err.strip() == "No provider has this name here. (PROVIDER_UNKNOWN)"


def test_costs_are_told_with_their_sum_and_what_has_no_price(desk: Desk) -> None:
    code, out, _ = run(desk, "providers", "costs", "--days", "7", "--tenant", "demo")
    assert (code, desk.queries) == (0, [{"days": "7", "tenant": "demo"}])
    line = next(line for line in out.splitlines() if "style.apply" in line)
    assert " ".join(line.split()) == "modal style.apply L4 4 1 2 0.5 s 10.5 s 10 min 11 min 0.1421"
    assert "since 2026-01-02: 0.1421 USD" in out
    assert "1 runs have no known price" in out
    desk.costs = {**COSTS, "lines": []}
    assert "Nothing was bought since 2026-01-02." in run(desk, "providers", "costs")[1]
    assert desk.queries[-1] == {"days": "30"}


# -- a test call ------------------------------------------------------------------------------------


def test_a_test_call_tells_its_seconds(desk: Desk) -> None:
    code, out, err = run(desk, "gpu", "test", "--provider", "modal")
    assert code == 0
    for part in ("0.51 s", "31.25 s (cold)", "0.75 s", "L4", "gpu-lut@1", "it works"):
        assert part in out
    assert "a cold start may take minutes" in err
    code, out, err = run(desk, "gpu", "test", "--provider", "modal", "--json")
    assert (code, json.loads(out), err) == (0, WORKS, "")


def test_a_test_call_that_fails_says_what_to_do(desk: Desk) -> None:
    desk.tested = {**WORKS, "ok": False, "code": "STORAGE_UNAVAILABLE", "detail": "ConnectError", "links_to": HOME}
    code, out, err = run(desk, "gpu", "test", "--provider", "modal")
    assert code == 1
    assert "STORAGE_UNAVAILABLE ConnectError" in out
    told = " ".join(err.split())
    assert f"Its links lead to {HOME}, which cannot be reached from outside this network." in told
    assert "SAFELIGHT_S3_PUBLIC_ENDPOINT" in told


@pytest.mark.parametrize(
    ("found", "advice"),
    [
        pytest.param({"links_to": "http://10.0.0.7:8333"}, "cannot be reached from outside", id="a private address"),
        pytest.param({"links_to": "http://s3:8333"}, "cannot be reached from outside", id="a container's name"),
        pytest.param({"links_to": "http://[::1]:8333"}, "cannot be reached from outside", id="the own machine"),
        pytest.param({"code": "STORAGE_UNAVAILABLE"}, "could not reach object storage at https://s3.ex", id="outside"),
        pytest.param({"code": "CALL_START_DEADLINE"}, None, id="another trouble"),
        pytest.param({"links_to": HOME, "ok": True}, None, id="it works"),
        pytest.param({"links_to": HOME, "provider": "local"}, None, id="the own CPU is inside"),
    ],
)
def test_advice(found: dict[str, Any], advice: str | None) -> None:
    told = providers.advice(providers.Tested.model_validate({**WORKS, "ok": False, "code": "CALL_LOST", **found}))
    assert (told is None) if advice is None else (told is not None and advice in told)


# -- degraded jobs ----------------------------------------------------------------------------------


def test_degraded_jobs_are_upgraded_page_by_page(desk: Desk) -> None:
    given = ("--tenant", "demo", "--batch", str(BATCH), "--limit", "6", "--rate", "500", "--reason", "it is back")
    code, out, _ = run(desk, "upgrade", "--degraded", *given)
    assert code == 0
    assert desk.asked == [
        (
            "/v1/jobs/upgrade",
            {"tenant": "demo", "batch": str(BATCH), "dry_run": False, "reason": "it is back", "limit": 6},
        )
    ]
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(("degraded", "work"))] == ["7", "6"]


def test_pages_keep_to_the_rate_and_to_one_walk(desk: Desk) -> None:
    code, out, _ = run(desk, "upgrade", "--degraded", "--rate", "2.5", "--json")
    assert code == 0
    bodies = [body for _, body in desk.asked]
    assert [body["limit"] for body in bodies] == [3, 3, 3]
    assert [body.get("cursor") for body in bodies] == [None, "3", "6"]
    assert [body.get("until", "")[:19] for body in bodies] == ["", AT[:19], AT[:19]]
    assert (json.loads(out)["jobs"], json.loads(out)["phases"]) == (7, {"style": 7})


@pytest.mark.parametrize(
    ("there", "why"),
    [
        pytest.param([LOCAL], "none is set up", id="none"),
        pytest.param(
            [{**MODAL, "mode": "paused", "functions": [function("x", "PROVIDER_UNAVAILABLE")]}, LOCAL],
            "modal is paused",
            id="paused",
        ),
        pytest.param([{**MODAL, "functions": [function("x", "PROVIDER_UNAVAILABLE")]}], "takes no work", id="ill"),
    ],
)
def test_without_a_gpu_nothing_is_upgraded_unless_one_insists(desk: Desk, there: list[Any], why: str) -> None:
    desk.providers = there
    code, out, err = run(desk, "upgrade", "--degraded")
    assert (code, out, desk.asked) == (1, "", [])
    assert why in err
    assert run(desk, "upgrade", "--degraded", "--dry-run")[0] == 0
    assert run(desk, "upgrade", "--degraded", "--anyway", "--rate", "100")[0] == 0
    assert [body["dry_run"] for _, body in desk.asked] == [True, False]


def test_what_is_upgraded_must_be_said(desk: Desk) -> None:
    code, _, err = run(desk, "upgrade")
    assert (code, desk.asked) == (2, [])
    assert "--degraded" in err
