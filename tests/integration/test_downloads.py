"""Links without a key, and a batch's ZIP, from real storage through a real server."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from nats.aio.client import Client
from sqlalchemy import text

from contracts.artifacts import ObjectRef
from output.settings import Settings
from output.signing import SigningKeys
from tests.integration.conftest import SettingsOf, until
from tests.integration.output_desk import KEYS, Output, desk, project
from tests.integration.wire import acts, stored
from tests.servers.models import NatsServer
from tests.unit.output.stories import START, Story, artifact


@pytest.fixture(scope="module")
async def output(prepared: object, settings_of: SettingsOf) -> AsyncIterator[Output]:
    async with desk(settings_of(Settings, "output", public_url="https://safelight.test", **KEYS)) as made:
        yield made


async def finished(
    output: Output, content: bytes = b"0123456789", batch: UUID | None = None, n: int = 0
) -> tuple[Story, ObjectRef]:
    """A job that has made web.jpg, the n-th of its batch."""
    ref = await stored(output.objects, content, "image/jpeg")
    story = Story(batch_id=batch, at=START + timedelta(minutes=n)).begins().succeeds("analyze", width=1)
    await project(output.engine, story.succeeds("crop").succeeds("variants", artifact("web.jpg", ref)).events)
    return story, ref


async def link(output: Output, story: Story, **terms: Any) -> str:
    """The path of a link to web.jpg."""
    given = {"artifacts": ["web.jpg"], **terms}
    answer = await output.client.post(f"/v1/jobs/{story.job_id}/links", json=given)
    assert answer.status_code == 201, answer.text
    url: str = answer.json()["items"][0]["url"]
    assert url.startswith("https://safelight.test/v1/downloads/")
    return url.removeprefix("https://safelight.test")


@pytest.fixture
async def anybody(output: Output) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=output.site.url, timeout=20) as client:
        yield client


# -- links ----------------------------------------------------------------------------------


async def test_a_link_gives_the_content_to_whoever_has_it(output: Output, anybody: httpx.AsyncClient) -> None:
    path = await link(output, (await finished(output))[0])
    for _ in range(2):
        answer = await anybody.get(path)
        assert (answer.status_code, answer.content) == (200, b"0123456789")
    expected = {
        "content-type": "image/jpeg",
        "content-length": "10",
        "content-disposition": 'attachment; filename="web.jpg"',
        "content-security-policy": "sandbox",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "accept-ranges": "bytes",
    }
    assert expected.items() <= dict(answer.headers).items()


@pytest.mark.parametrize(
    ("asked", "content", "told"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ],
)
async def test_a_link_gives_a_range(
    output: Output, anybody: httpx.AsyncClient, asked: str, content: bytes, told: str
) -> None:
    path = await link(output, (await finished(output))[0])
    answer = await anybody.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, content, told)


async def test_of_many_who_use_a_single_use_at_once_one_gets_it(output: Output, anybody: httpx.AsyncClient) -> None:
    path = await link(output, (await finished(output))[0], single_use=True)
    answers = await asyncio.gather(*(anybody.get(path) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200, *[410] * 19]
    assert {answer.json()["code"] for answer in answers if answer.status_code == 410} == {"LINK_USED"}


async def test_a_single_use_is_not_used_up_by_what_cannot_be_read(output: Output, anybody: httpx.AsyncClient) -> None:
    story, ref = await finished(output)
    path = await link(output, story, single_use=True)
    content = await output.objects.get(ref.key)
    await output.objects.remove(ref.key)
    lost = await anybody.get(path)
    assert (lost.status_code, lost.json()["code"]) == (500, "OBJECT_MISSING")
    await output.objects.put(ref.key, content, "image/jpeg")
    assert (await anybody.get(path)).content == content


async def test_a_link_that_has_expired_or_is_revoked_says_so(
    output: Output, anybody: httpx.AsyncClient, nc: Client
) -> None:
    story, _ = await finished(output)
    path = await link(output, story)
    where = f"/v1/jobs/{story.job_id}/links"
    [shown] = (await output.client.get(where)).json()["items"]
    assert (shown["state"], shown["artifacts"], "url" in shown) == ("working", ["web.jpg"], False)
    assert (await output.stranger.delete(f"/v1/links/{shown['id']}")).status_code == 404
    for _ in range(2):
        assert (await output.client.delete(f"/v1/links/{shown['id']}")).status_code == 204
    [revocation] = await acts(nc, shown["id"])
    assert revocation == (f"tenant:{story.tenant}", "link.revoked", {}), "the second time nothing was done"
    revoked = await anybody.get(path)
    assert (revoked.status_code, revoked.json()["code"]) == (410, "LINK_REVOKED")

    path = await link(output, story)
    async with output.engine.begin() as conn:
        await conn.execute(text("UPDATE output.links SET expires_at = now() WHERE revoked_at IS NULL"))
    expired = await anybody.get(path)
    assert (expired.status_code, expired.json()["code"]) == (410, "LINK_EXPIRED")
    assert {one["state"] for one in (await output.client.get(where)).json()["items"]} == {"revoked", "expired"}
    assert (await output.stranger.get(where)).json()["items"] == []


async def test_a_token_that_is_not_ours_leads_nowhere(output: Output, anybody: httpx.AsyncClient) -> None:
    path = await link(output, (await finished(output))[0])
    forged = SigningKeys.read("x" * 40)
    flipped = path[:-3] + ("A" if path[-3] != "A" else "B") + path[-2:]
    for wrong in (flipped, path + "A", path[:-1], "/v1/downloads/x", f"/v1/downloads/{forged.current}{path[-43:]}"):
        answer = await anybody.get(wrong)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), wrong


async def test_links_are_made_to_what_is_one_s_own_and_there(output: Output) -> None:
    story, _ = await finished(output)
    where = f"/v1/jobs/{story.job_id}/links"
    for client, given, code in (
        (output.stranger, {"artifacts": ["web.jpg"]}, 404),
        (output.client, {"artifacts": ["other.jpg"]}, 404),
        (output.client, {"artifacts": []}, 422),
        (output.client, {"artifacts": ["../x"]}, 422),
        (output.client, {"artifacts": ["web.jpg"], "ttl_s": 0}, 422),
        (output.client, {"artifacts": ["web.jpg"], "ttl_s": 10**8}, 422),
        (output.operator, {"artifacts": ["web.jpg"]}, 403),
    ):
        assert (await client.post(where, json=given)).status_code == code, given


# -- a batch's ZIP --------------------------------------------------------------------------


async def test_a_batch_is_read_as_a_zip_with_a_key_or_by_a_link(output: Output, anybody: httpx.AsyncClient) -> None:
    batch = uuid4()
    contents = [bytes([n]) * (n * 300_000 + 1) for n in range(4)]
    for content in contents:
        await finished(output, content, batch)
    await project(output.engine, Story(batch_id=batch).begins().events)  # not at its end
    await project(output.engine, Story(batch_id=batch, tenant="other").begins().events)
    answer = await output.client.get(f"/v1/batches/{batch}/zip", params={"artifacts": "web.jpg"})
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"] == f'attachment; filename="batch-{batch}.zip"'
    opened = zipfile.ZipFile(io.BytesIO(answer.content))
    assert opened.testzip() is None
    photos = [one for one in opened.infolist() if one.filename != "index.json"]
    assert sorted(hashlib.sha256(opened.read(one)).digest() for one in photos) == sorted(
        hashlib.sha256(content).digest() for content in contents
    )

    made = (await output.client.post(f"/v1/batches/{batch}/links", json={"single_use": True})).raise_for_status().json()
    path = made["url"].removeprefix("https://safelight.test")
    assert (await anybody.get(path)).content == answer.content
    assert (await anybody.get(path)).json()["code"] == "LINK_USED"
    [shown] = (await output.client.get(f"/v1/batches/{batch}/links")).json()["items"]
    assert shown["state"] == "used"


@pytest.mark.parametrize("artifacts", ["other.jpg", "web.jpg,"])
async def test_a_zip_of_nothing_is_none(output: Output, artifacts: str) -> None:
    batch = uuid4()
    await finished(output, batch=batch)
    path, params = f"/v1/batches/{batch}/zip", {"artifacts": artifacts}
    found = (await output.client.get(path, params=params)).status_code
    assert found == (404 if artifacts == "other.jpg" else 200)
    assert (await output.stranger.get(path)).status_code == 404
    assert (await output.stranger.post(f"/v1/batches/{batch}/links", json={})).status_code == 404


@pytest.mark.parametrize("which", [0, 3])
async def test_an_object_that_is_broken_breaks_the_answer(output: Output, which: int) -> None:
    batch = uuid4()
    refs = [(await finished(output, bytes([n]) * 900, batch, n))[1] for n in range(4)]
    await output.objects.remove(refs[which].key)
    path = f"/v1/batches/{batch}/zip"
    if which == 0:  # told before anything is sent
        answer = await output.client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (500, "OBJECT_MISSING")
        return
    with pytest.raises(httpx.RemoteProtocolError):
        await output.client.get(path)


async def test_a_client_that_goes_away_stops_the_reading(output: Output) -> None:
    batch = uuid4()
    for n in range(12):
        await finished(output, bytes([n]) * 3_000_000, batch)
    async with output.client.stream("GET", f"/v1/batches/{batch}/zip") as answer:
        async for _ in answer.aiter_raw(65536):
            break
    await output.site.quiet()
    await until(lambda: not [t for t in asyncio.all_tasks() if "_first" in repr(t.get_coro())])


async def test_while_the_broker_is_away_nobody_is_given_or_changes_anything(
    output: Output, anybody: httpx.AsyncClient, nats_server: NatsServer
) -> None:
    story, _ = await finished(output, batch=(batch := uuid4()))
    path, where = await link(output, story), f"/v1/jobs/{story.job_id}"
    [shown] = (await output.client.get(f"{where}/links")).json()["items"]
    hooks = (await output.client.get("/v1/webhooks")).json()
    asked: list[tuple[str, str, Any]] = [
        ("GET", f"{where}/artifacts/web.jpg", None),
        ("GET", f"/v1/batches/{batch}/zip", None),
        ("POST", f"{where}/links", {"artifacts": ["web.jpg"]}),
        ("DELETE", f"/v1/links/{shown['id']}", None),
        ("POST", "/v1/webhooks", {"url": "https://example.com/"}),
    ]
    await asyncio.to_thread(nats_server.kill)
    try:
        refused = [await output.client.request(method, url, json=body) for method, url, body in asked]
        refused.append(await anybody.get(path))
        assert [(one.status_code, one.json()["code"]) for one in refused] == [(503, "BROKER_UNAVAILABLE")] * 6
        assert (await output.client.get(f"{where}/links")).json()["items"] == [shown], "none was made, none revoked"
        assert (await output.client.get("/v1/webhooks")).json() == hooks
    finally:
        await asyncio.to_thread(nats_server.restart)

    async def given() -> bool:
        return (await anybody.get(path)).status_code == 200

    await until(given)
