"""Output on real servers: events in any order make one picture, and nobody sees another's."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from sqlalchemy import text

from contracts.channel import Channel
from contracts.costs import CostNoted
from contracts.erasures import ErasureRequested
from contracts.phases import RUN_CROP, RUN_VARIANTS, RunPhase
from contracts.topology import COMMANDS
from output.app import build
from output.costs import Costs
from output.erasing import Erasing
from output.settings import Settings
from runtime.outbox import publish
from tests.integration.conftest import SettingsOf, until
from tests.integration.output_desk import KEY, KEYS, Output, all_of, desk, following, project
from tests.integration.wire import (
    command,
    gone,
    outcome,
    picture,
    send,
    served,
    settled,
    sha256,
    stored,
)
from tests.servers.fixtures import EnvironmentOf
from tests.servers.models import PostgresServer
from tests.unit.output.stories import ALBUM, PHOTO, START, STORIES, Story, album, artifact, whole


@pytest.fixture(scope="module")
async def output(prepared: object, settings_of: SettingsOf) -> AsyncIterator[Output]:
    async with desk(settings_of(Settings, "output", link_s=60, render_workers=1, **KEYS)) as made:
        yield made


# -- the projection -------------------------------------------------------------------------


async def answers(output: Output, story: Story) -> str:
    """All that can be read of the story's job, with its ids made those of any."""
    job = await output.job(story.job_id)
    pages = [await output.items(story.job_id, phase["name"]) for phase in job["phases"]]
    estimated = job | {"eta_s": job["eta_s"] is not None}  # from the moment of the question on
    return (
        json.dumps([estimated, pages])
        .replace(str(story.job_id), "JOB")
        .replace(str(story.upload.upload_id), "UPLOAD")
        .replace(story.job_id.hex, "TRACE")
    )


@pytest.mark.parametrize("ending", STORIES)
async def test_a_job_in_order_reads_as_it_went(output: Output, ending: str) -> None:
    story = STORIES[ending]()
    await project(output.engine, story.events)
    job = await output.job(story.job_id)
    assert job["status"] == ending.split()[0]
    assert job["trace_id"] == story.job_id.hex
    assert datetime.fromisoformat(job["created_at"]) == START
    assert job["started_at"]
    over = job["status"] != "running"
    assert (bool(job["ended_at"]), job["deadline"] is None) == (over, over)
    assert [phase["name"] for phase in job["phases"]] == [phase.name for phase in story.pipeline.phases]
    if ending == "succeeded":
        assert {phase["name"]: phase["status"] for phase in job["phases"]} == {
            **dict.fromkeys(("analyze", "crop", "variants"), "succeeded"),
            **dict.fromkeys(("style", "retouch", "cleanup"), "skipped"),
        }
        assert [(one["phase"], one["name"]) for one in job["artifacts"]] == [
            ("crop", "image.png"),
            ("variants", "web.jpg"),
            ("variants", "image.png"),
        ]
        assert (job["error"], job["degraded"]) == (None, False)
        assert job["phases"][0]["facts"] == {"width": 10}
    blamed = {"failed": "analyze", "failed at once": None, "dead": "crop"}
    if ending in blamed:
        assert job["error"]["phase"] == blamed[ending]
    else:
        assert job["error"] is None


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 20), pipeline=st.sampled_from([PHOTO, ALBUM]))
async def test_the_order_of_events_makes_no_difference(output: Output, seed: int, steps: int, pipeline: Any) -> None:
    straight, mixed = (Story(pipeline=pipeline).wanders(random.Random(seed), steps) for _ in range(2))
    chance = random.Random(seed)
    await project(output.engine, straight.events, repeat(50))
    shuffled = [*mixed.events, *chance.choices(mixed.events, k=4)]  # some come twice
    chance.shuffle(shuffled)
    await project(output.engine, shuffled, iter(lambda: chance.randint(1, 9), 0))
    assert await answers(output, mixed) == await answers(output, straight)


async def test_events_backwards_make_the_same_picture(output: Output) -> None:
    for make in STORIES.values():
        straight, backwards = make(), make()
        await project(output.engine, straight.events)
        await project(output.engine, list(reversed(backwards.events)))
        assert await answers(output, backwards) == await answers(output, straight)


async def test_processes_that_share_the_events_of_a_job_draw_one_picture(output: Output) -> None:
    stories, straight = [album() for _ in range(20)], album()
    await project(output.engine, straight.events)
    everything = [one for step in zip(*(story.events for story in stories), strict=True) for one in step]
    await asyncio.gather(*(project(output.engine, everything[n::4], repeat(7)) for n in range(4)))
    expected = await answers(output, straight)
    for story in stories:
        assert await answers(output, story) == expected


