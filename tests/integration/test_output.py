"""Output on real servers: events in any order make one picture, and nobody sees another's."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from httpx_sse import ServerSentEvent, aconnect_sse
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import Artifact, ObjectRef
from contracts.errors import Transient
from contracts.phases import (
    PHASE_PROGRESSED,
    RUN_CROP,
    RUN_VARIANTS,
    PhaseFailed,
    PhaseProgressed,
    PhaseSucceeded,
    RunPhase,
)
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from orchestrator.machine.decide import decide
from orchestrator.machine.effects import Event
from orchestrator.machine.inputs import Begin, Failed, Input, Succeeded, TimeReached
from orchestrator.machine.job import Job
from orchestrator.pipelines import PHOTO
from output.app import build
from output.projection import Projection
from output.settings import Settings
from runtime import postgres
from runtime.objects import Objects
from runtime.outbox import Outgoing, outgoing, publish
from runtime.settle import Delivery
from tests.integration.conftest import SettingsOf, until
from tests.integration.wire import (
    Site,
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

KEY, OTHER_KEY = "a-key-of-the-tests-1", "a-key-of-the-tests-2"
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Output:
    """Output as its callers see it; `stranger` is another tenant."""

    app: FastAPI
    site: Site
    engine: AsyncEngine
    objects: Objects
    client: httpx.AsyncClient = field(init=False)
    stranger: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client, self.stranger = (
            httpx.AsyncClient(base_url=self.site.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
            for key in (KEY, OTHER_KEY)
        )

    async def job(self, job_id: UUID) -> dict[str, Any]:
        answer = await self.client.get(f"/v1/jobs/{job_id}")
        found: dict[str, Any] = answer.raise_for_status().json()
        return found


@pytest.fixture(scope="module")
async def output(prepared: object, settings_of: SettingsOf) -> AsyncIterator[Output]:
    known = settings_of(Settings, "output", link_s=60, render_workers=1, api_keys=f"demo:{KEY},other:{OTHER_KEY}")
    engine = postgres.create_engine(known.postgres_url.get_secret_value(), service="test")
    objects = Objects(known)
    async with served(app := build(known)) as site:
        made = Output(app, site, engine, objects)
        yield made
        await made.client.aclose()
        await made.stranger.aclose()
    objects.close()
    await engine.dispose()


# -- a job as it is recorded ----------------------------------------------------------------


@dataclass
class Story:
    """The events of one job, in order, as ingest and the orchestrator's own machine would tell them."""

    job_id: UUID = field(default_factory=uuid4)
    tenant: str = "demo"
    at: datetime = START
    media_type: str = "image/jpeg"
    events: list[Outgoing] = field(default_factory=list)
    _job: Job | None = None
    _revision: int = 0

    def __post_init__(self) -> None:
        original = ObjectRef(key="uploads/x", sha256="0" * 64, size=9, media_type=self.media_type)
        self.upload = UploadReceived(
            upload_id=uuid4(),
            job_id=self.job_id,
            tenant=self.tenant,
            pipeline="photo",
            original=original,
            options={"style": None, "crop": "1:1"},
            received_at=self.at,
        )
        self._tell(UPLOAD_RECEIVED, self.upload)

    def begins(self) -> Story:
        return self._give(Begin(self.upload, PHOTO, self._later()))

    def progresses(self, phase: str, fraction: float) -> Story:
        event = PhaseProgressed(job_id=self.job_id, phase=phase, attempt=1, fraction=fraction, at=self._later())
        self._tell(PHASE_PROGRESSED, event)
        return self

    def succeeds(self, phase: str, *artifacts: Artifact, attempt: int = 1, **facts: Any) -> Story:
        about: dict[str, Any] = {"job_id": self.job_id, "phase": phase, "attempt": attempt, "engine": "test@1"}
        now = self._later()
        ended = PhaseSucceeded(**about, artifacts=list(artifacts), facts=facts, started_at=now, ended_at=now)
        return self._give(Succeeded(ended, now))

    def fails(self, phase: str, code: str, attempt: int = 1) -> Story:
        now = self._later()
        ended = PhaseFailed(job_id=self.job_id, phase=phase, attempt=attempt, code=code, ended_at=now)
        return self._give(Failed(ended, now))

    def waits(self, seconds: float) -> Story:
        self.at += timedelta(seconds=seconds)
        return self._give(TimeReached(self.at))

    def _later(self) -> datetime:
        self.at += timedelta(seconds=1)
        return self.at

    def _give(self, given: Input) -> Story:
        decision = decide(self._job, self._revision + 1, PHOTO, given)
        assert not decision.ignored
        self._job, self._revision = decision.job, self._revision + 1
        for effect in decision.effects:
            if isinstance(effect, Event):
                self._tell(effect.channel, effect.message)
        return self

    def _tell(self, channel: Any, message: Any) -> None:
        message_id = f"{self.job_id}.{len(self.events)}"
        made = outgoing(channel, message, message_id=message_id, key=str(self.job_id), source="test")
        made.headers["traceparent"] = f"00-{self.job_id.hex}-00f067aa0ba902b7-01"
        self.events.append(made)


