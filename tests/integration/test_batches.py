"""Batches through three rooms: what they set, when they take no more, what becomes of a content twice, and one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from nats.aio.client import Client

from contracts.batches import BatchSettings
from contracts.errors import SafelightError
from ingest.batches import REMEMBER_S, Batches
from tests.integration.conftest import SettingsOf, until
from tests.integration.rooms import OTHER_KEY, Rooms, opened
from tests.integration.wire import Told, picture, served, told
from tests.servers.models import NatsServer

HOOK = "https://shop.example.com/hooks"


@pytest.fixture(scope="module")
async def rooms(
    prepared: object, settings_of: SettingsOf, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rooms]:
    async with opened(settings_of, nats_server, tmp_path_factory.mktemp("pipelines")) as made:
        yield made


async def batch(rooms: Rooms, **wanted: Any) -> str:
    answer = await rooms.orchestrator.post("/v1/batches", json={"pipeline": "edited", **wanted})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def upload(rooms: Rooms, of: str, content: bytes | None = None, key: str | None = None, **fields: str) -> Any:
    """An upload that names no pipeline unless it is told to."""
    headers = {"Idempotency-Key": key} if key else {}
    files = {"file": ("f", content or picture())}
    return await rooms.ingest.post("/v1/uploads", data={"batch": of, **fields}, files=files, headers=headers)


async def close(rooms: Rooms, of: str) -> dict[str, Any]:
    answer = await rooms.orchestrator.post(f"/v1/batches/{of}/close")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ends(nc: Client, of: str) -> list[Told]:
    return [one for one in await told(nc, of) if one.subject == "evt.batch.v1.ended"]


# -- settings -------------------------------------------------------------------------------------


async def test_what_a_batch_sets_holds_for_an_upload_that_does_not_say_otherwise(rooms: Rooms, nc: Client) -> None:
    wanted = {"style": "mono", "options": {"crop": "4:5", "straighten": False}, "webhook": HOOK}
    mine = await batch(rooms, name="wedding", **wanted)
    plain, other = await upload(rooms, mine), await upload(rooms, mine, crop="1:1", pipeline="photo")
    one, two = [(await told(nc, answer.json()["job_id"]))[0].body for answer in (plain, other)]
    assert (one["pipeline"], two["pipeline"]) == ("edited", "photo")
    assert one["options"]["style"].startswith("mono@")
    assert (one["options"]["crop"], one["options"]["straighten"]) == ("4:5", False)
    assert (two["options"]["crop"], two["options"]["straighten"]) == ("1:1", False)
    assert one["attachments"]["lut"]["key"].startswith("styles/mono/")
    shown = (await rooms.orchestrator.get(f"/v1/batches/{mine}")).json()
    assert (shown["options"], shown["webhook"]) == ({"crop": "4:5", "straighten": False, "style": "mono"}, HOOK)
    [made] = [one for one in await told(nc, mine) if one.subject == "evt.batch.v1.created"]
    assert (made.body["tenant"], made.body["webhook"]) == ("demo", HOOK)
    assert "wedding" not in str(made), "what people call it is theirs"


async def test_only_ones_own_batch_can_be_named(rooms: Rooms) -> None:
    theirs = await rooms.orchestrator.post("/v1/batches", headers={"Authorization": f"Bearer {OTHER_KEY}"})
    for unknown in (str(uuid4()), theirs.json()["id"]):
        answer = await upload(rooms, unknown)
        assert (answer.status_code, answer.json()["code"]) == (422, "BATCH_UNKNOWN")
        assert (await rooms.orchestrator.get(f"/v1/batches/{unknown}")).status_code == 404, "naming it makes none"


async def test_an_open_batch_is_called_something_else_and_told_elsewhere(rooms: Rooms) -> None:
    mine = await batch(rooms, name="a", webhook=HOOK)
    url = f"/v1/batches/{mine}"
    assert (await rooms.orchestrator.patch(url, json={"name": "b"})).json()["webhook"] == HOOK
    changed = (await rooms.orchestrator.patch(url, json={"webhook": None})).json()
    assert (changed["name"], changed["webhook"]) == ("b", None)
    await close(rooms, mine)
    answer = await rooms.orchestrator.patch(url, json={"name": "c"})
    assert (answer.status_code, answer.json()["code"]) == (409, "BATCH_CLOSED")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        pytest.param({"pipeline": "no-such"}, "PIPELINE_UNKNOWN", id="a pipeline that there is not"),
        pytest.param({"options": {"crop": "7:9"}}, "REQUEST_INVALID", id="a crop that there is not"),
        pytest.param({"options": {"croop": "4:5"}}, "REQUEST_INVALID", id="an option that there is not"),
        pytest.param({"style": "a", "options": {"style": "b"}}, "REQUEST_INVALID", id="two styles"),
        pytest.param({"duplicates": "drop"}, "REQUEST_INVALID", id="a policy that there is not"),
        pytest.param({"webhook": "ftp://x.example"}, "REQUEST_INVALID", id="a webhook that is none"),
        pytest.param({"webhook": "https://me:secret@x.example/"}, "REQUEST_INVALID", id="a webhook with a password"),
        pytest.param({"webhook": "https://x.example/\r\nHost: y"}, "REQUEST_INVALID", id="a webhook with a line in it"),
    ],
)
async def test_settings_that_cannot_be_are_refused(rooms: Rooms, wanted: dict[str, Any], code: str) -> None:
    answer = await rooms.orchestrator.post("/v1/batches", json=wanted)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


# -- its end --------------------------------------------------------------------------------------


async def test_a_closed_batch_takes_nothing_more_and_ends_once_with_its_last_job(rooms: Rooms, nc: Client) -> None:
    mine = await batch(rooms, webhook=HOOK)
    first = await rooms.ended(await upload(rooms, mine))
    rooms.worker.holds = {("demo", "look")}
    second = await upload(rooms, mine, picture(width=100))
    await until(lambda: rooms.worker.held)
    shown = await close(rooms, mine)
    assert (shown["state"], shown["jobs"]["total"]) == ("closed", 2)
    await asyncio.sleep(REMEMBER_S)  # so long ingest may remember that it was open
    late = await upload(rooms, mine)
    assert (late.status_code, late.json()["code"]) == (409, "BATCH_CLOSED")
    assert (await close(rooms, mine))["closed_at"] == shown["closed_at"], "closed again it stays as it was"
    assert await ends(nc, mine) == []
    await rooms.worker.let_go()
    await rooms.ended(second)
    [end] = await until(lambda: ends(nc, mine))
    assert (end.body["jobs"], end.body["webhook"]) == ({"succeeded": 2}, HOOK)
    answer = await rooms.orchestrator.post(f"/v1/jobs/{first['id']}/retry", json={"from": "start"})
    assert answer.status_code == 200, answer.text
    await until(lambda: rooms.done(first["id"]).count("forms") == 2)
    await rooms.ended({"job_id": first["id"]})
    other = await batch(rooms)
    await close(rooms, other)
    await until(lambda: ends(nc, other))
    assert len(await ends(nc, mine)) == 1, "what works again afterwards does not end it twice"


async def test_a_batch_whose_jobs_ended_before_it_was_closed_ends_then(rooms: Rooms, nc: Client) -> None:
    mine = await batch(rooms)
    rooms.worker.codes = {("demo", "frame"): "IMAGE_CORRUPT"}
    job = await rooms.ended(await upload(rooms, mine))
    rooms.worker.codes.clear()
    assert (job["status"], await ends(nc, mine)) == ("failed", [])
    await close(rooms, mine)
    [end] = await until(lambda: ends(nc, mine))
    assert end.body["jobs"] == {"failed": 1}


async def test_every_upload_that_was_answered_before_the_close_is_in_the_count(rooms: Rooms, nc: Client) -> None:
    mine = await batch(rooms)
    answers = await asyncio.gather(*(upload(rooms, mine, picture(width=60 + n)) for n in range(12)))
    assert {answer.status_code for answer in answers} == {202}
    await close(rooms, mine)
    [end] = await until(lambda: ends(nc, mine))
    assert end.body["jobs"] == {"succeeded": 12}


async def test_a_batch_cannot_be_closed_while_nobody_knows_what_has_come_in(
    rooms: Rooms, nats_server: NatsServer, nc: Client
) -> None:
    mine = await batch(rooms)
    await rooms.ended(await upload(rooms, mine))
    await asyncio.to_thread(nats_server.kill)
    try:
        answer = await rooms.orchestrator.post(f"/v1/batches/{mine}/close")
        assert (answer.status_code, answer.json()["code"]) == (503, "BROKER_UNAVAILABLE")
    finally:
        await asyncio.to_thread(nats_server.restart)

    async def closed() -> bool:
        return (await rooms.orchestrator.post(f"/v1/batches/{mine}/close")).status_code == 200

    await until(closed)
    await until(lambda: nc.is_connected)
    [end] = await until(lambda: ends(nc, mine))
    assert end.body["jobs"] == {"succeeded": 1}


async def test_what_was_heard_of_a_batch_holds_for_a_while_when_nobody_can_be_asked() -> None:
    app, mine = FastAPI(), uuid4()
    app.state.draining = asyncio.Event()

    @app.get("/internal/tenants/{tenant}/batches/{batch_id}")
    async def settings(tenant: str, batch_id: UUID) -> BatchSettings:
        return BatchSettings(state="open", options={"crop": "4:5"})

    async with served(app) as site:
        client = httpx.AsyncClient(base_url=site.url)
        batches = Batches(client)
        assert (await batches.open("demo", mine)).options == {"crop": "4:5"}
    await asyncio.sleep(REMEMBER_S)
    assert (await batches.open("demo", mine)).options == {"crop": "4:5"}, "as it was heard last"
    with pytest.raises(SafelightError, match="SERVICE_UNAVAILABLE"):
        await batches.open("demo", uuid4())
    with pytest.raises(SafelightError, match="SERVICE_UNAVAILABLE"):
        await batches.open("other", mine)
    await client.aclose()


# -- a content twice ------------------------------------------------------------------------------


async def kept(rooms: Rooms, mine: str) -> int:
    return int((await rooms.orchestrator.get(f"/v1/batches/{mine}")).json()["jobs"]["total"])


@pytest.mark.parametrize(
    ("policy", "statuses", "jobs"),
    [
        pytest.param("reuse", [202] * 6, 1, id="gets the job that is there"),
        pytest.param("refuse", [202] + [409] * 5, 1, id="is refused"),
        pytest.param("keep", [202] * 6, 6, id="is kept"),
    ],
)
async def test_of_equal_files_at_the_same_time_one_wins(
    rooms: Rooms, policy: str, statuses: list[int], jobs: int
) -> None:
    mine = await batch(rooms, duplicates=policy)
    content = picture(width=uuid4().int % 40 + 120)
    answers: list[httpx.Response] = await asyncio.gather(*(upload(rooms, mine, content) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == statuses
    taken = [answer.json() for answer in answers if answer.status_code == 202]
    assert len({answer["job_id"] for answer in taken}) == jobs
    assert sum(answer["duplicate"] for answer in taken) == len(taken) - jobs
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "DUPLICATE_UPLOAD"
            assert taken[0]["job_id"] in answer.json()["detail"]
    for answer in taken:
        await rooms.ended({"job_id": answer["job_id"]})
    assert await kept(rooms, mine) == jobs
    elsewhere = await upload(rooms, await batch(rooms, duplicates=policy), content)
    assert not elsewhere.json()["duplicate"], "another batch has not seen it"


@pytest.mark.parametrize("policy", ["reuse", "refuse"])
async def test_the_same_request_again_is_no_duplicate(rooms: Rooms, policy: str) -> None:
    mine, key = await batch(rooms, duplicates=policy), uuid4().hex
    answers = await asyncio.gather(*(upload(rooms, mine, key=key) for _ in range(4)))
    assert [answer.status_code for answer in answers] == [202] * 4
    assert len({answer.text for answer in answers}) == 1, "all are told what the first was"
    again = await upload(rooms, mine, key=uuid4().hex)
    assert again.status_code == (202 if policy == "reuse" else 409)