async def test_through_the_broker_the_last_event_first(output: Output, nc: Client) -> None:
    story, straight = whole(), whole()
    await project(output.engine, straight.events)
    expected = await answers(output, straight)
    for one in reversed(story.events):
        await publish(nc.jetstream(), [one])

    async def same() -> bool:
        return await answers(output, story) == expected

    await until(same)


async def test_while_a_phase_runs_its_progress_only_grows(output: Output) -> None:
    story = Story().begins().progresses("analyze", 0.6).progresses("analyze", 0.3)
    await project(output.engine, story.events)
    analyze = (await output.job(story.job_id))["phases"][0]
    assert (analyze["status"], analyze["progress"]) == ("running", 0.6)


async def test_what_a_phase_tells_and_shows_while_it_runs_gives_way_to_its_end(output: Output) -> None:
    early, late = [await stored(output.objects, picture(width=n), "image/jpeg") for n in (32, 64)]
    story = Story().begins().progresses("analyze", 0.6, artifact("preview.jpg", early), loss=0.5, eta_s=12)
    await project(output.engine, story.events)
    job = await output.job(story.job_id)
    assert (job["phases"][0]["status"], job["phases"][0]["facts"]) == ("running", {"loss": 0.5, "eta_s": 12})
    assert [(made["phase"], made["name"], made["sha256"]) for made in job["artifacts"]] == [
        ("analyze", "preview.jpg", early.sha256)
    ]
    assert (await output.client.get(job["artifacts"][0]["url"])).status_code == 307
    async with following(output.client, story.job_id) as events:
        data = json.loads([await anext(events) for _ in story.events][-1].data)
    assert (data["facts"], data["artifacts"][0]["name"]) == ({"loss": 0.5, "eta_s": 12}, "preview.jpg")

    await project(output.engine, story.succeeds("analyze", artifact("preview.jpg", late), psnr=41.9).events)
    job = await output.job(story.job_id)
    assert job["phases"][0]["facts"] == {"psnr": 41.9}
    assert [made["sha256"] for made in job["artifacts"]] == [late.sha256]


async def test_a_job_says_what_it_was_asked_for(output: Output) -> None:
    story = Story()
    await project(output.engine, story.events)
    assert (await output.job(story.job_id))["options"] == story.upload.options
    late = Story()
    await project(output.engine, late.begins().events[1:])  # the upload's own event has not come yet
    assert (await output.job(late.job_id))["options"] == {}


async def test_a_job_says_what_it_waits_for(output: Output) -> None:
    story = Story().begins().fails("analyze", "CALL_LOST").is_paused()
    await project(output.engine, story.events)
    job = await output.job(story.job_id)
    assert job["status"] == "running"
    assert job["waiting_on"].startswith("paused by operator:ops")
    await project(output.engine, story.is_cancelled().events)
    job = await output.job(story.job_id)
    assert (job["status"], job["waiting_on"], job["error"]) == ("cancelled", None, None)


async def test_a_job_that_is_retried_leaves_its_ending(output: Output) -> None:
    story = Story().begins().succeeds("analyze").fails("crop", "MESSAGE_INVALID")
    await project(output.engine, story.events)
    dead = await output.job(story.job_id)
    await project(output.engine, story.is_retried().events)
    job = await output.job(story.job_id)
    assert (dead["status"], dead["error"]["code"]) == ("dead", "MESSAGE_INVALID")
    assert (job["status"], job["ended_at"], job["error"]) == ("running", None, None)
    assert job["revision"] > dead["revision"]
    assert (job["created_at"], job["started_at"]) == (dead["created_at"], dead["started_at"])


# -- items ----------------------------------------------------------------------------------