def whole(**about: Any) -> Story:
    """A job that succeeded, with a progress on the way."""
    story = Story(**about).begins().progresses("analyze", 0.5)
    story.succeeds("analyze", width=10)
    story.succeeds("crop", artifact("image.png")).progresses("variants", 0.5)
    return story.succeeds("variants", artifact("web.jpg"), artifact("image.png"))


def artifact(name: str, ref: ObjectRef | None = None) -> Artifact:
    ref = ref or ObjectRef(key=f"jobs/{name}", sha256="1" * 64, size=9, media_type="image/jpeg")
    return Artifact(**ref.model_dump(), name=name, width=4, height=3)


def retried() -> Story:
    """A job that succeeded although a phase had to be tried again."""
    story = Story().begins().progresses("analyze", 0.9).fails("analyze", "CALL_LOST").waits(60)
    return story.succeeds("analyze", attempt=2).succeeds("crop").succeeds("variants")


STORIES: dict[str, Callable[[], Story]] = {
    "succeeded": whole,
    "succeeded at the second try": retried,
    "failed": lambda: Story().begins().fails("analyze", "IMAGE_CORRUPT"),
    "failed at once": lambda: Story(media_type="application/pdf").begins(),
    "dead": lambda: Story().begins().succeeds("analyze").fails("crop", "MESSAGE_INVALID"),
}


# -- the projection -------------------------------------------------------------------------


async def project(engine: AsyncEngine, events: Sequence[Outgoing]) -> None:
    """Project one by one; what is refused for now comes again after the others, as settle does it."""
    projection, left = Projection(engine), list(events)
    for _ in range(len(events) + 1):
        again = []
        for one in left:
            delivery = Delivery(Msg(None, one.subject, "", one.body, one.headers))  # type: ignore[arg-type]
            try:
                await projection.events([delivery])
            except Transient:
                again.append(one)
        if not again:
            return
        left = again
    raise AssertionError("an event is refused for ever")


