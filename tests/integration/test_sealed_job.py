"""A sealed photo through all rooms: nothing of it lies open, its tenant reads it, and a destroyed key ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from minio import Minio

from contracts import sealed
from contracts.errors import SafelightError
from gpu_bridge.app import build
from gpu_bridge.settings import Settings
from orchestrator.pipelines import BUILT_IN
from runtime.objects import Objects
from runtime.settings import S3Settings
from tests.documents import papers, school
from tests.integration.conftest import SettingsOf
from tests.integration.rooms import Rooms, opened
from tests.integration.wire import picture, served, sha256
from tests.servers.models import NatsServer, S3Server

SECRET = """\
name: secret
version: 1
accepts: [image/jpeg]
deadline_s: 600
sealed: true
sensitive: true
phases:
  analyze:  {command: analyze, deadline_s: 60}
  style:    {command: style, deadline_s: 60, needs: [analyze], when: options.style, attachments: [lut],
             parameters: {strength: options.style_strength}}
  crop:     {command: crop, deadline_s: 60, needs: [style], parameters: {aspect: options.crop}}
  variants: {command: variants, deadline_s: 60, needs: [crop]}
"""
WINDOW = 64
MARKS = ("claim.json", "progress.json", "result.json")  # numbers and names of objects; nothing of the content


@dataclass
class House:
    rooms: Rooms
    objects: Objects
    bucket: Minio

    async def lies(self, *prefixes: str) -> dict[str, bytes]:
        """Every object under these prefixes, as it lies there."""

        def listed() -> list[str]:
            found = [
                one for prefix in prefixes for one in self.bucket.list_objects("safelight", prefix, recursive=True)
            ]
            return [str(one.object_name) for one in found]

        return {key: await self.objects.get_as_it_lies(key) for key in await asyncio.to_thread(listed)}


@pytest.fixture(scope="module")
async def house(
    prepared: object,
    settings_of: SettingsOf,
    nats_server: NatsServer,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    folder: Path = tmp_path_factory.mktemp("pipelines")
    (folder / "secret.yaml").write_text(SECRET)
    papers_ = (
        (BUILT_IN / "document.yaml").read_text().replace("name: document\n", "name: sealed-document\nsealed: true\n", 1)
    )
    (folder / "sealed-document.yaml").write_text(papers_)
    objects = Objects(settings_of(S3Settings, "setup"))
    bucket = Minio(
        f"127.0.0.1:{s3_server.port}", s3_server.access_key, s3_server.secret_key, secure=False, region="us-east-1"
    )
    async with (
        opened(settings_of, nats_server, folder) as rooms,
        served(build(settings_of(Settings, "gpu-bridge", local_workers=1))),
    ):
        yield House(rooms, objects, bucket)
    objects.close()


@pytest.fixture(scope="module")
async def job(house: House) -> dict[str, Any]:
    """A sealed photo that has been styled, cropped and rendered."""
    answer = await house.rooms.upload(pipeline="secret", style="warm-film", crop="1:1", lane="interactive")
    return await house.rooms.ended(answer)


async def test_a_sealed_photo_goes_through_every_phase(job: dict[str, Any]) -> None:
    assert job["status"] == "succeeded", job["error"]
    assert {phase["name"]: phase["status"] for phase in job["phases"]} == dict.fromkeys(
        ("analyze", "style", "crop", "variants"), "succeeded"
    )
    style = next(phase for phase in job["phases"] if phase["name"] == "style")
    assert style["degraded"]


async def test_nothing_of_it_lies_open_and_the_file_as_it_came_is_gone(house: House, job: dict[str, Any]) -> None:
    upload = job["upload_id"]
    lies = await house.lies(f"originals/{upload}", f"jobs/{job['id']}/", "calls/demo/", f"uploads/{upload}")
    assert f"uploads/{upload}" not in lies
    content = {key: data for key, data in lies.items() if not key.endswith(MARKS)}
    assert len([key for key in content if key.startswith(f"jobs/{job['id']}/")]) >= 4
    mine = [key for key in content if not key.startswith("calls/")]
    assert all(sealed.is_sealed(content[key]) for key in mine)
    assert {await house.objects.sealed_by(key) for key in mine} == {upload}
    original = picture()
    windows = {original[at : at + WINDOW] for at in range(0, len(original) - WINDOW, WINDOW)}
    open_ = {key: data for key, data in lies.items() if not sealed.is_sealed(data)}
    assert not [key for key, data in open_.items() if any(window in data for window in windows)]


async def test_what_the_gpu_function_wrote_is_sealed_too(house: House, job: dict[str, Any]) -> None:
    lies = await house.lies("calls/demo/")
    outputs = [key for key, data in lies.items() if key.endswith("/image.png") and sealed.is_sealed(data)]
    assert [key for key in outputs if await house.objects.sealed_by(key) == job["upload_id"]]


async def test_its_tenant_reads_it_whole_and_in_part(house: House, job: dict[str, Any]) -> None:
    read = house.rooms.output.get
    assert (await read(f"/v1/jobs/{job['id']}/artifacts/original")).content == picture()
    for made in job["artifacts"]:
        answer = await read(made["url"])
        assert answer.status_code == 200
        assert sha256(answer.content) == made["sha256"]
        assert (len(answer.content), answer.headers["content-type"]) == (made["size"], made["media_type"])
        part = await read(made["url"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, answer.content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{made['size']}"
        tail = await read(made["url"], headers={"Range": "bytes=-5"})
        assert tail.content == answer.content[-5:]
        beyond = await read(made["url"], headers={"Range": f"bytes={made['size']}-"})
        assert beyond.status_code == 422


async def test_a_page_gets_no_link_to_storage(house: House, job: dict[str, Any]) -> None:
    url = job["artifacts"][0]["url"]
    assert (await house.rooms.output.get(url, params={"redirect": "false"})).json() == {"url": url}


async def test_the_same_photo_under_another_key_is_made_anew(house: House, job: dict[str, Any]) -> None:
    again = await house.rooms.ended(await house.rooms.upload(pipeline="secret", style="warm-film", lane="interactive"))
    assert again["status"] == "succeeded"
    one, other = ({made["sha256"] for made in each["artifacts"] if made["phase"] == "style"} for each in (job, again))
    assert one == other, "hashes are of the content"
    lies = await house.lies("calls/demo/")
    keys = {await house.objects.sealed_by(key) for key, data in lies.items() if sealed.is_sealed(data)}
    assert {job["upload_id"], again["upload_id"]} <= keys


async def test_when_its_key_is_destroyed_nobody_reads_it_and_work_on_it_says_why(house: House) -> None:
    job = await house.rooms.ended(await house.rooms.upload(pipeline="secret", crop="4:5", lane="interactive"))
    assert await house.objects.vault.destroy(job["upload_id"])
    answer = await house.rooms.output.get(f"/v1/jobs/{job['id']}/artifacts/original")
    assert (answer.status_code, answer.json()["code"]) == (410, "KEY_DESTROYED")
    for options in ({"crop": "1:1"}, {"style": "mono"}):  # one is output's work, the other a GPU function's
        edited = await house.rooms.ended(await house.rooms.ingest.post(f"/v1/jobs/{job['id']}/re-edit", json=options))
        assert (edited["status"], edited["error"]["code"]) == ("failed", "KEY_DESTROYED")


async def test_a_report_card_is_sealed_page_by_page_and_delivered_to_its_tenant(house: House) -> None:
    card = school.report_card(5, subjects=3)
    file = papers.pdf([papers.Born(card), papers.Blank()])
    job = await house.rooms.ended(await house.rooms.upload(file, pipeline="sealed-document", template="report-card"))
    assert job["status"] == "succeeded", job["error"]
    lies = await house.lies(f"originals/{job['upload_id']}", f"uploads/{job['upload_id']}", f"jobs/{job['id']}/")
    assert len(lies) >= 6
    assert [key for key, data in lies.items() if not sealed.is_sealed(data)] == []
    text = next(made for made in job["artifacts"] if made["name"] == "document.txt")
    read = (await house.rooms.output.get(text["url"])).text
    assert [value for _, value in card.fields.values() if value not in read] == []


async def test_a_photo_of_an_open_pipeline_lies_open(house: House) -> None:
    """The fixture of these tests would find what is not sealed."""
    answer = (await house.rooms.upload()).json()
    lies = await house.lies(f"uploads/{answer['upload_id']}")
    assert list(lies.values()) == [picture()]
    with pytest.raises(SafelightError, match="KEY_DESTROYED"):
        await house.objects.vault.open(str(uuid4()))