async def test_a_phase_that_fans_out_counts_its_items_and_shows_them_on_pages(output: Output) -> None:
    story = album()
    await project(output.engine, story.events)
    job = await output.job(story.job_id)
    pages = job["phases"][1]
    assert (pages["status"], pages["items"]) == ("succeeded", {"total": 3, "ended": 3, "gave_up": 1})
    assert [phase["items"] for phase in job["phases"] if phase["name"] != "pages"] == [None, None]
    assert [made["phase"] for made in job["artifacts"]] == ["bind"], "those of items are on their pages"

    first = await output.items(story.job_id, "pages", limit="2")
    rest = await output.items(story.job_id, "pages", limit="2", cursor=first["next_cursor"])
    assert rest["next_cursor"] is None
    found = first["items"] + rest["items"]
    assert [(item["item"], item["status"]) for item in found] == [
        ("p1", "succeeded"),
        ("p2", "succeeded"),
        ("p3", "skipped"),
    ]
    assert found[2]["error"]["code"] == "IMAGE_CORRUPT"
    [made] = found[0]["artifacts"]
    assert (made["phase"], made["item"], made["name"]) == ("pages", "p1", "page.png")
    assert made["url"] == f"/v1/jobs/{story.job_id}/artifacts/pages.p1.page.png"


async def test_an_artifact_of_an_item_is_reached_by_its_name(output: Output) -> None:
    story = album()
    await project(output.engine, story.events)
    expected = {"pages.p1.page.png": 307, "pages.p3.page.png": 404, "page.png": 404, "pages.page.png": 404}
    found = {}
    for name in expected:
        found[name] = (await output.client.get(f"/v1/jobs/{story.job_id}/artifacts/{name}")).status_code
    assert found == expected


async def test_items_of_a_phase_that_began_anew_are_not_those_of_before(output: Output) -> None:
    story = album().is_retried("start").succeeds("analyze", attempt=2, pages=["q1"])
    await project(output.engine, story.events)
    pages = (await output.job(story.job_id))["phases"][1]
    assert pages["items"] == {"total": 1, "ended": 0, "gave_up": 0}
    assert [item["item"] for item in (await output.items(story.job_id, "pages"))["items"]] == ["q1"]
    gone = await output.client.get(f"/v1/jobs/{story.job_id}/artifacts/pages.p1.page.png")
    assert gone.status_code == 404


async def test_items_that_stay_good_are_kept_when_the_others_are_done_again(output: Output) -> None:
    story = album().is_retried()
    await project(output.engine, story.events)
    items = (await output.items(story.job_id, "pages"))["items"]
    assert {item["item"]: item["status"] for item in items} == {"p1": "succeeded", "p2": "succeeded", "p3": "running"}


@pytest.mark.parametrize(("phase", "status"), [("pages", 200), ("bind", 200), ("levitate", 404)])
async def test_only_a_phase_of_the_job_has_items(output: Output, phase: str, status: int) -> None:
    story = album()
    await project(output.engine, story.events)
    answer = await output.client.get(f"/v1/jobs/{story.job_id}/phases/{phase}/items")
    assert answer.status_code == status


@pytest.mark.parametrize("params", [{"cursor": "x"}, {"limit": "0"}], ids=["a cursor that is none", "no limit"])
async def test_a_page_of_items_that_makes_no_sense_is_refused(output: Output, params: dict[str, str]) -> None:
    story = album()
    await project(output.engine, story.events)
    answer = await output.client.get(f"/v1/jobs/{story.job_id}/phases/pages/items", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")


# -- who may read ---------------------------------------------------------------------------


async def test_another_tenant_is_told_that_there_is_no_such_job(output: Output) -> None:
    story = whole()
    await project(output.engine, story.events)
    paths = ("", "/events", "/phases/crop/items", "/artifacts/web.jpg", "/artifacts/original")
    answers = await asyncio.gather(*(output.stranger.get(f"/v1/jobs/{story.job_id}{path}") for path in paths))
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "NOT_FOUND")] * len(paths)
    listed = (await output.stranger.get("/v1/jobs", params={"limit": 200})).json()["items"]
    assert str(story.job_id) not in [job["id"] for job in listed]


async def test_without_a_key_nothing_is_read(output: Output) -> None:
    async with httpx.AsyncClient(base_url=output.site.url) as nobody:
        for path in ("", *(f"/{uuid4()}{end}" for end in ("", "/events", "/phases/x/items", "/artifacts/x"))):
            assert (await nobody.get(f"/v1/jobs{path}")).status_code == 401


async def test_an_operator_reads_every_tenants_jobs_and_nobodys_pictures(output: Output) -> None:
    story = whole(tenant="other")
    await project(output.engine, story.events)
    path = f"/v1/jobs/{story.job_id}"
    assert (await output.operator.get(path)).json()["status"] == "succeeded"
    assert (await output.operator.get(f"{path}/phases/crop/items")).status_code == 200
    assert [event.event for event in await all_of(output.operator, story.job_id)][-1] == "job.v1.succeeded"
    for name in ("web.jpg", "original"):
        answer = await output.operator.get(f"{path}/artifacts/{name}")
        assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")


