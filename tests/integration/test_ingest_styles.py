"""Styles on real servers: what a job has made becomes a version once, and a photo is given the one that it means."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4
from zipfile import ZipFile

import httpx
import pytest
from nats.aio.client import Client
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import Artifact
from contracts.jobs import JOB_SUCCEEDED, JobSucceeded, PhaseChange, Status
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from ingest import store
from ingest.app import build
from ingest.intake import CUBE, CUBE_BYTES_MAX, ZIP
from ingest.settings import Settings
from ingest.store import Style
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import outgoing, publish
from runtime.vault import sealing
from stack.styles import cube
from tests.integration.conftest import SettingsOf, until
from tests.integration.wire import acts, picture, served, sha256, stored, told

MINE, THEIRS = "a-key-of-the-tests-1", "a-key-of-the-tests-2"
LOOK = cube("mono").encode()


def pairs() -> bytes:
    """An archive as a person would send it; what is in it is the engine's to judge."""
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        for n in range(5):
            archive.writestr(f"before/{n}.jpg", picture(width=64 + n))
            archive.writestr(f"after/{n}.jpg", picture(width=64 + n))
    return file.getvalue()


@dataclass
class House:
    """Ingest as two tenants, its database and its bucket see it."""

    mine: httpx.AsyncClient
    theirs: httpx.AsyncClient
    engine: AsyncEngine
    objects: Objects
    nc: Client

    async def sent(self, path: str, content: bytes, **fields: str) -> httpx.Response:
        return await self.mine.post(path, data=fields, files={"file": ("f", content)})

    async def training(self, name: str) -> UUID:
        """A training that was begun; its job's id."""
        answer = await self.sent("/v1/styles", pairs(), name=name)
        assert answer.status_code == 202, answer.text
        return UUID(answer.json()["job_id"])

    async def ends(
        self, job: UUID, revision: int = 3, again: str = "", key_id: str | None = None, **made: bytes
    ) -> None:
        """Publish that the job has succeeded, with these artifacts (by name, `_` for a dot), sealed under a key."""
        artifacts = []
        for name, content in made.items():
            with sealing(key_id):
                ref = (await stored(self.objects, content, CUBE)).model_copy(update={"sealed": key_id})
            artifacts.append(Artifact(**ref.model_dump(), name=name.replace("_", ".")))
        now = datetime.now(UTC)
        change = PhaseChange(
            phase="train",
            status=Status.SUCCEEDED,
            attempt=1,
            engine="pairs-lut@1",
            degraded=True,
            artifacts=artifacts,
            facts={"pairs_used": 5, "psnr": 41.9},
        )
        event = JobSucceeded(job_id=job, tenant="demo", revision=revision, at=now, changes=[change], degraded=True)
        id_ = f"{job}.{revision}{again}"
        await publish(
            self.nc.jetstream(), [outgoing(JOB_SUCCEEDED, event, message_id=id_, key=str(job), source="test")]
        )

    async def versions(self, name: str, at_least: int = 1) -> list[dict[str, Any]]:
        """The versions of a style, newest first, as soon as there are so many."""

        async def there() -> list[dict[str, Any]]:
            answer = await self.mine.get(f"/v1/styles/{name}")
            found: list[dict[str, Any]] = answer.json()["versions"] if answer.status_code == 200 else []
            return found if len(found) >= at_least else []

        found: list[dict[str, Any]] = await until(there)
        return found

    async def photo(self, style: str, client: httpx.AsyncClient | None = None) -> UploadReceived:
        """What the orchestrator is told of a photo that names this style."""
        answer = await (client or self.mine).post("/v1/uploads", data={"style": style}, files={"file": picture()})
        assert answer.status_code == 202, answer.text
        [event] = [one for one in await told(self.nc, answer.json()["job_id"]) if "upload" in one.subject]
        return UploadReceived.model_validate(event.body)


@pytest.fixture(scope="module")
async def running(prepared: object, settings_of: SettingsOf) -> AsyncIterator[tuple[str, Settings]]:
    known = settings_of(Settings, "ingest", analysis_workers=1, api_keys=f"demo:{MINE},other:{THEIRS}")
    async with served(build(known)) as site:
        yield site.url, known


