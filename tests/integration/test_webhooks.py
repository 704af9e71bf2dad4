"""Webhooks on real servers: what happened is told, signed, again and again until it is heard, and nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import nats
import pytest
import standardwebhooks
from nats.aio.client import Client
from sqlalchemy import text

from contracts.batches import BATCH_CLOSED, BATCH_CREATED, BATCH_ENDED, BatchClosed, BatchCreated, BatchEnded
from contracts.channel import Channel
from contracts.erasures import ErasureRequested
from output.erasing import Erasing
from output.settings import Settings
from runtime.outbox import Outgoing, outgoing, publish
from tests.integration.conftest import SettingsOf, until
from tests.integration.output_desk import KEYS, Output, desk, project
from tests.integration.wire import acts
from tests.servers.certificates import self_signed
from tests.servers.endpoints import Endpoints, Heard, endpoints
from tests.servers.models import NatsServer
from tests.unit.output.stories import START, Story, whole

SENDS = {"outside_networks": "127.0.0.0/8", "webhook_timeout_s": 1, "webhook_lease_s": 2}


@pytest.fixture(scope="module")
async def output(prepared: object, settings_of: SettingsOf, nats_server: NatsServer) -> AsyncIterator[Output]:
    nc = await nats.connect(nats_server.url, user="setup", password=nats_server.passwords["setup"])
    await nc.jetstream().purge_stream("EVENTS")  # of endings in other tests, which would be told here
    await nc.close()
    async with desk(settings_of(Settings, "output", public_url="https://safelight.test", **SENDS, **KEYS)) as made:
        yield made


@pytest.fixture(scope="module")
async def there() -> AsyncIterator[Endpoints]:
    async with endpoints() as made:
        yield made


@pytest.fixture
def path() -> str:
    return f"/{uuid4()}"


async def made(output: Output, url: str, **about: Any) -> dict[str, Any]:
    answer = await output.client.post("/v1/webhooks", json={"url": url, **about})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


@asynccontextmanager
async def endpoint(output: Output, url: str, **about: Any) -> AsyncIterator[dict[str, Any]]:
    """An endpoint for one test."""
    webhook = await made(output, url, **about)
    try:
        yield webhook
    finally:
        await output.client.delete(f"/v1/webhooks/{webhook['id']}")


async def heard(there: Endpoints, path: str, count: int = 1, timeout_s: float = 10) -> list[Heard]:
    await until(lambda: len(there.heard[path]) >= count, timeout_s)
    return there.heard[path]


async def hurry(output: Output) -> None:
    """What is planned for later is due now."""
    async with output.engine.begin() as conn:
        await conn.execute(text("UPDATE output.deliveries SET due_at = now() WHERE status = 'pending'"))
        await conn.execute(text("UPDATE output.webhooks SET rest_until = NULL"))
        await conn.execute(text("NOTIFY output_webhooks"))


async def delivery(output: Output, webhook: dict[str, Any], id_: str, status: str) -> dict[str, Any]:
    """The delivery, as soon as it stands so."""

    async def stands() -> dict[str, Any] | None:
        answer = await output.client.get(f"/v1/webhooks/{webhook['id']}/deliveries/{id_}")
        found: dict[str, Any] = answer.raise_for_status().json()
        return found if found["status"] == status and found["attempts"] else None

    found: dict[str, Any] = await until(stands)
    return found


def failed(code: str = "IMAGE_CORRUPT") -> Story:
    return Story().begins().fails("analyze", code)


# -- what is told ---------------------------------------------------------------------------


async def test_an_ending_is_told_once_and_the_specification_s_library_believes_it(
    output: Output, nc: Client, there: Endpoints, path: str
) -> None:
    async with endpoint(output, there.url(path)) as webhook:
        story = whole()
        await publish(nc.jetstream(), story.events)
        [told] = await heard(there, path)
        body = standardwebhooks.Webhook(webhook["secret"]).verify(told.body, told.headers)
        done = await delivery(output, webhook, told.id, "delivered")
    assert (body["type"], told.headers["content-type"]) == ("job.succeeded", "application/json")
    assert datetime.fromisoformat(body["timestamp"]).tzinfo
    data = body["data"]
    assert data["job_id"] == str(story.job_id)
    assert (data["status"], data["degraded"], data["upload_id"]) == ("succeeded", False, str(story.upload.upload_id))
    assert data["url"] == f"https://safelight.test/v1/jobs/{story.job_id}"
    names = [one["name"] for one in data["artifacts"]]
    assert names == ["crop.image.png", "variants.web.jpg", "variants.image.png"]
    link = data["artifacts"][0]["url"].removeprefix("https://safelight.test")
    assert (await output.client.get(link)).status_code == 307
    assert [(one["status_code"], one["code"]) for one in done["attempts"]] == [(200, None)]
    assert done["body"] == body
    assert len(told.body) < 20_000
    assert "crop" not in str(data.get("options")), "what its caller wrote is not told"


async def test_an_endpoint_is_told_what_it_asked_for_and_a_stranger_nothing(
    output: Output, there: Endpoints, path: str
) -> None:
    strangers = (await output.stranger.post("/v1/webhooks", json={"url": there.url(f"{path}/stranger")})).json()
    async with (
        endpoint(output, there.url(f"{path}/starts"), events=["job.started"]),
        endpoint(output, there.url(f"{path}/failures"), events=["job.failed", "job.dead"]),
    ):
        one, other, dead = failed(), Story().begins().is_cancelled(), failed("MESSAGE_INVALID")
        await project(output.engine, [*one.events, *other.events, *dead.events])
        starts = await heard(there, f"{path}/starts", 3)
        failures = await heard(there, f"{path}/failures", 2)
    await output.stranger.delete(f"/v1/webhooks/{strangers['id']}")
    assert [told.json()["type"] for told in starts] == ["job.started"] * 3
    assert "artifacts" not in starts[0].json()["data"]
    assert {told.json()["data"]["status"]: told.json()["data"]["error"] for told in failures} == {
        "failed": {"code": "IMAGE_CORRUPT", "phase": "analyze"},
        "dead": {"code": "MESSAGE_INVALID", "phase": "analyze"},
    }
    assert not there.heard[f"{path}/stranger"]


async def test_an_event_that_is_projected_again_is_not_told_again(output: Output, there: Endpoints, path: str) -> None:
    async with endpoint(output, there.url(path)):
        story = failed()
        await project(output.engine, story.events)
        await heard(there, path)
        async with output.engine.begin() as conn:
            await conn.execute(text("DELETE FROM output.inbox"))  # as when the picture is drawn anew from the stream
        marker = failed()
        await project(output.engine, [*story.events, *marker.events])
        await heard(there, path, 2)
    assert [told.json()["data"]["job_id"] for told in there.heard[path]] == [str(story.job_id), str(marker.job_id)]


async def test_a_job_that_ends_twice_is_told_twice(output: Output, there: Endpoints, path: str) -> None:
    async with endpoint(output, there.url(path)):
        story = failed("MESSAGE_INVALID").is_retried().fails("analyze", "IMAGE_CORRUPT", attempt=2)
        await project(output.engine, story.events)
        first, second = sorted(await heard(there, path, 2), key=lambda told: told.json()["data"]["revision"])
    assert (first.json()["type"], second.json()["type"]) == ("job.dead", "job.failed")
    assert first.id != second.id


def batch_events(webhook: str | None, batch_id: UUID | None = None) -> list[Outgoing]:
    about: dict[str, Any] = {"batch_id": batch_id or uuid4(), "tenant": "demo", "webhook": webhook}
    events: tuple[tuple[Channel[Any], Any], ...] = (
        (BATCH_CREATED, BatchCreated(**about, at=START)),
        (BATCH_CLOSED, BatchClosed(**about, at=START)),
        (BATCH_ENDED, BatchEnded(**about, at=START, jobs={"succeeded": 2, "failed": 1}, degraded=1)),
    )
    key = str(about["batch_id"])
    return [
        outgoing(channel, event, message_id=f"{key}.{event.TYPE}", key=key, source="test") for channel, event in events
    ]


async def test_a_batch_s_own_url_is_told_when_it_is_closed_and_ended_with_a_secret_of_the_tenant(
    output: Output, nc: Client, there: Endpoints, path: str
) -> None:
    async with endpoint(output, there.url(f"{path}/every")):
        await publish(nc.jetstream(), batch_events(there.url(path)))
        named = await heard(there, path, 2)
        every = await heard(there, f"{path}/every", 2)
    assert {told.json()["type"] for told in named} == {"batch.closed", "batch.ended"}
    assert [told.id for told in named] == [told.id for told in every]
    ended = next(told for told in named if told.json()["type"] == "batch.ended").json()["data"]
    assert (ended["jobs"], ended["degraded"]) == ({"succeeded": 2, "failed": 1}, 1)
    assert ended["url"] == f"https://safelight.test/v1/batches/{ended['batch_id']}"
    assert "webhook" not in ended

    secret = (await output.client.post("/v1/webhooks/batch-secret", json={})).raise_for_status().json()
    for told in named:  # signed before anybody asked for the secret
        standardwebhooks.Webhook(secret["secret"]).verify(told.body, told.headers)
    rotated = (await output.client.post("/v1/webhooks/batch-secret", json={"overlap_s": 60})).json()
    assert rotated["secret"] != secret["secret"]
    await publish(nc.jetstream(), batch_events(there.url(path)))
    told = (await heard(there, path, 4))[-1]
    for one in (secret, rotated):
        standardwebhooks.Webhook(one["secret"]).verify(told.body, told.headers)
    [shown] = [one for one in (await output.client.get("/v1/webhooks")).json()["items"] if one["kind"] == "batch"]
    assert shown["url"] == there.url(path)
    assert (await output.client.post(f"/v1/webhooks/{shown['id']}/rotate", json={})).status_code == 409
    await output.client.delete(f"/v1/webhooks/{shown['id']}")


async def test_a_batch_whose_url_is_an_endpoint_s_is_told_there_once(
    output: Output, nc: Client, there: Endpoints, path: str
) -> None:
    async with endpoint(output, there.url(path)):
        await publish(nc.jetstream(), batch_events(there.url(path)))
        marker = failed()
        await publish(nc.jetstream(), marker.events)
        told = await heard(there, path, 3)
    assert sorted(one.json()["type"] for one in told) == ["batch.closed", "batch.ended", "job.failed"]


# -- secrets --------------------------------------------------------------------------------


async def test_while_a_secret_is_rotated_the_old_and_the_new_one_verify(
    output: Output, there: Endpoints, path: str, nc: Client
) -> None:
    async with endpoint(output, there.url(path)) as webhook:
        rotate = f"/v1/webhooks/{webhook['id']}/rotate"
        both = (await output.client.post(rotate, json={"overlap_s": 60})).raise_for_status().json()
        await project(output.engine, failed().events)
        [told] = await heard(there, path)
        for secret in (webhook["secret"], both["secret"]):
            standardwebhooks.Webhook(secret).verify(told.body, told.headers)
        alone = (await output.client.post(rotate, json={"overlap_s": 0})).json()
        await project(output.engine, failed().events)
        _, told = await heard(there, path, 2)
        standardwebhooks.Webhook(alone["secret"]).verify(told.body, told.headers)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(both["secret"]).verify(told.body, told.headers)
        shown = (await output.client.get(f"/v1/webhooks/{webhook['id']}")).text
        actions = [action for _, action, _ in await acts(nc, webhook["id"])]
    assert "whsec_" not in shown
    assert actions == ["webhook.made", "webhook.rotated", "webhook.rotated"]


async def test_no_table_holds_a_secret(output: Output, there: Endpoints, path: str) -> None:
    async with endpoint(output, there.url(path)) as webhook, output.engine.connect() as conn:
        rows = (await conn.execute(text("SELECT * FROM output.webhooks"))).all()
    assert webhook["secret"].removeprefix("whsec_") not in str(rows)


# -- endpoints that fail --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status_code", "code"),
    [
        pytest.param(500, 500, "WEBHOOK_ANSWER", id="an error of theirs"),
        pytest.param(302, 302, "WEBHOOK_ANSWER", id="a redirect, which is not followed"),
        pytest.param("close", None, "WEBHOOK_UNREACHABLE", id="a connection that breaks"),
        pytest.param("hang", None, "WEBHOOK_TIMEOUT", id="no answer"),
    ],
)
async def test_what_was_not_heard_is_told_again_under_the_same_id(
    output: Output, there: Endpoints, path: str, answer: int | str, status_code: int | None, code: str
) -> None:
    there.scripts[path].append(answer)
    async with endpoint(output, there.url(path)) as webhook:
        await project(output.engine, failed().events)
        [first] = await heard(there, path)
        waiting = await delivery(output, webhook, first.id, "pending")
        assert waiting["due_at"] > datetime.now(UTC).isoformat()
        assert (await output.client.get(f"/v1/webhooks/{webhook['id']}")).json()["failing_since"]
        await hurry(output)
        again = (await heard(there, path, 2))[-1]
        done = await delivery(output, webhook, first.id, "delivered")
        assert not (await output.client.get(f"/v1/webhooks/{webhook['id']}")).json()["failing_since"]
    assert (again.id, again.body) == (first.id, first.body)
    assert [(one["status_code"], one["code"]) for one in done["attempts"]] == [(status_code, code), (200, None)]
    standardwebhooks.Webhook(webhook["secret"]).verify(again.body, again.headers)


async def test_a_success_whose_body_never_ends_is_a_success(output: Output, there: Endpoints, path: str) -> None:
    there.scripts[path].append("drip")
    async with endpoint(output, there.url(path)) as webhook:
        await project(output.engine, failed().events)
        [told] = await heard(there, path)
        done = await delivery(output, webhook, told.id, "delivered")
    assert done["attempts"][0]["status_code"] == 200


async def test_retry_after_is_waited_for(output: Output, there: Endpoints, path: str) -> None:
    there.scripts[path].append("429 3600")
    async with endpoint(output, there.url(path)) as webhook:
        await project(output.engine, failed().events)
        [told] = await heard(there, path)
        waiting = await delivery(output, webhook, told.id, "pending")
    wait_s = (datetime.fromisoformat(waiting["due_at"]) - datetime.now(UTC)).total_seconds()
    assert 3500 < wait_s <= 3600


async def test_an_invalid_certificate_and_a_closed_port_are_told_apart(
    output: Output, path: str, tmp_path: Path
) -> None:
    async with endpoints(self_signed(tmp_path)) as strange:
        urls = {strange.url(path): "WEBHOOK_TLS", "http://127.0.0.1:9/": "WEBHOOK_UNREACHABLE"}
        for url, code in urls.items():
            async with endpoint(output, url) as webhook:
                ping = (await output.client.post(f"/v1/webhooks/{webhook['id']}/ping")).json()
                tried = await delivery(output, webhook, ping["id"], "pending")
                assert [one["code"] for one in tried["attempts"]] == [code]
        assert not strange.heard[path]


async def test_who_is_gone_is_disabled_and_works_again_when_it_is_enabled(
    output: Output, there: Endpoints, path: str
) -> None:
    there.scripts[path].append(410)
    async with endpoint(output, there.url(path)) as webhook:
        where = f"/v1/webhooks/{webhook['id']}"
        story = failed()
        await project(output.engine, story.events)
        [told] = await heard(there, path)
        await delivery(output, webhook, told.id, "failed")
        shown = (await output.client.get(where)).json()
        assert (shown["enabled"], shown["disabled_code"]) == (False, "WEBHOOK_GONE")
        refused = await output.client.post(f"{where}/deliveries/{told.id}/replay")
        assert (refused.status_code, refused.json()["code"]) == (409, "WEBHOOK_DISABLED")
        await project(output.engine, failed().events)  # told to nobody
        since = story.at.isoformat()
        enabled = (await output.client.patch(where, json={"enabled": True})).json()
        assert (enabled["enabled"], enabled["disabled_code"]) == (True, None)
        replayed = (await output.client.post(f"{where}/replay", json={"since": since})).json()
        assert replayed == {"deliveries": 1}
        again = (await heard(there, path, 2))[-1]
        assert again.id == told.id
        await delivery(output, webhook, told.id, "delivered")


async def test_who_fails_for_days_is_disabled_and_told_why(output: Output, there: Endpoints, path: str) -> None:
    there.always[path] = 500
    async with endpoint(output, there.url(path)) as webhook:
        await project(output.engine, failed().events)
        [told] = await heard(there, path)
        await delivery(output, webhook, told.id, "pending")
        async with output.engine.begin() as conn:
            long_ago = "UPDATE output.webhooks SET failing_since = now() - interval '6 days' WHERE id = :id"
            await conn.execute(text(long_ago), {"id": webhook["id"]})
        await hurry(output)
        await delivery(output, webhook, told.id, "failed")
        shown = (await output.client.get(f"/v1/webhooks/{webhook['id']}")).json()
    assert (shown["enabled"], shown["disabled_code"]) == (False, "WEBHOOK_FAILING")


async def test_endpoints_that_hang_keep_nobody_waiting(output: Output, there: Endpoints, path: str) -> None:
    hanging = [f"{path}/hangs/{n}" for n in range(20)]
    for one in hanging:
        there.always[one] = "hang"
    webhooks = [await made(output, there.url(one)) for one in hanging]
    async with endpoint(output, there.url(path)):
        began = time.monotonic()
        for _ in range(3):
            await project(output.engine, failed().events)
        await heard(there, path, 3)
        assert time.monotonic() - began < 5
        assert any(there.heard[one] for one in hanging)
    for webhook in webhooks:
        await output.client.delete(f"/v1/webhooks/{webhook['id']}")


# -- crashes and replicas -------------------------------------------------------------------


async def test_processes_share_endpoints_and_none_is_told_twice(
    output: Output, settings_of: SettingsOf, there: Endpoints, path: str
) -> None:
    async with desk(settings_of(Settings, "output", **SENDS, **KEYS)):
        webhooks = [await made(output, there.url(f"{path}/{n}")) for n in range(6)]
        stories = [failed() for _ in range(15)]
        await project(output.engine, [event for story in stories for event in story.events])
        for n in range(6):
            await heard(there, f"{path}/{n}", len(stories))
        for webhook in webhooks:
            await output.client.delete(f"/v1/webhooks/{webhook['id']}")
    for n in range(6):
        ids = [told.id for told in there.heard[f"{path}/{n}"]]
        assert len(ids) == len(set(ids)) == len(stories)


# -- asking for it --------------------------------------------------------------------------


async def test_the_log_is_read_by_status_and_type_on_pages(output: Output, there: Endpoints, path: str) -> None:
    there.scripts[path] += [200, 500]
    async with endpoint(output, there.url(path)) as webhook:
        where = f"/v1/webhooks/{webhook['id']}/deliveries"
        await project(output.engine, failed().events)
        await heard(there, path)
        ping = (await output.client.post(f"/v1/webhooks/{webhook['id']}/ping")).json()
        told = (await heard(there, path, 2))[-1]
        assert (told.id, told.json()["type"]) == (ping["id"], "webhook.ping")
        await delivery(output, webhook, ping["id"], "pending")
        everything = (await output.client.get(where)).json()["items"]
        assert [one["type"] for one in everything] == ["webhook.ping", "job.failed"]
        first = (await output.client.get(where, params={"limit": 1})).json()
        second = (await output.client.get(where, params={"limit": 1, "cursor": first["next_cursor"]})).json()
        assert (first["items"] + second["items"], second["next_cursor"]) == (everything, None)
        for query, ids in (
            ({"status": "pending"}, [ping["id"]]),
            ({"type": "job.failed"}, [everything[1]["id"]]),
            ({"status": "failed"}, []),
        ):
            found = (await output.client.get(where, params=query)).json()["items"]
            assert [one["id"] for one in found] == ids
        again = await output.client.post(f"{where}/{everything[1]['id']}/replay")
        assert (again.status_code, again.json()["status"]) == (202, "pending")
        assert (await heard(there, path, 3))[-1].id == everything[1]["id"]
        assert (await output.client.get(where, params={"cursor": "x"})).status_code == 422


async def test_endpoints_are_listed_changed_and_deleted_by_their_tenant_alone(
    output: Output, there: Endpoints, path: str, nc: Client
) -> None:
    async with endpoint(output, there.url(path), description="the shop") as webhook:
        where = f"/v1/webhooks/{webhook['id']}"
        listed = (await output.client.get("/v1/webhooks", params={"limit": 1})).json()["items"]
        assert listed == [{name: value for name, value in webhook.items() if name != "secret"}]
        assert (await output.stranger.get("/v1/webhooks")).json()["items"] == []
        changed = {"url": there.url(f"{path}/other"), "events": ["job.succeeded"], "description": ""}
        assert (await output.client.patch(where, json=changed)).json().items() >= changed.items()
        for method, rest, body in (
            ("GET", "", None),
            ("PATCH", "", {"enabled": False}),
            ("DELETE", "", None),
            ("POST", "/ping", None),
            ("POST", "/rotate", {}),
            ("POST", "/replay", {"since": "2026-01-01T00:00:00Z"}),
            ("GET", "/deliveries", None),
        ):
            answer = await output.stranger.request(method, where + rest, json=body)
            assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), (method, rest)
        disabled = (await output.client.patch(where, json={"enabled": False})).json()
        assert (disabled["enabled"], disabled["disabled_code"]) == (False, None)
        assert (await output.client.post(f"{where}/ping")).json()["code"] == "WEBHOOK_DISABLED"
        assert (await output.client.delete(where)).status_code == 204
        assert (await output.client.get(where)).status_code == 404
        assert (await output.operator.get("/v1/webhooks")).status_code == 403
    lines = await acts(nc, webhook["id"])
    assert [(action, about) for _, action, about in lines] == [
        ("webhook.made", {"events": webhook["events"]}),
        ("webhook.changed", {"changed": ["description", "events", "url"]}),
        ("webhook.changed", {"changed": ["enabled"]}),
        ("webhook.deleted", {}),
    ], "what was refused was not done, and no address is told"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"url": "ftp://example.com"}, "ADDRESS_REFUSED"),
        ({"url": "http://10.0.0.1/"}, "ADDRESS_REFUSED"),
        ({"url": "http://169.254.169.254/latest"}, "ADDRESS_REFUSED"),
        ({"url": "https://user:secret@example.com/"}, "ADDRESS_REFUSED"),
        ({"url": "https://example.com/", "events": ["job.vanished"]}, "REQUEST_INVALID"),
        ({"url": "https://example.com/", "events": []}, "REQUEST_INVALID"),
        ({"url": "https://example.com/", "description": "a\0b"}, "REQUEST_INVALID"),
        ({}, "REQUEST_INVALID"),
    ],
)
async def test_an_endpoint_that_makes_no_sense_is_refused(output: Output, given: dict[str, Any], code: str) -> None:
    answer = await output.client.post("/v1/webhooks", json=given)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert "secret" not in answer.text


async def test_a_tenant_has_fifty_endpoints_at_most_even_when_it_asks_all_at_once(output: Output) -> None:
    asked = [output.stranger.post("/v1/webhooks", json={"url": f"https://example.com/{n}"}) for n in range(52)]
    answers = await asyncio.gather(*asked)
    assert sorted(answer.status_code for answer in answers) == [201] * 50 + [409] * 2
    for answer in answers:
        if answer.status_code == 201:
            await output.stranger.delete(f"/v1/webhooks/{answer.json()['id']}")


async def test_what_was_erased_is_in_no_delivery_and_what_is_told_of_it_late_is_told_to_nobody(
    output: Output, there: Endpoints, nc: Client
) -> None:
    story, path = whole(), "/erased"
    batch = batch_events(None, batch_id=uuid4())
    async with endpoint(output, there.url(path)):
        await project(output.engine, [*story.events[:1], *batch[:2]])
        [closed] = await heard(there, path)
        batch_id = UUID(closed.json()["data"]["batch_id"])
        asked = {"erasure_id": uuid4(), "part": 1, "tenant": "demo", "uploads": []}
        request = ErasureRequested.model_validate(asked | {"jobs": [story.job_id], "batch": batch_id})
        await Erasing(nc.jetstream(), output.engine, output.objects).erase(request)
        await project(output.engine, [*story.events[1:], *batch[2:]])
        async with output.engine.connect() as conn:
            for table in ("jobs", "phases", "events", "deliveries"):
                rows = text(f"SELECT count(*) FROM output.{table} AS t WHERE t::text LIKE ANY(:ids)")
                found = await conn.execute(rows, {"ids": [f"%{story.job_id}%", f"%{batch_id}%"]})
                assert found.scalar_one() == 0, table