def comparable(job: dict[str, Any], story: Story) -> str:
    """The answer with the ids of this story made those of any."""
    return (
        json.dumps(job)
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
    assert job["ended_at"]
    assert [phase["name"] for phase in job["phases"]] == [phase.name for phase in PHOTO.phases]
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
    if not ending.startswith("succeeded"):
        assert job["error"]["phase"] == {"failed": "analyze", "failed at once": None, "dead": "crop"}[ending]


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(chance=st.randoms(use_true_random=False), ending=st.sampled_from(sorted(STORIES)))
async def test_the_order_of_events_makes_no_difference(output: Output, chance: Any, ending: str) -> None:
    straight, mixed = STORIES[ending](), STORIES[ending]()
    await project(output.engine, straight.events)
    shuffled = [*mixed.events, *chance.choices(mixed.events, k=4)]  # some come twice
    chance.shuffle(shuffled)
    await project(output.engine, shuffled)
    expected = comparable(await output.job(straight.job_id), straight)
    assert comparable(await output.job(mixed.job_id), mixed) == expected


async def test_events_backwards_make_the_same_picture(output: Output) -> None:
    for make in STORIES.values():
        straight, backwards = make(), make()
        await project(output.engine, straight.events)
        await project(output.engine, list(reversed(backwards.events)))
        expected = comparable(await output.job(straight.job_id), straight)
        assert comparable(await output.job(backwards.job_id), backwards) == expected


async def test_through_the_broker_the_last_event_first(output: Output, nc: Client) -> None:
    story, straight = whole(), whole()
    await project(output.engine, straight.events)
    expected = comparable(await output.job(straight.job_id), straight)
    for one in reversed(story.events):
        await publish(nc.jetstream(), [one])

    async def same() -> bool:
        return comparable(await output.job(story.job_id), story) == expected

    await until(same)


async def test_while_a_phase_runs_its_progress_only_grows(output: Output) -> None:
    story = Story().begins().progresses("analyze", 0.6).progresses("analyze", 0.3)
    await project(output.engine, story.events)
    analyze = (await output.job(story.job_id))["phases"][0]
    assert (analyze["status"], analyze["progress"]) == ("running", 0.6)


# -- who may read ---------------------------------------------------------------------------


async def test_another_tenant_is_told_that_there_is_no_such_job(output: Output) -> None:
    story = whole()
    await project(output.engine, story.events)
    paths = ("", "/events", "/artifacts/web.jpg", "/artifacts/original")
    answers = await asyncio.gather(*(output.stranger.get(f"/v1/jobs/{story.job_id}{path}") for path in paths))
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "NOT_FOUND")] * len(paths)
    listed = (await output.stranger.get("/v1/jobs", params={"limit": 200})).json()["items"]
    assert str(story.job_id) not in [job["id"] for job in listed]


async def test_without_a_key_nothing_is_read(output: Output) -> None:
    async with httpx.AsyncClient(base_url=output.site.url) as nobody:
        for path in ("", f"/{uuid4()}", f"/{uuid4()}/events", f"/{uuid4()}/artifacts/x"):
            assert (await nobody.get(f"/v1/jobs{path}")).status_code == 401


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


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, job_id: UUID, after: str | None = None
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    headers = {"Last-Event-ID": after} if after else {}
    async with aconnect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.response.status_code == 200
        yield (one async for one in stream.aiter_sse() if one.data)  # "retry:" alone is no event


async def all_of(client: httpx.AsyncClient, job_id: UUID, after: str | None = None) -> list[ServerSentEvent]:
    """Every event until the stream ends by itself."""
    async with asyncio.timeout(20), following(client, job_id, after) as events:
        return [one async for one in events]


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
        assert [event.event for event in begun] == ["job.v1.started", "job.v1.phasechanged"]
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
    assert len(seen) == 3
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


@pytest.mark.parametrize(
    ("phase", "image", "deadline_s", "code"),
    [
        pytest.param("sharpen", picture(), 60, "FUNCTION_UNKNOWN", id="a phase that is not rendered here"),
        pytest.param("crop", b"no picture", 60, "IMAGE_CORRUPT", id="no picture"),
        pytest.param("variants", None, 60, "OBJECT_MISSING", id="an object that is gone"),
        pytest.param("variants", picture(), -1, "PHASE_DEADLINE", id="a deadline that has passed"),
    ],
)
async def test_what_cannot_be_rendered_is_a_failed_phase(
    output: Output, nc: Client, phase: str, image: bytes | None, deadline_s: float, code: str
) -> None:
    ref = await stored(output.objects, image, "image/jpeg") if image else gone()
    given = command(phase, inputs={"image": ref, "original": ref}, deadline_s=deadline_s, aspect="1:1", faces=[])
    failed = await outcome(nc, await send(nc, RUN_CROP, given))
    assert (failed.subject, failed.body["code"]) == ("evt.phase.v1.failed", code)