@pytest.fixture
async def house(running: tuple[str, Settings], nc: Client) -> AsyncIterator[House]:
    url, known = running
    engine = postgres.create_engine(known.postgres_url.get_secret_value(), service="test", connections_max=10)
    objects = Objects(known)
    async with (
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {MINE}"}, timeout=30) as mine,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {THEIRS}"}, timeout=30) as theirs,
    ):
        yield House(mine, theirs, engine, objects, nc)
    objects.close()
    await engine.dispose()


def fresh() -> str:
    """A name that no other test has."""
    return f"look-{uuid4().hex[:12]}"


# -- built-in ones ----------------------------------------------------------------------------


async def test_a_built_in_style_is_everybodys_first_version(house: House) -> None:
    given = await house.photo("mono", house.theirs)
    assert given.options["style"] == "mono@1"
    assert await house.objects.get_checked(given.attachments["lut"].key, given.attachments["lut"].sha256) == LOOK
    names = {row["name"]: row for row in (await house.mine.get("/v1/styles")).json()["items"]}
    assert {"cool-matte", "mono", "warm-film"} <= set(names)
    assert (names["mono"]["kind"], names["mono"]["version"], names["mono"]["job_id"]) == ("built-in", 1, None)


async def test_a_built_in_style_that_changed_is_another_version(house: House, settings_of: SettingsOf) -> None:
    name = fresh()
    await house.objects.put(f"styles/{name}.cube", LOOK, CUBE)
    first = await house.photo(name)
    await house.objects.put(f"styles/{name}.cube", cube("warm-film").encode(), CUBE)
    async with served(build(settings_of(Settings, "ingest", api_keys=f"demo:{MINE}"))) as site:  # remembers nothing
        answer = await house.mine.get(f"{site.url}/v1/styles/{name}")
    assert [row["version"] for row in answer.json()["versions"]] == [2, 1]
    pinned = (await house.photo(f"{name}@1")).attachments["lut"]
    assert pinned == first.attachments["lut"]
    assert await house.objects.get_checked(pinned.key, pinned.sha256) == LOOK


async def test_the_first_photos_of_a_gallery_all_find_a_built_in_style(house: House) -> None:
    name = fresh()
    await house.objects.put(f"styles/{name}.cube", LOOK, CUBE)
    photos = await asyncio.gather(*(house.photo(name) for _ in range(6)))
    assert {photo.options["style"] for photo in photos} == {f"{name}@1"}


# -- what jobs make ---------------------------------------------------------------------------


async def test_what_a_training_made_is_a_version_that_photos_can_mean(house: House) -> None:
    name = fresh()
    job = await house.training(name)
    [event] = await told(house.nc, str(job))
    received = UploadReceived.model_validate(event.body)
    assert (received.pipeline, received.options["style_name"]) == ("style-training", name)
    assert received.original.media_type == ZIP

    await house.ends(job, style_safetensors=b"all that was learnt", style_cube=LOOK, report_json=b"{}")
    [version] = await house.versions(name)
    assert (version["version"], version["kind"], version["engine"]) == (1, "learnt", "pairs-lut@1")
    assert (version["job_id"], version["facts"]["psnr"]) == (str(job), 41.9)
    assert set(version["parts"]) == {"style", "cube", "report"}

    given = await house.photo(name)
    assert given.options["style"] == f"{name}@1"
    assert given.attachments["lut"].sha256 == sha256(b"all that was learnt")


async def test_an_import_is_a_style_by_its_cube_alone(house: House) -> None:
    name = fresh()
    answer = await house.sent("/v1/styles/import", LOOK, name=name)
    assert answer.status_code == 202, answer.text
    assert answer.json()["original"]["media_type"] == CUBE
    await house.ends(UUID(answer.json()["job_id"]), style_cube=LOOK, preview_jpg=picture())
    [version] = await house.versions(name)
    assert version["kind"] == "imported"
    assert (await house.photo(name)).attachments["lut"].sha256 == sha256(LOOK)