async def test_an_operator_lists_the_jobs_of_the_tenant_that_it_names(output: Output) -> None:
    story = whole(tenant="other", at=datetime(2032, 1, 1, tzinfo=UTC))
    await project(output.engine, story.events)
    listed = await output.operator.get("/v1/jobs", params={"tenant": "other", "limit": "1"})
    assert [job["id"] for job in listed.json()["items"]] == [str(story.job_id)]
    unnamed = await output.operator.get("/v1/jobs")
    assert (unnamed.status_code, unnamed.json()["code"]) == (422, "REQUEST_INVALID")
    mine = await output.client.get("/v1/jobs", params={"tenant": "other"})
    assert (mine.status_code, mine.json()["code"]) == (403, "FORBIDDEN")


async def test_a_job_that_was_accepted_just_now_is_waited_for(output: Output, nc: Client) -> None:
    story = Story()
    asking = asyncio.create_task(output.client.get(f"/v1/jobs/{story.job_id}"))
    await until(lambda: story.job_id in output.app.state.news._waiting)
    await publish(nc.jetstream(), story.events)
    answer = await asking
    assert answer.status_code == 200
    assert answer.json()["status"] == "queued"


# -- artifacts ------------------------------------------------------------------------------


async def test_an_artifacts_link_works_for_whoever_has_it(output: Output) -> None:
    ref = await stored(output.objects, picture(), "image/jpeg")
    story = Story().begins().succeeds("analyze").succeeds("crop", artifact("image.png", ref))
    await project(output.engine, story.events)
    for name in ("image.png", "crop.image.png"):
        answer = await output.client.get(f"/v1/jobs/{story.job_id}/artifacts/{name}")
        assert answer.status_code == 307
        assert answer.headers["Cache-Control"] == "no-store"
        async with httpx.AsyncClient() as anyone:
            found = await anyone.get(answer.headers["Location"])
        assert (found.status_code, sha256(found.content)) == (200, ref.sha256)
        assert found.headers["Content-Disposition"] == 'inline; filename="image.png"'


async def test_a_name_that_two_phases_have_needs_its_phase(output: Output) -> None:
    story = whole()
    await project(output.engine, story.events)
    expected = {"image.png": 404, "crop.image.png": 307, "variants.image.png": 307, "web.jpg": 307, "no": 404}
    found = {}
    for name in expected:
        found[name] = (await output.client.get(f"/v1/jobs/{story.job_id}/artifacts/{name}")).status_code
    assert found == expected


async def test_a_link_stops_working(output: Output, settings_of: SettingsOf) -> None:
    ref = await stored(output.objects, picture(), "image/jpeg")
    story = Story().begins().succeeds("analyze").succeeds("crop", artifact("image.png", ref))
    await project(output.engine, story.events)
    short = build(settings_of(Settings, "output", link_s=1, api_keys=f"demo:{KEY}"))
    async with served(short) as site, httpx.AsyncClient() as client:
        headers = {"Authorization": f"Bearer {KEY}"}
        path = f"{site.url}/v1/jobs/{story.job_id}/artifacts/image.png"
        link = (await client.get(path, headers=headers)).headers["Location"]

        async def refused() -> bool:
            return (await client.get(link)).status_code == 403

        assert not await refused()
        await until(refused, 5)


# -- the stream of events -------------------------------------------------------------------


async def test_two_readers_are_told_everything_as_it_happens(output: Output, nc: Client) -> None:
    story = Story()
    await publish(nc.jetstream(), story.events)
    async with (
        asyncio.timeout(20),
        following(output.client, story.job_id) as one,
        following(output.client, story.job_id) as other,
    ):
        assert (await anext(one)).event == (await anext(other)).event == "upload.v1.received"
        told = len(story.events)
        story.begins()
        await publish(nc.jetstream(), story.events[told:])
        begun = [await anext(one) for _ in story.events[told:]]
        assert [event.event for event in begun] == ["job.v1.started"]
        told = len(story.events)
        story.fails("analyze", "IMAGE_CORRUPT")
        await publish(nc.jetstream(), story.events[told:])
        rest = [event async for event in one]
        all_the_rest = [event async for event in other]
    assert rest[-1].event == "job.v1.failed"
    assert [event.id for event in all_the_rest] == [event.id for event in [*begun, *rest]]
    assert all("original" not in json.loads(event.data) and "tenant" not in json.loads(event.data) for event in rest)


