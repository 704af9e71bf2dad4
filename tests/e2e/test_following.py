"""Following a job: events that miss nothing, one trace from the request to the last variant, logs that say whose."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from stack import control
from tests.e2e.conftest import Stack

HOPS = {
    "POST /v1/uploads",
    "decide Begin",
    "decide Succeeded",
    "process cmd.analysis.v1.run",
    "accept style.apply",
    "call style.apply",
    "accept retouch.faces",
    "call retouch.faces",
    "gpu.engine",
    "process cmd.render.v1.run.crop",
    "process cmd.render.v1.run.variants",
}


async def events(
    stack: Stack, job_id: str, last: str | None = None, stop_after: int | None = None
) -> list[dict[str, Any]]:
    """A job's events; the connection is dropped after `stop_after`."""
    found: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": last} if last else {}
    async with stack.client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        if answer.status_code == 204:
            return []
        one: dict[str, Any] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                one[name] = json.loads(value) if name == "data" else value
            elif not line and one:
                found.append(one)
                one = {}
                if stop_after and len(found) == stop_after:
                    break
    return found


async def test_the_stream_tells_everything_in_order_and_ends_with_the_job(
    stack: Stack, samples: dict[str, Path]
) -> None:
    answer = await stack.upload(samples["astronaut.jpg"], style="mono")
    told = await events(stack, answer.json()["job_id"])
    types = [one["event"] for one in told]
    assert types[:2] == ["upload.v1.received", "job.v1.started"]
    assert types[-1] == "job.v1.succeeded"
    assert "phase.v1.progressed" in types
    ids = [int(one["id"]) for one in told]
    assert ids == sorted(set(ids))
    changes = [change for one in told for change in one["data"].get("changes", [])]
    done = [change["phase"] for change in changes if change["status"] == "succeeded"]
    assert done == ["analyze", "style", "retouch", "crop", "variants"]


async def test_a_reader_that_comes_back_has_missed_nothing(stack: Stack, samples: dict[str, Path]) -> None:
    job_id = (await stack.upload(samples["astronaut.jpg"], style="mono")).json()["job_id"]
    first = await events(stack, job_id, stop_after=3)
    rest = await events(stack, job_id, last=first[-1]["id"])
    whole = await events(stack, job_id)
    assert [one["id"] for one in first + rest] == [one["id"] for one in whole]
    assert await events(stack, job_id, last=whole[-1]["id"]) == []


async def test_no_event_or_answer_names_a_storage_credential(stack: Stack, samples: dict[str, Path]) -> None:
    job_id = (await stack.upload(samples["coffee.png"])).json()["job_id"]
    told = json.dumps(await events(stack, job_id))
    secrets = stack.home.secrets().values()
    assert not [secret for secret in secrets if secret in told]


async def test_one_trace_from_the_request_to_the_last_variant(stack: Stack, samples: dict[str, Path]) -> None:
    answer = await stack.upload(samples["astronaut.jpg"], style="mono")
    job = await stack.ended(answer)
    trace_id = answer.json()["trace_id"]
    assert job["trace_id"] == trace_id
    await asyncio.to_thread(stack.spans.wait_for, partial(is_whole, trace_id), 30)
    spans = stack.spans.trace(trace_id)
    by_id = {span.span_id: span for span in spans}
    assert {span.name for span in spans} >= HOPS
    roots = [span for span in spans if span.parent_id not in by_id]
    assert [(root.name, root.service) for root in roots] == [("POST /v1/uploads", "safelight-console")]
    ancestry = {span.name: [up.name for up in lineage(span, by_id)] for span in spans}
    assert "POST /v1/uploads" in ancestry["decide Begin"]
    assert ancestry["process cmd.analysis.v1.run"][0] == "decide Begin"
    assert ancestry["gpu.engine"][:3] == ["gpu.call", "call style.apply", "accept style.apply"] or (
        ancestry["gpu.engine"][:3] == ["gpu.call", "call retouch.faces", "accept retouch.faces"]
    )
    assert "process cmd.analysis.v1.run" in ancestry["process cmd.render.v1.run.variants"]
    assert {span.service for span in spans} == {
        f"safelight-{name}" for name in ("console", "ingest", "orchestrator", "gpu-bridge", "output")
    }