async def test_an_ending_that_is_told_again_makes_no_second_version_and_a_replay_does(house: House) -> None:
    name = fresh()
    job = await house.training(name)
    await house.ends(job, 3, style_cube=LOOK)
    await house.ends(job, 3, again=" after a restore", style_cube=LOOK)
    await house.ends(job, 7, style_cube=cube("warm-film").encode())
    newest, oldest = await house.versions(name, 2)
    assert (newest["version"], oldest["version"]) == (2, 1)
    assert (await house.photo(f"{name}@1")).attachments["lut"].sha256 == sha256(LOOK)
    assert (await house.photo(name)).options["style"] == f"{name}@2"
    shown = (await house.mine.get(f"/v1/styles/{name}@1")).json()
    assert [row["version"] for row in shown["versions"]] == [1]


async def test_trainings_of_one_name_that_end_at_once_count_without_gaps(house: House) -> None:
    name, ref = fresh(), await stored(house.objects, LOOK, CUBE)

    async def ends(n: int) -> int | None:
        job = UUID(int=n // 2)  # each is told twice, at the same time
        async with house.engine.begin() as conn:
            return await store.add_version(
                conn, Style(f"crowd-{name}", name, "learnt", {"cube": ref}, job_id=job, job_revision=hash(name) % 2**31)
            )

    given = await asyncio.gather(*(ends(n) for n in range(20)))
    assert sorted(version for version in given if version) == list(range(1, 11))


async def test_a_job_that_makes_no_style_makes_no_version(house: House) -> None:
    given = await house.photo("mono")
    await house.ends(given.job_id, style_cube=LOOK)
    name = fresh()
    await house.ends(await house.training(name), style_cube=LOOK)
    await house.versions(name)  # so that the one before was read
    async with house.engine.connect() as conn:
        query = text("SELECT 1 FROM ingest.styles WHERE job_id = :job")
        assert (await conn.execute(query, {"job": given.job_id})).all() == []


async def test_a_training_that_tells_of_no_style_is_a_dead_letter(house: House) -> None:
    job = await house.training(fresh())
    await house.ends(job, report_json=b"{}")

    async def dead() -> list[Any]:
        return await told(house.nc, str(job), "DEAD")

    [letter] = await until(dead)
    assert letter.subject == f"dead.{JOB_SUCCEEDED.subject}"


# -- whose it is ------------------------------------------------------------------------------


async def test_another_tenants_style_is_not_there(house: House) -> None:
    name = fresh()
    await house.ends(await house.training(name), style_cube=LOOK)
    await house.versions(name)
    answer = await house.theirs.post("/v1/uploads", data={"style": name}, files={"file": picture()})
    assert (answer.status_code, answer.json()["code"]) == (422, "STYLE_UNKNOWN")
    assert (await house.theirs.get(f"/v1/styles/{name}")).status_code == 404
    assert (await house.theirs.get(f"/v1/styles/{name}@1/cube")).status_code == 404
    assert name not in {row["name"] for row in (await house.theirs.get("/v1/styles")).json()["items"]}


async def test_a_style_of_ones_own_hides_the_built_in_one(house: House) -> None:
    await house.ends(await house.training("cool-matte"), style_cube=LOOK)

    async def own() -> bool:
        return bool((await house.versions("cool-matte"))[0]["kind"] == "learnt")

    await until(own)
    assert (await house.photo("cool-matte")).attachments["lut"].sha256 == sha256(LOOK)
    theirs = await house.photo("cool-matte", house.theirs)
    assert theirs.attachments["lut"].sha256 == sha256(cube("cool-matte").encode())
    listed = [row for row in (await house.mine.get("/v1/styles")).json()["items"] if row["name"] == "cool-matte"]
    assert [row["kind"] for row in listed] == ["learnt"]


@pytest.mark.parametrize("style", ["mono@2", "mono@0", "mono@", "mono@1@1", "mono@01", "@1", "MONO", "mono@9999999999"])
async def test_a_version_that_there_is_not_is_unknown(house: House, style: str) -> None:
    answer = await house.sent("/v1/uploads", picture(), style=style)
    assert (answer.status_code, answer.json()["code"]) == (422, "STYLE_UNKNOWN")


async def test_a_list_goes_on_where_it_ended(house: House) -> None:
    whole = (await house.theirs.get("/v1/styles")).json()
    assert whole["next_cursor"] is None
    names, cursor = [], ""
    while cursor is not None:
        page = (await house.theirs.get("/v1/styles", params={"limit": 1, "cursor": cursor})).json()
        names += [row["name"] for row in page["items"]]
        cursor = page["next_cursor"]
    assert names == [row["name"] for row in whole["items"]]


async def test_a_part_is_reached_by_a_signed_link_that_names_it(house: House) -> None:
    link = await house.mine.get("/v1/styles/mono/cube")
    assert link.status_code == 307
    async with httpx.AsyncClient() as stranger:
        found = await stranger.get(link.headers["Location"])
    assert found.content == LOOK
    assert 'filename="mono-1.cube"' in found.headers["Content-Disposition"]
    assert "url" in (await house.mine.get("/v1/styles/mono/cube", params={"redirect": "false"})).json()
    assert (await house.mine.get("/v1/styles/mono/report")).status_code == 404, "a built-in style has none"
    read = [one for one in await acts(house.nc, "mono@1") if one[1] == "style.read"]
    assert read[-2:] == [("tenant:demo", "style.read", {"part": "cube"})] * 2, "what was not there nobody has read"
    assert (await house.mine.get("/v1/styles/mono/secrets")).status_code == 422


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "code"),
    [
        pytest.param("/v1/styles", {}, "REQUEST_INVALID", id="a training without a name"),
        pytest.param("/v1/styles", {"name": "My Look"}, "REQUEST_INVALID", id="a name with blanks"),
        pytest.param("/v1/styles", {"name": "a@1"}, "REQUEST_INVALID", id="a name with a version"),
        pytest.param("/v1/styles", {"name": "a\n"}, "REQUEST_INVALID", id="a name with a line's end"),
        pytest.param("/v1/styles", {"name": "a", "pipeline": "photo"}, "REQUEST_INVALID", id="another pipeline"),
        pytest.param("/v1/uploads", {"pipeline": "style-training"}, "REQUEST_INVALID", id="an upload without a name"),
        pytest.param("/v1/uploads", {"style_name": "a"}, "REQUEST_INVALID", id="a name where no style is made"),
    ],
)
async def test_a_name_is_needed_where_a_style_is_made_and_refused_elsewhere(
    house: House, path: str, fields: dict[str, str], code: str
) -> None:
    answer = await house.sent(path, pairs(), **fields)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