async def test_a_reader_goes_on_where_it_was(output: Output) -> None:
    story = whole()
    await project(output.engine, story.events)
    everything = await all_of(output.client, story.job_id)
    assert everything[-1].event == "job.v1.succeeded"
    assert sorted(int(event.id) for event in everything) == [int(event.id) for event in everything]
    rest = await all_of(output.client, story.job_id, everything[2].id)
    assert [event.id for event in rest] == [event.id for event in everything[3:]]
    path, last = f"/v1/jobs/{story.job_id}/events", everything[-1].id
    again = await output.client.get(path, headers={"Last-Event-ID": last})
    assert again.status_code == 204


async def test_an_event_that_comes_after_the_end_does_not_keep_a_reader(output: Output) -> None:
    story = whole()
    late = next(one for one in story.events if one.subject == "evt.job.v1.started")
    await project(output.engine, [one for one in story.events if one is not late])
    last = (await all_of(output.client, story.job_id))[-1]
    await project(output.engine, [late])
    rest = await all_of(output.client, story.job_id, last.id)
    assert [event.event for event in rest] == ["job.v1.started"]


@pytest.mark.parametrize("given", ["x", "-1", "1" * 19, "\u0661"])
async def test_an_id_that_is_none_is_refused(output: Output, given: str) -> None:
    headers = {b"Last-Event-ID": given.encode()}
    answer = await output.client.get(f"/v1/jobs/{uuid4()}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")


async def test_a_service_that_is_stopped_ends_its_streams(output: Output, environment_of: EnvironmentOf) -> None:
    story = Story().begins()
    await project(output.engine, story.events)
    given = environment_of("output")
    env = {"PATH": os.environ["PATH"], **given}
    started = asyncio.create_subprocess_exec(sys.executable, "-m", "output", env=env, stderr=asyncio.subprocess.PIPE)
    child = await started
    assert child.stderr
    reading = asyncio.create_task(child.stderr.read())
    key = given["SAFELIGHT_API_KEYS"].partition(":")[2]
    url = f"http://127.0.0.1:{given['SAFELIGHT_HTTP_PORT']}"
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:

        async def ready() -> bool:
            try:
                return (await client.get("/ready")).status_code == 200
            except httpx.HTTPError:
                return False

        await until(ready)
        async with following(client, story.job_id) as events:
            seen = [await anext(events) for _ in story.events]
            child.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert [event async for event in events] == []  # the stream ends whole, not by a broken connection
            assert time.monotonic() - asked < 4
    assert len(seen) == 2
    await asyncio.wait_for(child.wait(), 20)
    assert b"service.stopped" in await reading


async def test_news_are_heard_again_after_the_database_was_restarted(
    output: Output, nc: Client, postgres_server: PostgresServer
) -> None:
    story = Story()
    await publish(nc.jetstream(), story.events)
    async with asyncio.timeout(25), following(output.client, story.job_id) as events:
        assert (await anext(events)).event == "upload.v1.received"
        await asyncio.to_thread(postgres_server.restart)

        async def listens() -> bool:
            async with output.engine.connect() as conn:
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'safelight-news'"
                return bool((await conn.execute(text(query))).scalar_one())

        await until(listens, 10)
        story.begins()
        asked = time.monotonic()
        await publish(nc.jetstream(), story.events[1:])
        assert (await anext(events)).event == "job.v1.started"
        assert time.monotonic() - asked < 10  # by its news, not by the next heartbeat
    ready = await output.client.get("/ready")
    assert ready.status_code == 200, ready.text


# -- lists ----------------------------------------------------------------------------------


async def test_pages_miss_nothing_where_times_are_equal(output: Output) -> None:
    at = datetime(2031, 1, 1, tzinfo=UTC)
    stories = [Story(at=at) for _ in range(5)] + [Story(at=at + timedelta(seconds=n)) for n in range(2)]
    for story in stories:
        await project(output.engine, story.events)
    wanted, found, cursor = {str(story.job_id) for story in stories}, [], ""
    while True:
        params = {"limit": "2", "status": "queued", "pipeline": "photo"} | ({"cursor": cursor} if cursor else {})
        page = (await output.client.get("/v1/jobs", params=params)).json()
        found += page["items"]
        cursor = page["next_cursor"] or ""
        if not cursor or wanted <= {job["id"] for job in found}:
            break
    ours = [job["id"] for job in found if job["id"] in wanted]
    assert len(ours) == len(wanted) == len(set(ours))
    times = [job["created_at"] for job in found]
    assert times == sorted(times, reverse=True)


