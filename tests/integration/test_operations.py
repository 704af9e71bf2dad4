"""What people do over HTTP: jobs and batches steered, who may, what is refused, and that all of it is in the audit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.app import build
from tests.integration.conftest import SettingsOf, until
from tests.integration.desk import KEYS, OPS, Desk, engine_for, pipelines_in, seated, settings_for
from tests.integration.orchestra import calm, now
from tests.integration.wire import served, told
from tests.servers.models import NatsServer


@pytest.fixture(scope="module")
async def service(
    prepared: object, settings_of: SettingsOf, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, AsyncEngine]]:
    settings = settings_for(settings_of, pipelines_in(tmp_path_factory.mktemp("pipelines")))
    engine = engine_for(settings)
    async with calm(engine, nats_server), served(build(settings)) as site:
        yield site.url, engine
    await engine.dispose()


@pytest.fixture
async def desk(service: tuple[str, AsyncEngine], nc: Client) -> AsyncIterator[Desk]:
    async with seated(*service, nc) as made:
        yield made


# -- jobs -------------------------------------------------------------------------------------------


async def test_a_cancelled_job_ends_and_is_told_and_noted(desk: Desk) -> None:
    desk.worker.holds.add(("alice", "second"))
    job = await desk.begun()
    await desk.at_work(job, "second")
    done = await desk.post(f"/v1/jobs/{job}/cancel", reason="not needed")
    assert done == {"job_id": str(job), "status": "cancelled", "revision": 3}
    assert (await told(desk.nc, str(job)))[-1].subject == "evt.job.v1.cancelled"
    [line] = await desk.audit(job)
    assert (line["who"], line["action"], line["why"]) == ("tenant:alice", "job.cancel", "not needed")
    assert now() - datetime.fromisoformat(line["at"]) < timedelta(minutes=1)
    await desk.worker.let_go()
    again = await desk.post(f"/v1/jobs/{job}/cancel", status=409)
    assert (again["code"], again["detail"]) == ("STATE_CONFLICT", "the job is cancelled")
    assert len(await desk.audit(job)) == 1, "what was not done is not in the audit"


async def test_a_paused_job_waits_with_the_reason_and_goes_on(desk: Desk) -> None:
    desk.worker.holds.add(("alice", "first"))
    job = await desk.begun()
    await desk.at_work(job, "first")
    assert (await desk.post(f"/v1/jobs/{job}/pause", "ops", reason="later"))["status"] == "running"
    await desk.post(f"/v1/jobs/{job}/pause", status=409)
    await desk.worker.let_go()

    async def heard() -> bool:
        return len((await desk.get(f"/v1/jobs/{job}/history"))["steps"]) == 3

    await until(heard)
    history = await desk.get(f"/v1/jobs/{job}/history")
    [wait] = history["waits"]
    assert wait["why"].startswith("paused by operator:ops, until")
    assert (wait["owner"], wait["phase"]) == (OPS, None)
    assert datetime.fromisoformat(wait["until"]) - now() < timedelta(days=7)
    assert not any(c.phase == "second" for c in desk.worker.given if c.job_id == job)
    await desk.post(f"/v1/jobs/{job}/resume", reason="now")
    await desk.reaches(job, "succeeded")
    assert [(line["who"], line["action"]) for line in await desk.audit(job)] == [
        (OPS, "job.pause"),
        ("tenant:alice", "job.resume"),
    ]
    await desk.post(f"/v1/jobs/{job}/resume", status=409)


async def test_a_dead_job_is_retried_from_what_failed_with_other_parameters(desk: Desk) -> None:
    job = await desk.died(style_strength=0.5)
    done = await desk.post(f"/v1/jobs/{job}/retry", parameters={"strength": 0.9}, reason="restored")
    assert done["status"] == "running"
    await desk.reaches(job, "succeeded")
    runs = [(c.phase, c.attempt, c.parameters.get("strength")) for c in desk.worker.given if c.job_id == job]
    assert runs == [("first", 1, None), ("second", 1, 0.5), ("second", 2, 0.9), ("third", 1, None)]
    [line] = await desk.audit(job)
    assert (line["action"], line["why"]) == ("job.retry", "restored")
    assert line["details"] == {"from": None, "version": "pinned", "parameters": ["strength"]}, "names, never values"


@pytest.mark.parametrize(
    ("start", "again"),
    [("start", ["first", "second", "third"]), ("third", ["third"]), ("second", ["second", "third"])],
)
async def test_a_job_that_succeeded_is_retried_from_a_phase_on(desk: Desk, start: str, again: list[str]) -> None:
    job = await desk.begun()
    await desk.reaches(job, "succeeded")
    await desk.post(f"/v1/jobs/{job}/retry", start=start)

    async def ended_again() -> bool:
        return await desk.status(job) == "succeeded" and len(desk.runs(job)) == 3 + len(again)

    await until(ended_again)
    assert [name for name, attempt in desk.runs(job) if attempt == 2] == again


async def test_a_job_with_nothing_to_do_again_or_still_at_work_is_not_retried(desk: Desk) -> None:
    desk.worker.holds.add(("alice", "third"))
    job = await desk.begun()
    await desk.at_work(job, "third")
    assert (await desk.post(f"/v1/jobs/{job}/retry", status=409))["detail"] == "the job is running"
    await desk.worker.let_go()
    await desk.reaches(job, "succeeded")
    assert (await desk.post(f"/v1/jobs/{job}/retry", status=409))["detail"] == "there is nothing to do again"


async def test_history_tells_every_decision_and_nothing_waits_at_the_end(desk: Desk) -> None:
    job = await desk.begun()
    await desk.reaches(job, "succeeded")
    found = await desk.get(f"/v1/jobs/{job}/history")
    assert [step["input"] for step in found["steps"]] == [
        "Begin",
        "Succeeded first.1",
        "Succeeded second.1",
        "Succeeded third.1",
    ]
    assert [step["revision"] for step in found["steps"]] == [1, 2, 3, 4]
    assert f"{job}.second.1" in found["steps"][1]["effects"]
    assert (found["status"], found["waits"], found["pipeline"], found["pipeline_version"], found["revision"]) == (
        "succeeded",
        [],
        "steps",
        1,
        4,
    )


async def test_a_job_in_a_line_says_how_many_of_its_tenant_are_before_it(desk: Desk) -> None:
    desk.worker.holds.add(("alice", "only"))
    jobs = []
    for _ in range(3):
        jobs.append(await desk.begun(name="narrow"))
        await desk.is_known(jobs[-1])
    said = [(await desk.get(f"/v1/jobs/{job}/history"))["waits"] for job in jobs]
    assert [waits[0]["why"] for waits in said] == [
        "only is at work (attempt 1)",
        "only is queued until there is room",
        "only is queued behind 1 jobs of tenant alice",
    ]
    assert [waits[0]["owner"] for waits in said] == ["worker: noop", *["orchestrator: admission"] * 2]
    await desk.worker.let_go()
    for job in jobs:
        await desk.reaches(job, "succeeded")


# -- who may ----------------------------------------------------------------------------------------

STEERED = ("cancel", "pause", "resume", "retry")


async def test_a_job_of_another_tenant_is_not_there(desk: Desk) -> None:
    desk.worker.holds.add(("alice", "first"))
    job = await desk.begun()
    await desk.at_work(job, "first")
    for action in STEERED:
        theirs = await desk.post(f"/v1/jobs/{job}/{action}", "bob", 404)
        nobodys = await desk.post(f"/v1/jobs/{uuid4()}/{action}", "bob", 404)
        assert theirs | {"trace_id": None} == nobodys | {"trace_id": None}
    await desk.get(f"/v1/jobs/{job}/history", "bob", 404)
    assert await desk.audit(job) == []
    assert (await desk.post(f"/v1/jobs/{job}/cancel", "ops"))["status"] == "cancelled"


NOBODYS = UUID(int=0)  # names the same tests to each process that runs some of them
OPEN_TO_OPERATORS = [
    ("GET", "/v1/dead-letters"),
    ("GET", f"/v1/dead-letters/{NOBODYS}"),
    ("POST", f"/v1/dead-letters/{NOBODYS}/replay"),
    ("POST", f"/v1/dead-letters/{NOBODYS}/discard"),
    ("POST", "/v1/dead-letters/replay"),
    ("GET", "/v1/dead-letters/replays"),
    ("GET", f"/v1/dead-letters/replays/{NOBODYS}"),
    ("POST", f"/v1/dead-letters/replays/{NOBODYS}/pause"),
    ("POST", "/v1/jobs/upgrade"),
    ("GET", "/v1/audit"),
]
OPEN_TO_ALL = [
    *(("POST", f"/v1/jobs/{NOBODYS}/{action}") for action in STEERED),
    ("GET", f"/v1/jobs/{NOBODYS}/history"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/batches"),
    ("GET", f"/v1/batches/{NOBODYS}"),
    ("POST", f"/v1/batches/{NOBODYS}/cancel"),
    ("POST", f"/v1/batches/{NOBODYS}/retry-failed"),
]


@pytest.mark.parametrize(("method", "path"), [*OPEN_TO_OPERATORS, *OPEN_TO_ALL])
async def test_nobody_gets_in_without_a_key_that_is_known(desk: Desk, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {KEYS['eve']}"}):
        answer = await desk.http.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize(("method", "path"), OPEN_TO_OPERATORS)
async def test_what_concerns_every_tenant_needs_an_operator(desk: Desk, method: str, path: str) -> None:
    body = {"reason": "x", "filter": {"code": "X"}} if method == "POST" else None
    assert (await desk.ask(method, path, "alice", 403, json=body))["code"] == "FORBIDDEN"


async def test_an_operator_has_no_batch_of_its_own(desk: Desk) -> None:
    assert (await desk.post("/v1/batches", "ops", 403, name="x"))["code"] == "FORBIDDEN"


# -- batches ----------------------------------------------------------------------------------------


async def test_a_batch_tells_how_far_it_is_and_when_it_will_be_over(desk: Desk) -> None:
    made = await desk.post("/v1/batches", status=201, name="Müllers' wedding")
    batch = UUID(made["id"])
    assert (made["name"], made["tenant"], made["fraction"], made["eta_s"], made["ended_at"]) == (
        "Müllers' wedding",
        "alice",
        0.0,
        None,
        None,
    )
    desk.worker.holds.add(("alice", "third"))
    jobs = [await desk.begun(batch=batch) for _ in range(4)]
    for job in jobs:
        await desk.at_work(job, "third")
    half, desk.worker.held = desk.worker.held[:2], desk.worker.held[2:]
    await desk.worker.answer(*half)
    for command in half:
        await desk.reaches(command.job_id, "succeeded")
    view = await desk.get(f"/v1/batches/{batch}")
    counts = {"total": 4, "queued": 0, "running": 2, "succeeded": 2, "failed": 0, "dead": 0, "cancelled": 0}
    assert view["jobs"] == {**counts, "degraded": 0}
    assert (view["fraction"], view["ended_at"]) == (0.5, None)
    assert 0 <= view["eta_s"] < 60, "in tenths of a second"
    await desk.worker.let_go()
    for job in jobs:
        await desk.reaches(job, "succeeded")
    view = await desk.get(f"/v1/batches/{batch}")
    assert (view["fraction"], view["eta_s"]) == (1.0, None)
    assert datetime.fromisoformat(view["ended_at"]) <= now()


async def test_cancelling_a_batch_ends_what_has_not_ended(desk: Desk) -> None:
    batch = uuid4()  # nobody made it: its first job does
    finished = await desk.begun(batch=batch)
    await desk.reaches(finished, "succeeded")
    desk.worker.holds.add(("alice", "second"))
    jobs = [await desk.begun(batch=batch) for _ in range(3)]
    for job in jobs:
        await desk.at_work(job, "second")
    answer = await desk.post(f"/v1/batches/{batch}/cancel", reason="wrong folder")
    assert answer == {"id": str(batch), "jobs": 3}
    assert {await desk.status(job) for job in jobs} == {"cancelled"}
    assert await desk.status(finished) == "succeeded"
    assert await desk.post(f"/v1/batches/{batch}/cancel") == {"id": str(batch), "jobs": 0}
    [line] = await desk.audit(batch)
    assert (line["action"], line["why"]) == ("batch.cancel", "wrong folder")
    assert sorted(line["details"]["jobs"]) == sorted(map(str, jobs))


async def test_retrying_what_failed_of_a_batch_leaves_the_rest_alone(desk: Desk) -> None:
    batch = uuid4()
    good = await desk.begun(batch=batch)
    await desk.reaches(good, "succeeded")
    dead = await desk.died(batch=batch)
    failed = await desk.died(code="IMAGE_CORRUPT", batch=batch)
    assert await desk.status(failed) == "failed"
    unknown = await desk.begun(batch=batch, name="no-such-pipeline")  # nothing is known with which it could go on
    await desk.reaches(unknown, "failed")
    view = (await desk.get(f"/v1/batches/{batch}"))["jobs"]
    assert (view["total"], view["succeeded"], view["dead"], view["failed"]) == (4, 1, 1, 2)
    assert (await desk.post(f"/v1/batches/{batch}/retry-failed", reason="repaired"))["jobs"] == 2
    for job in (dead, failed):
        await desk.reaches(job, "succeeded")
    assert desk.runs(good) == [("first", 1), ("second", 1), ("third", 1)]
    assert desk.runs(dead) == [("first", 1), ("second", 1), ("second", 2), ("third", 1)]
    open_ = await desk.get("/v1/dead-letters", "ops", tenant="alice", state="open")
    assert {str(dead), str(failed)} & {item["job_id"] for item in open_["items"]} == set()
    [line] = await desk.audit(batch)
    assert sorted(line["details"]["jobs"]) == sorted([str(dead), str(failed)])


async def test_a_batch_of_another_tenant_is_not_there(desk: Desk) -> None:
    batch = (await desk.post("/v1/batches", status=201))["id"]
    [line] = await desk.audit(batch)
    assert (line["who"], line["action"], line["tenant"]) == ("tenant:alice", "batch.make", "alice")
    for who, status in (("bob", 404), ("ops", 200)):
        await desk.get(f"/v1/batches/{batch}", who, status)
        await desk.post(f"/v1/batches/{batch}/cancel", who, status)
        await desk.post(f"/v1/batches/{batch}/retry-failed", who, status)
    desk.worker.holds.add(("alice", "first"))
    mine, theirs = await desk.begun(batch=UUID(batch)), await desk.begun("bob", batch=UUID(batch))
    await desk.at_work(mine, "first")
    await desk.reaches(theirs, "succeeded")
    assert (await desk.get(f"/v1/batches/{batch}", "bob"))["jobs"]["total"] == 1, "bob's own of that name"
    assert (await desk.post(f"/v1/batches/{batch}/cancel", "bob"))["jobs"] == 0
    assert await desk.status(mine) == "running"
    await desk.worker.let_go()
    await desk.reaches(mine, "succeeded")


async def test_batches_are_listed_page_by_page_newest_first(desk: Desk) -> None:
    made = [(await desk.post("/v1/batches", status=201, name=str(n)))["id"] for n in range(5)]
    others = (await desk.post("/v1/batches", "bob", 201))["id"]
    seen: list[str] = []
    page = await desk.get("/v1/batches", limit=2)
    while True:
        seen += [item["id"] for item in page["items"]]
        if not page["next_cursor"] or len(seen) >= 5:
            break
        page = await desk.get("/v1/batches", limit=2, cursor=page["next_cursor"])
    assert seen[:5] == made[::-1]
    assert others not in seen
    assert others in {item["id"] for item in (await desk.get("/v1/batches", "ops", limit=200))["items"]}


# -- what cannot be done ----------------------------------------------------------------------------

JOB = f"/v1/jobs/{NOBODYS}"
TOO_LONG = "x" * 501
CURSORS = [
    "x",
    "é",
    "bm9uc2Vuc2U=",
    "WzEsMl0=",
    "e30=",
    "W251bGwsbnVsbF0=",
    "WyI5OTk5LTEyLTMxVDIzOjU5OjU5LTE0OjAwIiwiMSJd",
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/v1/jobs/1/cancel", {}, id="a job's id that is none"),
        pytest.param(f"{JOB}/cancel", {"reason": TOO_LONG}, id="a reason that is too long"),
        pytest.param(f"{JOB}/cancel", {"reason": "a\0b"}, id="a reason that no database holds"),
        pytest.param(f"{JOB}/cancel", {"reason": 1}, id="a reason that is no text"),
        pytest.param(f"{JOB}/cancel", [], id="a body that is no object"),
        pytest.param(f"{JOB}/retry", {"version": "latest"}, id="a version that is neither"),
        pytest.param(f"{JOB}/retry", {"parameters": 1}, id="parameters that are no object"),
        pytest.param(f"{JOB}/retry", {"parameters": {str(n): n for n in range(51)}}, id="too many parameters"),
        pytest.param(f"{JOB}/retry", {"parameters": {"a": 10**400}}, id="a number that is too large"),
        pytest.param(f"{JOB}/retry", {"parameters": {"a": {"b": [2**63]}}}, id="a number that is too large, inside"),
        pytest.param(f"{JOB}/retry", {"parameters": {"a": "\0"}}, id="a parameter that no database holds"),
        pytest.param(f"{JOB}/retry", {"from": "x" * 201}, id="a phase of 201 characters"),
        pytest.param("/v1/batches", {"name": "x" * 201}, id="a batch's name that is too long"),
        pytest.param("/v1/batches", {"name": "\0"}, id="a batch's name that no database holds"),
        pytest.param("/v1/batches/1/cancel", {}, id="a batch's id that is none"),
    ],
)
async def test_a_body_of_the_wrong_shape_is_refused(desk: Desk, path: str, body: object) -> None:
    answer = await desk.ask("POST", path, status=422, json=body)
    assert answer["code"] == "REQUEST_INVALID"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="broken off"),
        pytest.param(b'{"parameters": {"a": NaN}}', id="no number"),
        pytest.param(b'{"parameters": {"a": Infinity}}', id="no finite number"),
        pytest.param(b'{"reason": "\\ud800"}', id="half a character"),
        pytest.param(b'{"parameters": {"a": "\\ud800"}}', id="half a character in a parameter"),
        pytest.param(b'{"reason": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"parameters": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", id="nested without end"),
        pytest.param(b'{"parameters": {"a": ' + b"[" * 400 + b"]" * 400 + b"}}", id="nested deeply"),
        pytest.param(b'{"reason": "' + b"x" * 10_000_000 + b'"}', id="ten megabytes"),
    ],
)
async def test_a_body_that_is_no_decent_json_is_refused(desk: Desk, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await desk.http.post(
        f"{JOB}/retry", content=content, headers=headers | {"Authorization": f"Bearer {KEYS['alice']}"}
    )
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["status"] == answer.status_code
    assert len(answer.content) < 10_000


async def test_a_body_without_an_announced_length_is_bounded_too(desk: Desk) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS['alice']}"}
    answer = await desk.http.post(f"{JOB}/cancel", content=endless(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        *(pytest.param("/v1/batches", {"cursor": cursor}, id=f"cursor {cursor}") for cursor in CURSORS),
        pytest.param("/v1/batches", {"cursor": "x" * 201}, id="a cursor that is too long"),
        pytest.param("/v1/batches", {"limit": 0}, id="no limit at all"),
        pytest.param("/v1/batches", {"limit": 201}, id="too many at once"),
        pytest.param("/v1/batches", {"limit": "ten"}, id="a limit in words"),
        pytest.param("/v1/audit", {"cursor": 2**63}, id="a line that no audit has"),
        pytest.param("/v1/audit", {"cursor": "x"}, id="a line that is no number"),
        pytest.param("/v1/audit", {"subject": "a\0b"}, id="a subject that no database holds"),
    ],
)
async def test_a_query_of_the_wrong_shape_is_refused(desk: Desk, path: str, parameters: dict[str, Any]) -> None:
    assert (await desk.get(path, "ops", 422, **parameters))["code"] == "REQUEST_INVALID"


async def test_a_phase_or_a_parameter_that_the_pipeline_has_not_is_refused_by_name(desk: Desk) -> None:
    job = await desk.begun()
    await desk.reaches(job, "succeeded")
    told_ = await desk.post(f"/v1/jobs/{job}/retry", status=422, start="fourth")
    assert told_["detail"] == "there is no such phase; there are first, second, third"
    told_ = await desk.post(f"/v1/jobs/{job}/retry", status=422, parameters={"strenght": 1})
    assert told_["detail"] == "no phase takes such a parameter; there are aspect, strength"
    told_ = await desk.post(f"/v1/jobs/{job}/retry", status=409, start="third", parameters={"strength": 1})
    assert told_["detail"] == "no phase that it starts from takes a parameter strength"
    big = "x" * 70_000
    told_ = await desk.post(f"/v1/jobs/{job}/retry", status=409, start="third", parameters={"aspect": big})
    assert told_["detail"] == "the parameters have more than 65536 bytes"
    assert await desk.audit(job) == []


# -- lesser engines ---------------------------------------------------------------------------------


async def degraded(desk: Desk, count: int, phase: str = "second", tenant: str = "alice", **about: Any) -> list[UUID]:
    """Jobs that succeeded with a lesser engine in this phase, in the order in which they ended."""
    desk.worker.lesser.add((tenant, phase))
    jobs = []
    for _ in range(count):
        jobs.append(await desk.begun(tenant, **about))
        await desk.reaches(jobs[-1], "succeeded")
    desk.worker.lesser.clear()
    return jobs


def done_again(desk: Desk, job: UUID) -> bool:
    """Whether the last phase has been given once more."""
    return ("third", 2) in desk.runs(job)


async def test_what_a_lesser_engine_did_is_done_again_and_noted(desk: Desk) -> None:
    batch = uuid4()
    jobs = await degraded(desk, 3, batch=batch)
    [good] = await degraded(desk, 1, phase="none", batch=batch)
    would = await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), dry_run=True)
    assert (would["found"], would["jobs"], would["passed_over"], would["phases"]) == (3, 3, 0, {"second": 3})
    assert {await desk.status(job) for job in jobs} == {"succeeded"}
    assert await desk.audit(jobs[0]) == [], "a dry run does nothing"

    done = await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), reason="the GPU is back")
    assert (done["jobs"], done["phases"], done["next_cursor"]) == (3, {"second": 3}, None)

    async def better() -> bool:
        view = (await desk.get(f"/v1/batches/{batch}"))["jobs"]
        return bool(view["succeeded"] == 4 and view["degraded"] == 0)

    await until(better)
    for job in jobs:
        assert desk.runs(job) == [("first", 1), ("second", 1), ("third", 1), ("second", 2), ("third", 2)]
        [line] = await desk.audit(job)
        assert (line["who"], line["action"], line["why"]) == (OPS, "job.upgrade", "the GPU is back")
        assert line["details"]["phases"] == ["second"]
    assert all(c.engine is None and not c.force for c in desk.worker.given if c.job_id in jobs)
    assert len(desk.runs(good)) == 3
    assert (await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch)))["found"] == 0


async def test_a_walk_takes_those_first_that_have_waited_longest_and_none_twice(desk: Desk) -> None:
    batch = uuid4()
    jobs = await degraded(desk, 3, batch=batch)
    desk.worker.lesser.add(("alice", "second"))  # the GPU is gone again
    first = await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), limit=2)
    assert (first["found"], first["jobs"]) == (3, 2)
    for job in jobs[:2]:
        await until(partial(done_again, desk, job))
        await desk.reaches(job, "succeeded")
    more = {"until": first["until"], "cursor": first["next_cursor"]}
    last = await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), limit=2, **more)
    assert (last["found"], last["jobs"], last["next_cursor"]) == (1, 1, None)
    await until(partial(done_again, desk, jobs[2]))
    await desk.reaches(jobs[2], "succeeded")
    desk.worker.lesser.clear()
    assert [len(desk.runs(job)) for job in jobs] == [5, 5, 5], "what ends degraded again is left to the next walk"
    assert (await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), dry_run=True))["found"] == 3


async def test_a_walk_is_of_one_tenant_when_it_is_asked_for(desk: Desk) -> None:
    [hers] = await degraded(desk, 1, batch=(batch := uuid4()))
    [his] = await degraded(desk, 1, tenant="bob", batch=batch)
    done = await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), tenant="bob")
    assert (done["found"], done["jobs"]) == (1, 1)
    await until(partial(done_again, desk, his))
    await desk.reaches(his, "succeeded")
    assert len(desk.runs(hers)) == 3


async def test_what_was_skipped_is_passed_over_and_a_page_has_its_limits(desk: Desk) -> None:
    desk.codes["alice", "maybe"] = "OBJECT_MISSING"
    job = await desk.begun(name="forgiving", batch=(batch := uuid4()))
    await desk.reaches(job, "succeeded")
    del desk.codes["alice", "maybe"]
    for dry_run in (True, False):
        page = await desk.post("/v1/jobs/upgrade", "ops", batch=str(batch), dry_run=dry_run)
        assert (page["found"], page["jobs"], page["passed_over"]) == (1, 0, 1)
    assert await desk.audit(job) == []
    for wrong in ({"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"tenant": "\x00"}, {"until": "2026-01-01T00:00:00"}):
        assert (await desk.post("/v1/jobs/upgrade", "ops", 422, **wrong))["code"] == "REQUEST_INVALID"


async def test_a_retry_from_what_a_lesser_engine_did_may_be_forced(desk: Desk) -> None:
    [job] = await degraded(desk, 1)
    await desk.post(f"/v1/jobs/{job}/retry", start="degraded", force=True, reason="it looked wrong")
    await until(partial(done_again, desk, job))
    await desk.reaches(job, "succeeded")
    assert [(c.phase, c.force) for c in desk.worker.given if c.job_id == job and c.attempt == 2] == [
        ("second", True),
        ("third", True),
    ]
    [line] = await desk.audit(job)
    assert line["details"] == {"from": "degraded", "version": "pinned", "parameters": [], "force": True}
    told_ = await desk.post(f"/v1/jobs/{job}/retry", status=409, start="degraded")
    assert told_["detail"] == "there is nothing to do again"


# -- the audit --------------------------------------------------------------------------------------


async def test_the_audit_is_read_page_by_page_newest_first(desk: Desk) -> None:
    desk.worker.holds.add(("alice", "first"))
    job = await desk.begun()
    await desk.at_work(job, "first")
    for n in range(3):
        await desk.post(f"/v1/jobs/{job}/pause", reason=f"p{n}")
        await desk.post(f"/v1/jobs/{job}/resume", "ops", reason=f"r{n}")
    page = await desk.get("/v1/audit", "ops", subject=str(job), limit=4)
    assert [line["why"] for line in page["items"]] == ["r2", "p2", "r1", "p1"]
    page = await desk.get("/v1/audit", "ops", subject=str(job), limit=4, cursor=page["next_cursor"])
    assert [line["why"] for line in page["items"]] == ["r0", "p0"]
    assert page["next_cursor"] is None
    whole = await desk.get("/v1/audit", "ops")
    assert whole["items"][0]["why"] == "r2"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orchestrator.audit SET who = 'nobody'",
        "DELETE FROM orchestrator.audit",
        "TRUNCATE orchestrator.audit",
    ],
)
async def test_the_database_refuses_to_change_the_audit(desk: Desk, statement: str) -> None:
    job = await desk.begun()
    await desk.is_known(job)
    await desk.reaches(job, "succeeded")
    await desk.post(f"/v1/jobs/{job}/retry", start="third")
    await desk.reaches(job, "succeeded")
    async with desk.engine.connect() as conn:
        with pytest.raises(DBAPIError, match="append-only"):
            await conn.execute(text(statement))
    assert len(await desk.audit(job)) == 1


async def test_the_service_s_document_names_every_route(desk: Desk) -> None:
    document = (await desk.http.get("/openapi.json")).json()
    named = {(method.upper(), path) for path, row in document["paths"].items() for method in row}
    for method, path in [*OPEN_TO_OPERATORS, *OPEN_TO_ALL]:
        parts = path.split("/")
        assert any(m == method and len(p.split("/")) == len(parts) and _fits(p.split("/"), parts) for m, p in named), (
            path
        )
    json.dumps(document)


def _fits(row: list[str], parts: list[str]) -> bool:
    return all(a == b or a.startswith("{") for a, b in zip(row, parts, strict=True))
