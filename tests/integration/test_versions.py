"""Versions of an upload through three rooms: only what a change reaches is done again, and each stays readable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from nats.aio.client import Client

from tests.integration.conftest import SettingsOf, until
from tests.integration.rooms import OTHER_KEY, Rooms, opened
from tests.integration.wire import acts
from tests.servers.models import NatsServer


@pytest.fixture(scope="module")
async def rooms(
    prepared: object, settings_of: SettingsOf, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rooms]:
    async with opened(settings_of, nats_server, tmp_path_factory.mktemp("pipelines")) as made:
        yield made


@pytest.fixture(scope="module")
async def first(rooms: Rooms) -> dict[str, Any]:
    """A finished job with a style."""
    job = await rooms.ended(await rooms.upload(style="mono", crop="1:1"))
    assert job["status"] == "succeeded", job
    return job


async def edit(rooms: Rooms, job_id: str, key: str | None = None, **wanted: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return await rooms.ingest.post(f"/v1/jobs/{job_id}/re-edit", json=wanted, headers=headers)


async def test_another_crop_does_the_crop_again_and_what_follows(
    rooms: Rooms, first: dict[str, Any], nc: Client
) -> None:
    answer = await edit(rooms, first["id"], crop="4:5")
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{answer.json()['job_id']}")
    job = await rooms.ended(answer)
    assert rooms.done(job["id"]) == ["frame", "forms"]
    assert (job["edit_of"], job["upload_id"], job["version"]) == (first["id"], first["upload_id"], 2)
    assert job["options"] == {**first["options"], "crop": "4:5"}
    made_by = {phase["name"]: phase["made_by"] for phase in job["phases"]}
    assert made_by == {"look": first["id"], "grade": first["id"], "frame": None, "forms": None}
    [frame] = [one for one in rooms.worker.given if str(one.job_id) == job["id"] and one.phase == "frame"]
    assert frame.inputs["image"].key == f"jobs/{first['id']}/grade/1/image.png", "it reads what was there"
    edits = [about for _, action, about in await acts(nc, job["upload_id"]) if action == "upload.edited"]
    assert edits == [{"job": job["id"], "edit_of": first["id"], "version": 2, "changed": ["crop"]}]
    await rooms.ended(await edit(rooms, job["id"], crop="5:4"))


async def test_another_style_is_pinned_and_its_phase_is_done_again(rooms: Rooms, first: dict[str, Any]) -> None:
    job = await rooms.ended(await edit(rooms, first["id"], style="warm-film"))
    assert rooms.done(job["id"]) == ["grade", "frame", "forms"]
    assert job["options"]["style"].startswith("warm-film@")
    lut = next(one for one in rooms.worker.given if str(one.job_id) == job["id"]).inputs["lut"]
    assert lut.key.startswith("styles/warm-film/")
    without = await rooms.ended(await edit(rooms, job["id"], style=None, crop=None))
    assert rooms.done(without["id"]) == ["frame", "forms"]
    assert (without["options"]["style"], without["options"]["crop"]) == (None, "original")


async def test_all_versions_are_shown_side_by_side_and_stay_readable(rooms: Rooms) -> None:
    job = await rooms.ended(await rooms.upload(style="mono"))
    second = await rooms.ended(await edit(rooms, job["id"], style_strength=0.5))
    third = await rooms.ended(await edit(rooms, second["id"], crop="4:5"))
    shown = [(await rooms.output.get(f"/v1/jobs/{one['id']}/versions")).json() for one in (job, second, third)]
    assert shown[0] == shown[1] == shown[2]
    versions = [(v["version"], v["job_id"], v["edit_of"], v["status"]) for v in shown[0]["versions"]]
    assert versions == [
        (1, job["id"], None, "succeeded"),
        (2, second["id"], job["id"], "succeeded"),
        (3, third["id"], second["id"], "succeeded"),
    ]
    assert [v["options"]["style_strength"] for v in shown[0]["versions"]] == [1.0, 0.5, 0.5]
    assert (await rooms.ended({"job_id": job["id"]})) == job, "the first is what it was"
    links = []
    for one in (job, second, third):
        link = await rooms.output.get(f"/v1/jobs/{one['id']}/artifacts/grade.image.png?redirect=false")
        links.append(link.json()["url"].partition("?")[0])
    assert links[0] != links[1] == links[2], "the third shows what the second made"


async def test_an_upgrade_and_a_retry_of_a_version_work_under_its_own_name(rooms: Rooms) -> None:
    rooms.worker.lesser = {("demo", "grade")}
    job = await rooms.ended(await rooms.upload(style="mono"))
    rooms.worker.lesser.clear()
    version = await rooms.ended(await edit(rooms, job["id"], crop="4:5"))
    assert version["degraded"], "it shows what a lesser engine made"
    answer = await rooms.orchestrator.post(f"/v1/jobs/{version['id']}/retry", json={"from": "degraded"})
    assert answer.status_code == 200, answer.text

    async def better() -> bool:
        found = (await rooms.output.get(f"/v1/jobs/{version['id']}")).json()
        return found["status"] == "succeeded" and not found["degraded"]

    await until(better)
    assert rooms.done(version["id"]) == ["frame", "forms", "grade", "frame", "forms"]
    assert (await rooms.output.get(f"/v1/jobs/{job['id']}")).json()["degraded"], "the first is untouched"


async def test_two_edits_at_once_have_two_numbers_and_the_same_key_makes_one(rooms: Rooms) -> None:
    job = await rooms.ended(await rooms.upload())
    answers = await asyncio.gather(*(edit(rooms, job["id"], crop=crop) for crop in ("1:1", "4:5", "3:2")))
    assert sorted(answer.json()["version"] for answer in answers) == [2, 3, 4]
    again = await asyncio.gather(*(edit(rooms, job["id"], "one-key", crop="16:9") for _ in range(3)))
    assert {answer.status_code for answer in again} == {202}
    assert len({answer.json()["job_id"] for answer in again}) == 1
    assert again[0].json()["version"] == 5
    other = await edit(rooms, job["id"], "one-key", crop="9:16")
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        pytest.param({}, "REQUEST_INVALID", id="nothing"),
        pytest.param({"crop": "7:9"}, "REQUEST_INVALID", id="a crop that there is not"),
        pytest.param({"pipeline": "photo"}, "REQUEST_INVALID", id="another pipeline"),
        pytest.param({"batch": str(uuid4())}, "REQUEST_INVALID", id="another batch"),
        pytest.param({"style": "no-such-style"}, "STYLE_UNKNOWN", id="a style that there is not"),
        pytest.param({"style": "\ud800"}, "STYLE_UNKNOWN", id="half a character"),
        pytest.param({"style_strength": float("nan")}, "REQUEST_INVALID", id="no number"),
    ],
)
async def test_what_cannot_be_is_refused(
    rooms: Rooms, first: dict[str, Any], wanted: dict[str, Any], code: str
) -> None:

    body = json.dumps(wanted)
    answer = await rooms.ingest.post(
        f"/v1/jobs/{first['id']}/re-edit", content=body, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


async def test_only_ones_own_job_that_has_succeeded_can_be_edited(rooms: Rooms, first: dict[str, Any]) -> None:
    assert (await edit(rooms, str(uuid4()), crop="1:1")).status_code == 404
    stranger = {"Authorization": f"Bearer {OTHER_KEY}"}
    url = f"/v1/jobs/{first['id']}"
    assert (await rooms.ingest.post(f"{url}/re-edit", json={"crop": "1:1"}, headers=stranger)).status_code == 404
    assert (await rooms.output.get(f"{url}/versions", headers=stranger)).status_code == 404
    rooms.worker.holds = {("demo", "look")}
    running = await rooms.upload()
    await until(lambda: rooms.worker.held)
    answer = await edit(rooms, running.json()["job_id"], crop="1:1")
    assert (answer.status_code, answer.json()["code"]) == (409, "STATE_CONFLICT")
    await rooms.worker.let_go()
    await rooms.ended(running)


async def test_while_the_broker_is_away_an_edit_is_kept_and_the_same_key_finds_it(
    rooms: Rooms, nats_server: NatsServer
) -> None:
    job, key = await rooms.ended(await rooms.upload()), uuid4().hex
    await asyncio.to_thread(nats_server.kill)
    try:
        answer = await edit(rooms, job["id"], key, crop="1:1")
        assert (answer.status_code, answer.json()["code"]) == (503, "BROKER_UNAVAILABLE")
    finally:
        await asyncio.to_thread(nats_server.restart)

    async def again() -> Any:
        answer = await edit(rooms, job["id"], key, crop="1:1")
        return answer if answer.status_code == 202 else None

    answer = await until(again)
    version = await rooms.ended(answer)
    assert (version["version"], rooms.done(version["id"])) == (2, ["frame", "forms"])
    assert len((await rooms.output.get(f"/v1/jobs/{job['id']}/versions")).json()["versions"]) == 2