async def test_the_jobs_of_a_batch_are_listed(output: Output) -> None:
    batch = uuid4()
    stories = [Story(batch_id=batch).begins(), Story(batch_id=batch), Story().begins()]
    for story in stories:
        await project(output.engine, story.events)
    listed = (await output.client.get("/v1/jobs", params={"batch": str(batch)})).json()["items"]
    assert {job["id"] for job in listed} == {str(story.job_id) for story in stories[:2]}
    assert {job["batch_id"] for job in listed} == {str(batch)}
    assert (await output.stranger.get("/v1/jobs", params={"batch": str(batch)})).json()["items"] == []


async def test_jobs_are_found_by_what_became_of_them(output: Output) -> None:
    batch = uuid4()
    later = START + timedelta(days=400)
    broken = Story(batch_id=batch).begins().fails("analyze", "IMAGE_CORRUPT")
    dead = Story(batch_id=batch).begins().fails("analyze", "MESSAGE_INVALID")
    queued, new = Story(batch_id=batch), Story(batch_id=batch, at=later)
    for story in (broken, dead, queued, new):
        await project(output.engine, story.events)

    async def found(**query: Any) -> set[str]:
        answer = await output.client.get("/v1/jobs", params={"batch": str(batch), **query})
        return {job["id"] for job in answer.raise_for_status().json()["items"]}

    ids = {name: str(story.job_id) for name, story in (("b", broken), ("d", dead), ("q", queued), ("n", new))}
    cases: dict[str, dict[str, Any]] = {
        "bd": {"status": ["failed", "dead"]},
        "qn": {"status": "queued"},
        "b": {"code": "IMAGE_CORRUPT"},
        "d": {"upload": str(dead.upload.upload_id)},
        "n": {"created_from": later.isoformat()},
        "bdq": {"created_before": later.isoformat()},
        "bdqn": {"degraded": "false"},
        "": {"degraded": "true"},
    }
    for names, query in cases.items():
        assert await found(**query) == {ids[name] for name in names}, query


async def test_a_job_says_how_long_it_will_take_once_others_have_shown_it(output: Output) -> None:
    pipeline = replace(ALBUM, name=f"album-{uuid4().hex[:8]}")

    async def eta_s(story: Story) -> float | None:
        await project(output.engine, story.events)
        told: float | None = (await output.job(story.job_id))["eta_s"]
        return told

    assert await eta_s(Story(pipeline=pipeline).begins()) is None
    for _ in range(3):
        story = Story(pipeline=pipeline).begins().succeeds("analyze", pages=["p1"])
        await project(output.engine, story.succeeds("pages", item="p1").succeeds("bind").events)
        assert (await output.job(story.job_id))["status"] == "succeeded"
    begun = await eta_s(Story(pipeline=pipeline).begins())
    far = await eta_s(Story(pipeline=pipeline).begins().succeeds("analyze", pages=["p1"]).succeeds("pages", item="p1"))
    assert begun is not None
    assert far is not None
    assert 0 < far < begun
    assert (await output.job(story.job_id))["eta_s"] is None


def _facts(phash: int, at: str | None, cull: float) -> dict[str, Any]:
    return {"phash": f"{phash:016x}", "captured_at": at, "cull": {"score": cull, "parts": {}}}


async def test_a_batch_s_bursts_and_near_duplicates_are_told_with_the_best_of_each(output: Output) -> None:
    batch, scene, other = uuid4(), 0x0123456789ABCDEF, 0xF0F0F0F00F0F0F0F
    shown = (
        _facts(scene, "2024-05-06T12:00:00+02:00", 55.5),
        _facts(scene ^ 0b111, "2024-05-06T12:00:01+02:00", 81.0),
        _facts(other, "2024-05-06T12:00:02+02:00", 70.0),
        _facts(other ^ 1, None, 60.0),
        _facts(0xAAAA5555AAAA5555, None, 99.0),
    )
    stories = [Story(batch_id=batch).begins().succeeds("analyze", **facts) for facts in shown]
    stories.append(Story(batch_id=batch).begins())  # not analysed yet
    stories.append(Story(batch_id=batch).begins().succeeds("analyze", phash="no hash", captured_at=7))
    elsewhere = [Story().begins(), Story(batch_id=batch, tenant="other").begins()]
    for story in (*stories, *(one.succeeds("analyze", **shown[0]) for one in elsewhere)):
        await project(output.engine, story.events)
    one, two, three, four = (str(story.job_id) for story in stories[:4])
    path = f"/v1/batches/{batch}/groups"
    told = (await output.client.get(path)).raise_for_status().json()
    assert (told["batch_id"], told["photos"]) == (str(batch), 5)
    assert [
        (group["kind"], group["best"], [photo["job_id"] for photo in group["photos"]]) for group in told["groups"]
    ] == [
        ("burst", two, [one, two]),
        ("near-duplicate", three, [three, four]),
    ]
    assert told["groups"][0]["photos"][1] == {"job_id": two, "captured_at": "2024-05-06T12:00:01", "cull": 81.0}
    assert (await output.stranger.get(path)).json() == {"batch_id": str(batch), "photos": 1, "groups": []}
    assert (await output.operator.get(path, params={"tenant": "demo"})).json() == told
    assert (await output.operator.get(path)).status_code == 422
    assert (await output.stranger.get(path, params={"tenant": "demo"})).status_code == 403
    nobody = (await output.client.get(f"/v1/batches/{uuid4()}/groups")).json()
    assert (nobody["photos"], nobody["groups"]) == (0, [])


