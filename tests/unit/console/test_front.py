"""Which headers pass the front door, and what the page's own headers allow."""

from __future__ import annotations

import re

import pytest
from starlette.routing import Match

from console.front import SERVICES, Door, passed_on, service_of
from console.page import FILES, headers


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/v1/uploads", "ingest"),
        ("/v1/styles", "ingest"),
        ("/v1/styles/mono@1/cube", "ingest"),
        ("/v1/jobs", "output"),
        ("/v1/jobs/7", "output"),
        ("/v1/jobs/7/events", "output"),
        ("/v1/jobs/7/phases/style/items", "output"),
        ("/v1/jobs/cancel", "output"),
        ("/v1/jobs//cancel", "output"),
        ("/v1/jobs/7/re-edit", "ingest"),
        ("/v1/jobs/7/versions", "output"),
        ("/v1/jobs/7/cancel", "orchestrator"),
        ("/v1/jobs/7/pause", "orchestrator"),
        ("/v1/jobs/7/resume", "orchestrator"),
        ("/v1/jobs/7/retry", "orchestrator"),
        ("/v1/jobs/7/history", "orchestrator"),
        ("/v1/jobs/7/artifacts/cancel", "output"),
        ("/v1/batches/7/retry-failed", "orchestrator"),
        ("/v1/batches/7/groups", "output"),
        ("/v1/batches/7/cost", "output"),
        ("/v1/dead-letters/replays/7/pause", "orchestrator"),
        ("/v1/audit", "orchestrator"),
        ("/v1/jobs/upgrade", "orchestrator"),
        ("/v1/providers", "gpu-bridge"),
        ("/v1/providers/costs", "gpu-bridge"),
        ("/v1/providers/modal/pause", "gpu-bridge"),
        ("/v1/pipelines", None),
        ("/internal/tenants/demo/jobs/7", None),
        ("/v1/jobsters", None),
        ("/live", None),
    ],
)
def test_a_path_leads_to_one_service(path: str, service: str | None) -> None:
    assert service_of(path) == service
    scope = {"type": "http", "method": "GET", "path": path, "root_path": ""}
    router = Door(dict.fromkeys(SERVICES, "http://x.invalid")).router()
    led = [getattr(route, "name", "") for route in router.routes if route.matches(scope)[0] is Match.FULL]
    assert led[:1] == ([service] if service else []), "the first route that fits answers"


@pytest.mark.parametrize(
    "name", [b"Connection", b"Keep-Alive", b"TE", b"Trailer", b"Transfer-Encoding", b"Upgrade", b"Proxy-Authorization"]
)
def test_a_header_of_one_connection_stays_on_it(name: bytes) -> None:
    assert passed_on([(name, b"x"), (b"Accept", b"*/*")]) == [(b"accept", b"*/*")]


def test_what_connection_names_stays_too() -> None:
    given = [(b"connection", b"close, X-Mine"), (b"x-mine", b"1"), (b"x-yours", b"2")]
    assert passed_on(given) == [(b"x-yours", b"2")]


def test_a_chunked_body_has_no_length_of_its_own() -> None:
    """Both at once is how requests are smuggled (RFC 9112 section 6.1)."""
    assert passed_on([(b"transfer-encoding", b"chunked"), (b"content-length", b"5")]) == []


def test_repeated_headers_and_their_bytes_are_kept() -> None:
    given = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=\xff")]
    assert passed_on(given) == given


def test_the_page_may_load_pictures_from_storage_and_nothing_else_from_elsewhere() -> None:
    policy = headers("http://storage.example:9000/bucket?x=1")["content-security-policy"]
    assert "img-src 'self' blob: http://storage.example:9000;" in policy
    assert policy.count("http") == 1
    assert "unsafe" not in policy


def test_the_page_has_no_inline_code_and_parses_no_markup() -> None:
    page = (FILES / "index.html").read_text()
    assert "style=" not in page
    assert re.search(r"\son[a-z]+=", page) is None
    assert re.search(r"<script(?![^>]* src=)", page) is None
    for script in FILES.glob("*.js"):
        text = script.read_text()
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "http://",
            "https://",
        ):
            assert forbidden not in text, f"{script.name} has {forbidden}"