def is_whole(trace_id: str, seen: list[Any]) -> bool:
    """Every hop of the trace has been exported, and everybody's parent: each process does so at its own pace."""
    spans = [span for span in seen if span.trace_id == trace_id]
    known = {span.span_id for span in spans}
    return {span.name for span in spans} >= HOPS and sum(span.parent_id not in known for span in spans) == 1


def lineage(span: Any, by_id: dict[str, Any]) -> list[Any]:
    """A span's ancestors, nearest first."""
    found = []
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        found.append(span)
    return found


async def test_logs_name_the_job_the_phase_the_attempt_and_the_trace(stack: Stack, samples: dict[str, Path]) -> None:
    whole = samples["china.jpg"].read_bytes()
    answer = await stack.upload(whole[:5000])
    job = await stack.ended(answer)
    lines = [json.loads(line) for line in control.tail(stack.home.log("ingest"), 500) if line.startswith("{")]
    failed = [line for line in lines if line["event"] == "phase.failed" and line["job"] == job["id"]]
    assert [(line["phase"], line["attempt"], line["trace_id"]) for line in failed] == [
        ("analyze", 1, answer.json()["trace_id"])
    ]


async def test_a_list_is_paged_and_filtered(stack: Stack, samples: dict[str, Path]) -> None:
    for _ in range(3):
        await stack.ended(await stack.upload(samples["coffee.png"]))
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": "2", "status": "succeeded"} | ({"cursor": cursor} if cursor else {})
        page = (await stack.client.get("/v1/jobs", params=query)).json()
        assert {job["status"] for job in page["items"]} <= {"succeeded"}
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None or len(seen) >= 6:
            break
    assert len(seen) == len(set(seen)) >= 3
    bad = await stack.client.get("/v1/jobs", params={"cursor": "bm9uc2Vuc2U="})
    assert (bad.status_code, bad.json()["code"]) == (422, "REQUEST_INVALID")


async def test_a_batch_is_followed_as_a_whole(stack: Stack, samples: dict[str, Path]) -> None:
    made = (await stack.client.post("/v1/batches", json={"name": "two photos"})).json()
    uploads = [await stack.upload(samples[name], batch=made["id"]) for name in ("coffee.png", "astronaut.jpg")]
    jobs = [await stack.ended(upload) for upload in uploads]
    listed = (await stack.client.get("/v1/jobs", params={"batch": made["id"]})).json()["items"]
    assert {job["id"] for job in listed} == {job["id"] for job in jobs}
    assert {job["batch_id"] for job in listed} == {made["id"]}
    batch = (await stack.client.get(f"/v1/batches/{made['id']}")).json()
    assert (batch["jobs"]["total"], batch["jobs"]["succeeded"], batch["fraction"]) == (2, 2, 1)


async def test_an_operator_follows_any_job_and_its_history(stack: Stack, samples: dict[str, Path]) -> None:
    job = await stack.ended(await stack.upload(samples["coffee.png"]))
    key = stack.home.secrets()["SAFELIGHT_OPERATOR_KEY"]
    async with httpx.AsyncClient(base_url=stack.base_url, headers={"Authorization": f"Bearer {key}"}) as operator:
        assert (await operator.get(f"/v1/jobs/{job['id']}")).json()["status"] == "succeeded"
        history = (await operator.get(f"/v1/jobs/{job['id']}/history")).json()
        assert (history["status"], history["revision"]) == ("succeeded", job["revision"])
        picture = await operator.get(f"/v1/jobs/{job['id']}/artifacts/original")
        assert (picture.status_code, picture.json()["code"]) == (403, "FORBIDDEN")
        late = await operator.post(f"/v1/jobs/{job['id']}/cancel", json={"reason": "a test"})
        assert (late.status_code, late.json()["code"]) == (409, "STATE_CONFLICT")
    assert (await stack.client.get("/v1/dead-letters")).status_code == 403