async def test_what_a_job_and_a_batch_have_cost_is_told_whenever_it_comes_until_it_is_erased(
    output: Output, nc: Client
) -> None:
    batch = uuid4()
    story, neighbour = Story(batch_id=batch).begins(), Story(batch_id=batch).begins()
    bought, call = Costs(output.engine), uuid4().hex
    lost = CostNoted(
        call=call, epoch=1, tenant="demo", job_id=story.job_id, phase="style", provider="modal", device="L4",
        billed_s=2.0, cost=0.25, currency="USD", at=START,
    )  # fmt: skip
    again = lost.model_copy(update={"epoch": 2, "billed_s": 3.0, "cost": 0.5})
    unpriced = again.model_copy(update={"call": f"{call}-x", "phase": "retouch", "cost": None, "currency": None})
    await bought.noted(again)  # ahead of its job's first event, and of the epoch before
    for one in (story, neighbour):
        await project(output.engine, one.events)
    for cost in (lost, again):
        await bought.noted(cost)
    dollars = {"amount": 0.75, "currency": "USD", "gpu_seconds": 5.0, "unpriced": 0}
    job = await output.job(story.job_id)
    phases = {phase["name"]: phase["cost"] for phase in job["phases"]}
    nothing = {"amount": 0.0, "currency": None, "gpu_seconds": 0.0, "unpriced": 0}
    assert (job["cost"], phases["style"], phases["crop"]) == (dollars, dollars, nothing)
    await bought.noted(unpriced)
    told = await output.job(story.job_id)
    assert told["cost"] == dollars | {"gpu_seconds": 8.0, "unpriced": 1}
    assert {phase["name"]: phase["cost"] for phase in told["phases"]}["retouch"]["amount"] is None
    path = f"/v1/batches/{batch}/cost"
    assert (await output.client.get(path)).json() == told["cost"] | {"batch_id": str(batch), "jobs": 2}
    assert (await output.stranger.get(path)).json() == nothing | {"batch_id": str(batch), "jobs": 0}
    assert (await output.stranger.get(path, params={"tenant": "demo"})).status_code == 403
    request = ErasureRequested(erasure_id=uuid4(), part=1, tenant="demo", jobs=[story.job_id], uploads=[])
    await Erasing(nc.jetstream(), output.engine, output.objects).erase(request)
    await bought.noted(lost)
    async with output.engine.connect() as conn:
        rows = text("SELECT count(*) FROM output.costs WHERE job_id = :id")
        assert (await conn.execute(rows, {"id": story.job_id})).scalar_one() == 0


def _cursor(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"cursor": "x"}, id="a cursor that is no base64"),
        pytest.param({"cursor": "é"}, id="a cursor that is not ASCII"),
        pytest.param({"cursor": _cursor("2026", "y")}, id="a cursor of something else"),
        pytest.param({"cursor": _cursor("0001-01-01T00:00:00+14:00", str(uuid4()))}, id="a cursor before time began"),
        pytest.param({"limit": "0"}, id="no limit"),
        pytest.param({"status": "lost"}, id="a status that is none"),
        pytest.param({"pipeline": "a\0b"}, id="a zero byte"),
        pytest.param({"batch": "x"}, id="a batch that is none"),
        pytest.param({"created_from": "0001-01-01T00:00:00+14:00"}, id="a time before time began"),
        pytest.param({"created_from": "2026-01-01T00:00:00"}, id="a time of no zone"),
        pytest.param({"code": "no code"}, id="a code that is none"),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(output: Output, params: dict[str, str]) -> None:
    answer = await output.client.get("/v1/jobs", params=params)
    assert (answer.status_code, answer.json()["code"]) == (422, "REQUEST_INVALID")


