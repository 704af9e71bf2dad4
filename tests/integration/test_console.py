"""The front door as its own process before small real services: what passes, how it flows, how it fails."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.console_upstream import CLOSED, SOON_S, Console, Upstream, running

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with running(tmp_path_factory.mktemp("console")) as found:
        yield found


def zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield bytes(MIB)


# -- what passes -----------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "in chunks"])
def test_a_large_body_streams_through_in_constant_memory(console: Console, declared: bool) -> None:
    size = 64 * MIB
    console.client.post("/v1/uploads", content=zeros(8 * MIB))  # warm
    before = console.process.memory_info().rss
    headers = {"Content-Length": str(size)} if declared else {}
    peak = 0

    def body() -> Iterator[bytes]:
        nonlocal peak
        for piece in zeros(size):
            peak = max(peak, console.process.memory_info().rss)
            yield piece

    answer = console.client.post("/v1/uploads", content=body(), headers=headers)

    assert answer.json() == {"size": size, "sha256": hashlib.sha256(bytes(size)).hexdigest()}
    assert peak - before < 16 * MIB


def test_headers_of_one_connection_do_not_pass_and_all_others_do(console: Console) -> None:
    console.output.forget()
    sent = {
        "Authorization": "Bearer k",
        "X-Mine": "1",
        "Connection": "X-Secret, keep-alive",
        "X-Secret": "1",
        "TE": "trailers",
    }
    answer = console.client.get("/v1/jobs", params={"status": "failed", "cursor": "a/b+c=="}, headers=sent)

    seen = console.output.seen.get(timeout=SOON_S)
    assert seen["target"] == "/v1/jobs?status=failed&cursor=a%2Fb%2Bc%3D%3D"
    assert seen["headers"]["authorization"] == "Bearer k"
    assert seen["headers"]["x-mine"] == "1"
    assert {"x-secret", "te"}.isdisjoint(seen["headers"])
    assert seen["headers"]["host"] == httpx.URL(console.output.url).netloc.decode()
    assert answer.headers["x-kept"] == "1"
    assert {"x-dropped", "keep-alive"}.isdisjoint(answer.headers)
    assert len(answer.headers.get_list("date")) == 1


def test_the_front_door_adds_no_header_that_changes_the_answer(console: Console) -> None:
    console.output.forget()
    bare = console.connection()
    bare.putrequest("GET", "/v1/jobs", skip_accept_encoding=True)
    bare.endheaders()
    bare.getresponse().read()
    bare.close()
    assert {"accept-encoding", "user-agent", "accept"}.isdisjoint(console.output.seen.get(timeout=SOON_S)["headers"])


def test_one_trace_goes_through(console: Console) -> None:
    console.output.forget()
    trace, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    console.client.get("/v1/jobs", headers={"traceparent": f"00-{trace}-{caller}-01"})
    _, seen_trace, parent, _ = console.output.seen.get(timeout=SOON_S)["headers"]["traceparent"].split("-")
    assert seen_trace == trace
    assert parent != caller, "the service's span hangs under the front door's"


def test_redirects_go_back_to_the_caller(console: Console) -> None:
    answer = console.client.get("/v1/jobs/7/artifacts/web.jpg")
    assert answer.status_code == 307
    assert answer.headers["location"] == "http://storage.invalid/bucket/key?signature=1"


@pytest.mark.parametrize("path", ["/v1/jobs/../../live", "/v1/jobs/%2e%2e/%2E%2E/live", "/v1/jobs//x/./y"])
def test_no_path_leaves_its_row_of_the_table(console: Console, path: str) -> None:
    console.output.forget()
    raw = console.connection()
    raw.request("GET", path)
    assert raw.getresponse().read() == b"here"
    raw.close()
    assert console.output.seen.get(timeout=SOON_S)["target"] == path


@pytest.mark.parametrize(
    ("method", "path", "service"),
    [
        ("POST", "/v1/jobs/7/cancel", "orchestrator"),
        ("GET", "/v1/jobs/7/history", "orchestrator"),
        ("GET", "/v1/jobs/7/phases/style/items", "output"),
        ("POST", "/v1/dead-letters/7/replay", "orchestrator"),
        ("POST", "/v1/batches", "orchestrator"),
        ("GET", "/v1/audit", "orchestrator"),
        ("POST", "/v1/jobs/upgrade", "orchestrator"),
        ("GET", "/v1/providers", "gpu_bridge"),
        ("POST", "/v1/providers/modal/test", "gpu_bridge"),
    ],
)
def test_a_request_reaches_the_service_of_its_row(console: Console, method: str, path: str, service: str) -> None:
    upstream: Upstream = getattr(console, service)
    upstream.forget()
    assert console.client.request(method, path, json={"reason": "x"} if method == "POST" else None).content == b"here"
    assert upstream.seen.get(timeout=SOON_S)["target"] == path


def test_what_is_not_in_the_table_is_a_404_problem(console: Console) -> None:
    answer = console.client.get("/v1/pipelines/photo")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("sent", [b"", b"--x\r\n"], ids=["nothing was sent", "a little was sent"])
def test_a_refusal_does_not_wait_for_the_body_that_it_refuses(console: Console, sent: bytes) -> None:
    raw = console.connection()
    raw.putrequest("POST", "/v1/uploads/refused")
    raw.putheader("Content-Length", str(1024 * MIB))
    raw.endheaders(sent)
    answer = raw.getresponse()
    assert (answer.status, answer.read()) == (413, b"too large")
    assert answer.getheader("connection") == "close"
    raw.close()


def test_a_refusal_reaches_a_caller_who_goes_on_sending(console: Console) -> None:
    answer = httpx.post(console.client.base_url.join("/v1/uploads/refused"), content=zeros(256 * MIB), timeout=SOON_S)
    assert answer.status_code == 413


# -- how it flows ----------------------------------------------------------------------------


def test_events_arrive_one_by_one_as_they_happen(console: Console) -> None:
    with console.client.stream("GET", "/v1/jobs/7/events") as answer:
        pieces = answer.iter_raw()
        for n in range(3):
            event = f"id: {n}\ndata: {{}}\n\n".encode()
            console.output.say(event)  # the next is said only when this one has been read
            assert next(pieces) == event
        console.output.say(CLOSED)
        assert list(pieces) == []


def test_a_reader_that_goes_lets_the_service_go(console: Console) -> None:
    with console.client.stream("GET", "/v1/jobs/7/events") as answer:
        pieces = answer.iter_raw()  # kept: an iterator that is collected closes its connection
        console.output.say(b": hello\n\n")
        assert next(pieces) == b": hello\n\n"
        assert console.output.left.empty()
    assert console.output.left.get(timeout=SOON_S) == "reader"


def test_many_streams_lock_nobody_out(console: Console) -> None:
    with httpx.Client(
        base_url=console.client.base_url, timeout=SOON_S, limits=httpx.Limits(max_connections=None)
    ) as many:
        streams = [many.send(many.build_request("GET", "/v1/jobs/7/events"), stream=True) for _ in range(120)]
        assert many.get("/v1/jobs").content == b"here"
        for stream in streams:
            stream.close()
        for _ in streams:
            console.output.left.get(timeout=SOON_S)


# -- how it fails ----------------------------------------------------------------------------


def test_a_service_that_is_down_is_a_503_problem_and_the_other_still_serves(tmp_path: Path) -> None:
    with running(tmp_path) as console:
        assert console.client.get("/ready").json() == {"ready": True, "waiting_for": []}
        assert console.client.post("/v1/uploads", content=b"x").status_code == 200  # a connection is kept
        console.ingest.stop()

        answer = console.client.post(
            "/v1/uploads", content=zeros(8 * MIB), headers={"Authorization": "Bearer secret-1"}
        )
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"]
        assert answer.json()["code"] == "SERVICE_UNAVAILABLE"
        assert console.client.get("/v1/jobs").content == b"here"

        ready = console.client.get("/ready")
        assert (ready.status_code, ready.json()["waiting_for"]) == (503, ["SERVICE_UNAVAILABLE"])
        assert console.client.get("/live").status_code == 200
    assert "secret-1" not in (tmp_path / "console.log").read_text()


def test_a_service_that_dies_in_mid_answer_does_not_look_finished(tmp_path: Path) -> None:
    with running(tmp_path) as console:
        with console.client.stream("GET", "/v1/jobs/7/events") as answer:
            console.output.say(b": hello\n\n")
            pieces = answer.iter_raw()
            assert next(pieces) == b": hello\n\n"
            console.output.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                next(pieces)
        assert console.client.get("/live").status_code == 200


# -- the page and the document ----------------------------------------------------------------


def test_the_page_comes_with_a_strict_policy(console: Console) -> None:
    page = console.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' blob: http://storage.invalid:8333"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert console.client.get("/main.js").headers["content-type"].startswith("text/javascript")


def test_the_page_hands_out_only_its_own_files(console: Console) -> None:
    raw = console.connection()
    raw.request("GET", "/../app.py")
    assert raw.getresponse().status == 404
    raw.close()


def test_the_document_is_merged_from_what_the_services_say(console: Console) -> None:
    document: dict[str, Any] = console.client.get("/openapi.json").json()
    assert "/v1/uploads" in document["paths"]
    assert "/live" not in document["paths"]
    assert "Problem" in document["components"]["schemas"]


def test_an_idle_console_is_small(console: Console) -> None:
    assert console.process.memory_info().rss < 110 * MIB
