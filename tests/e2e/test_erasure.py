"""Somebody's data is gone everywhere, a signed receipt says so, and what is another's too stays."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from minio import Minio
from nats.js.errors import NotFoundError

from contracts.topology import STREAMS
from stack import control
from tests.e2e.conftest import Stack, phase, phases
from tests.integration.conftest import until


async def erased(stack: Stack, **what: str) -> dict[str, Any]:
    """Ask for it, and wait for the receipt."""
    answer = await stack.client.post("/v1/erasures", json=what)
    assert answer.status_code == 202, answer.text
    return await ended(stack, answer.json()["id"])


async def ended(stack: Stack, id_: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def done() -> bool:
        nonlocal found
        try:
            found = (await stack.client.get(f"/v1/erasures/{id_}")).json()
        except httpx.HTTPError:
            return False
        return found.get("state") == "succeeded"

    try:
        await until(done, 180)  # a killed room, its lease, and the pauses between tries
    except AssertionError as problem:
        raise AssertionError(json.dumps(found)) from problem
    return found


async def left_in_storage(stack: Stack, *ids: str) -> list[str]:
    """The keys of stored objects that name one of these."""
    given = control.setup_environment(stack.home)
    client = Minio(
        given["SAFELIGHT_S3_ENDPOINT"].partition("://")[2],
        given["SAFELIGHT_S3_ACCESS_KEY"],
        given["SAFELIGHT_S3_SECRET_KEY"],
        region=given["SAFELIGHT_S3_REGION"],
        secure=False,
    )
    keys = await asyncio.to_thread(
        lambda: [str(one.object_name) for one in client.list_objects(given["SAFELIGHT_S3_BUCKET"], recursive=True)]
    )
    return [key for key in keys if any(id_ in key for id_ in ids)]


async def left_at_the_broker(stack: Stack, id_: str) -> list[str]:
    """The subjects of stored messages that name it anywhere."""
    given = control.setup_environment(stack.home)
    nc = await nats.connect(
        given["SAFELIGHT_NATS_URL"], user=given["SAFELIGHT_NATS_USER"], password=given["SAFELIGHT_NATS_PASSWORD"]
    )
    found = []
    for stream in STREAMS:
        state = (await nc.jetstream().stream_info(stream.name)).state
        for sequence in range(max(1, state.first_seq), state.last_seq + 1):
            try:
                message = await nc.jetstream().get_msg(stream.name, sequence)
            except NotFoundError:
                continue
            if id_.encode() in (message.data or b"") or id_ in str(message.headers):
                found.append(str(message.subject))
    await nc.close()
    return found


async def left_in_tables(stack: Stack, *ids: str) -> dict[str, int]:
    """Rows of any table whose text names one of these, by table."""
    return await asyncio.to_thread(_left_in_tables, stack, *ids)


def _left_in_tables(stack: Stack, *ids: str) -> dict[str, int]:
    tables = stack.rows(
        "SELECT table_schema || '.' || table_name AS name FROM information_schema.tables "
        "WHERE table_type = 'BASE TABLE' AND table_schema IN ('ingest', 'orchestrator', 'gpu_bridge', 'output')"
    )
    found = {}
    for table in tables:
        which = " OR ".join(f"t::text LIKE '%{id_}%'" for id_ in ids)
        count = stack.rows(f"SELECT count(*) AS n FROM {table['name']} AS t WHERE {which}")[0]["n"]
        if count:
            found[table["name"]] = count
    return found


# What may still name an id: that it was erased, who did what, and the ids of messages that could come again.
MAY_NAME_IT = {
    "orchestrator.audit", "orchestrator.erasures", "orchestrator.answers",
    "ingest.erased", "gpu_bridge.erased", "output.erased",
    "orchestrator.inbox", "output.inbox", "orchestrator.outbox", "ingest.outbox", "gpu_bridge.outbox",
}  # fmt: skip


async def batch(stack: Stack) -> str:
    answer = await stack.client.post("/v1/batches", json={"name": "Class 4b, Ms. Canary"})
    return str(answer.json()["id"])


async def test_a_batch_is_gone_everywhere_and_what_another_shares_with_it_stays(
    stack: Stack, samples: dict[str, Path]
) -> None:
    photo = samples["astronaut.jpg"]
    mine, other = await batch(stack), await batch(stack)
    first = await stack.ended(await stack.upload(photo, style="cool-matte", batch=mine))
    second = await stack.ended(await stack.upload(photo, style="cool-matte", batch=other))
    assert phase(first, "style")["status"] == phase(second, "style")["status"] == "succeeded"
    followed = f"SELECT count(DISTINCT call) AS n FROM gpu_bridge.commands WHERE key LIKE '{second['id']}.%'"
    [calls] = await asyncio.to_thread(stack.rows, followed)

    told = await erased(stack, batch=mine, reason="a test")
    receipt = told["receipt"]
    assert (receipt["jobs"], receipt["uploads"]) == ([first["id"]], [first["upload_id"]])
    rooms = receipt["rooms"]
    assert rooms["ingest"]["erased"] | {"objects": 1} == {
        "keys": 0,
        "objects": 1,
        "rows.idempotency": 0,
        "rows.transfers": 0,
        "rows.uploads": 1,
    }
    assert rooms["orchestrator"]["erased"] | {"rows.history": 0} == {
        "rows.jobs": 1, "rows.history": 0, "rows.dead_letters": 0, "rows.batches": 1,
    }  # fmt: skip
    assert rooms["output"]["erased"]["rows.jobs"] == 1
    assert sum(rooms[room]["erased"]["objects"] for room in ("ingest", "output")) >= 1 + 6
    assert rooms["gpu-bridge"]["kept"] == {"calls": calls["n"]}, "the other batch has the same photo"
    assert receipt["broker"]["EVENTS"] > 0

    ids = (first["id"], first["upload_id"], mine)
    assert await left_in_storage(stack, *ids) == []
    assert set(await left_in_tables(stack, *ids)) <= MAY_NAME_IT
    assert {subject.rpartition(".")[0] for subject in await left_at_the_broker(stack, first["id"])} <= {
        "evt.audit.v1", "evt.erasure.v1",
    }  # fmt: skip
    for path in (f"/v1/jobs/{first['id']}", f"/v1/batches/{mine}", f"/v1/jobs/{first['id']}/history"):
        assert (await stack.client.get(path)).status_code == 404, path
    assert await stack.artifact(second, "style.image.png")

    rest = await erased(stack, upload=second["upload_id"])
    assert rest["receipt"]["rooms"]["gpu-bridge"]["erased"]["rows.calls"] == calls["n"]
    assert rest["receipt"]["rooms"]["gpu-bridge"]["kept"] == {}
    again = await stack.client.post("/v1/erasures", json={"upload": second["upload_id"]})
    assert (again.status_code, again.json()["code"]) == (404, "NOT_FOUND")


async def test_each_access_is_a_line_of_the_audit(stack: Stack, samples: dict[str, Path]) -> None:
    job = await stack.ended(await stack.upload(samples["coffee.png"]))
    await stack.artifact(job, "variants.web.jpg")
    operator = {"Authorization": f"Bearer {stack.home.secrets()['SAFELIGHT_OPERATOR_KEY']}"}

    async def lines() -> list[tuple[str, str]]:
        found = []
        for subject in (job["id"], job["upload_id"]):
            answer = await stack.client.get("/v1/audit", params={"subject": subject}, headers=operator)
            found += [(line["who"], line["action"]) for line in answer.json()["items"]]
        return found

    async def both() -> bool:
        return len(await lines()) == 2

    await until(both)
    assert await lines() == [("tenant:demo", "artifact.read"), ("tenant:demo", "upload.received")]


async def test_a_receipt_can_be_checked_by_whoever_has_it(stack: Stack, samples: dict[str, Path]) -> None:
    job = await stack.ended(await stack.upload(samples["coffee.png"]))
    told = await erased(stack, upload=job["upload_id"])
    key = (await stack.client.get("/v1/erasures/key")).json()
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key["public_key"]))
    signed = json.dumps(told["receipt"], sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    public.verify(base64.b64decode(told["signature"]), signed)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(told["signature"]), signed.replace(b'"rows.jobs":1', b'"rows.jobs":2'))


async def test_all_about_a_subject_is_found_without_its_name_being_kept(stack: Stack, samples: dict[str, Path]) -> None:
    hers = [await stack.ended(await stack.upload(samples["coffee.png"], subject="student-4711")) for _ in range(2)]
    his = await stack.ended(await stack.upload(samples["coffee.png"], subject="student-4712"))
    assert set(await left_in_tables(stack, "student-4711")) == set()
    told = await erased(stack, subject="student-4711")
    assert told["receipt"]["jobs"] == sorted(job["id"] for job in hers)
    assert "student-4711" not in json.dumps(told)
    assert (await stack.job(his["id"]))["status"] == "succeeded"


@pytest.mark.parametrize("at", ["analyze", "style", "variants"])  # a phase of each room
async def test_what_is_at_work_is_stopped_and_a_crash_amid_it_changes_nothing(
    stack: Stack, samples: dict[str, Path], at: str
) -> None:
    answer = (await stack.upload(samples["astronaut.jpg"], style="warm-film")).json()
    ids = (answer["job_id"], answer["upload_id"])
    await stack.until(ids[0], lambda job: phases(job).get(at, "pending") not in ("pending", "ready"))
    asked = await stack.client.post("/v1/erasures", json={"upload": answer["upload_id"]})
    for name in ("ingest", "orchestrator", "output", "gpu-bridge"):
        stack.kill(name)
    await ended(stack, asked.json()["id"])
    assert await left_in_storage(stack, *ids) == []
    assert set(await left_in_tables(stack, *ids)) <= MAY_NAME_IT


async def test_what_is_held_is_erased_by_nobody(stack: Stack, samples: dict[str, Path]) -> None:
    job = await stack.ended(await stack.upload(samples["coffee.png"]))
    operator = {"Authorization": f"Bearer {stack.home.secrets()['SAFELIGHT_OPERATOR_KEY']}"}
    hold = await stack.client.post(
        "/v1/holds", json={"tenant": "demo", "upload": job["upload_id"], "reason": "a case"}, headers=operator
    )
    assert hold.status_code == 201, hold.text
    refused = await stack.client.post("/v1/erasures", json={"upload": job["upload_id"]})
    assert (refused.status_code, refused.json()["code"]) == (409, "LEGAL_HOLD")
    mine = await stack.client.post("/v1/holds", json={"tenant": "demo"})
    assert mine.status_code == 403
    released = await stack.client.post(f"/v1/holds/{hold.json()['id']}/release", headers=operator)
    assert released.json()["released_by"] == "operator:ops"
    await erased(stack, upload=job["upload_id"])