async def test_a_cursor_without_a_zone_is_read_or_refused(output: Output) -> None:
    answer = await output.client.get("/v1/jobs", params={"cursor": _cursor("2026-01-01", str(uuid4()))})
    assert answer.status_code in (200, 422)


# -- rendering ------------------------------------------------------------------------------


async def rendered(output: Output, nc: Client, given: RunPhase) -> list[dict[str, Any]]:
    """The artifacts of a render command; what each says of its object is true."""
    channel = RUN_CROP if given.phase == "crop" else RUN_VARIANTS
    done = await outcome(nc, await send(nc, channel, given))
    assert done.subject == "evt.phase.v1.succeeded", done.body
    artifacts: list[dict[str, Any]] = done.body["artifacts"]
    for one in artifacts:
        content = await output.objects.get(one["key"])
        assert one["key"] == f"jobs/{given.job_id}/{given.phase}/1/{one['name']}"
        assert (one["sha256"], one["size"]) == (sha256(content), len(content))
    return artifacts


async def test_a_crop_is_stored_as_it_says(output: Output, nc: Client) -> None:
    ref = await stored(output.objects, picture(), "image/jpeg")
    given = command("crop", inputs={"image": ref, "original": ref}, aspect="16:9", faces=[])
    [made] = await rendered(output, nc, given)
    assert (made["name"], made["media_type"], made["width"], made["height"]) == ("image.png", "image/png", 256, 144)


async def test_variants_are_stored_as_they_say(output: Output, nc: Client) -> None:
    ref = await stored(output.objects, picture(width=512), "image/jpeg")
    made = await rendered(output, nc, command("variants", inputs={"image": ref, "original": ref}))
    assert {one["name"]: (one["media_type"], one["width"]) for one in made} == {
        f"{size}.{suffix}": (f"image/{kind}", width)
        for size, width in (("web", 512), ("thumb", 400))
        for suffix, kind in (("jpg", "jpeg"), ("webp", "webp"), ("avif", "avif"))
    }


async def test_a_redelivered_render_tells_its_outcome_once(output: Output, nc: Client) -> None:
    ref = await stored(output.objects, picture(width=64), "image/jpeg")
    given = command("crop", inputs={"image": ref, "original": ref}, aspect="1:1", faces=[])
    await send(nc, RUN_CROP, given)
    await send(nc, RUN_CROP, given, f"{given.key} again")
    await settled(nc, RUN_CROP)
    await outcome(nc, given)  # which says that there is one


async def test_a_phase_is_called_as_its_pipeline_likes(output: Output, nc: Client) -> None:
    ref = await stored(output.objects, picture(width=64), "image/jpeg")
    given = command("passport", inputs={"image": ref, "original": ref}, aspect="1:1", faces=[])
    done = await outcome(nc, await send(nc, RUN_CROP, given))
    assert (done.subject, done.body["phase"], done.body["facts"]["aspect"]) == (
        "evt.phase.v1.succeeded",
        "passport",
        "1:1",
    )


@pytest.mark.parametrize(
    ("name", "image", "deadline_s", "code"),
    [
        pytest.param("sharpen", picture(), 60, "FUNCTION_UNKNOWN", id="a command that is not known here"),
        pytest.param("crop", b"no picture", 60, "IMAGE_CORRUPT", id="no picture"),
        pytest.param("variants", None, 60, "OBJECT_MISSING", id="an object that is gone"),
        pytest.param("variants", picture(), -1, "PHASE_DEADLINE", id="a deadline that has passed"),
    ],
)
async def test_what_cannot_be_rendered_is_a_failed_phase(
    output: Output, nc: Client, name: str, image: bytes | None, deadline_s: float, code: str
) -> None:
    ref = await stored(output.objects, image, "image/jpeg") if image else gone()
    given = command(name, inputs={"image": ref, "original": ref}, deadline_s=deadline_s, aspect="1:1", faces=[])
    failed = await outcome(nc, await send(nc, Channel(f"cmd.render.v1.run.{name}", RunPhase, COMMANDS.name), given))
    assert (failed.subject, failed.body["code"]) == ("evt.phase.v1.failed", code)