async def test_a_look_of_more_bytes_than_a_look_has_is_refused_while_it_comes(house: House) -> None:
    answer = await house.sent("/v1/styles/import", LOOK + b"0 0 0\n" * (CUBE_BYTES_MAX // 6), name=fresh())
    assert (answer.status_code, answer.json()["code"]) == (413, "UPLOAD_TOO_LARGE")


async def test_the_same_key_means_one_training_and_no_import(house: House) -> None:
    headers, name = {"Idempotency-Key": uuid4().hex}, fresh()
    request: dict[str, Any] = {"data": {"name": name}, "files": {"file": pairs()}, "headers": headers}
    first = await house.mine.post("/v1/styles", **request)
    again = await house.mine.post("/v1/styles", **request)
    assert (first.status_code, again.json()) == (202, first.json())
    assert len(await told(house.nc, first.json()["job_id"])) == 1
    assert (await told(house.nc, first.json()["job_id"]))[0].subject == UPLOAD_RECEIVED.subject
    other = await house.mine.post("/v1/styles/import", **request)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize("change", ["UPDATE ingest.styles SET version = 9", "DELETE FROM ingest.styles"])
async def test_a_version_never_changes(house: House, change: str) -> None:
    await house.photo("mono")
    with pytest.raises(DBAPIError, match="append-only"):
        async with house.engine.begin() as conn:
            await conn.execute(text(change))


async def test_a_style_that_was_learnt_from_sealed_pairs_is_handed_out_opened_and_goes_with_their_key(
    house: House,
) -> None:
    name, key_id = fresh(), str(uuid4())
    await house.objects.vault.make(key_id, "demo")
    await house.ends(await house.training(name), key_id=key_id, style_cube=LOOK)
    await house.versions(name)
    url = f"/v1/styles/{name}/cube"
    answer = await house.mine.get(url)
    assert (answer.status_code, answer.content) == (200, LOOK)
    assert (await house.mine.get(url, params={"redirect": "false"})).json() == {"url": url}
    assert (await house.photo(name)).attachments["lut"].sealed == key_id
    await house.objects.vault.destroy(key_id)
    gone = await house.mine.get(url)
    assert (gone.status_code, gone.json()["code"]) == (410, "KEY_DESTROYED")
