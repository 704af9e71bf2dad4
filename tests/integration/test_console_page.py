"""The page in a browser, before a small real service: it draws what events tell, and asks for what buttons say.

Needs `chromium` on the PATH (Debian: apt-get install chromium); without it these tests are skipped.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import reduce
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from console.jobs import Event, Job, after
from contracts.errors import SafelightError, error
from contracts.jobs import Status
from output.picture import CHANNELS
from runtime.http import problem_response
from tests.integration.console_upstream import Served, running
from tests.unit.output.stories import ALBUM, PHOTO, Story

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--headless=new", "--disable-background-networking"]
AT = "2026-01-02T03:04:05Z"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")


class Room(Served):
    """Serves `jobs` as they are, tells what `tell` says, and takes `asked` down."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.refusal: SafelightError | None = None
        self._streams: dict[str, asyncio.Queue[str]] = {}
        super().__init__(self._app())

    def job(self, number: int, status: Status, **known: Any) -> str:
        job_id = str(UUID(int=number))
        self.jobs[job_id] = {
            "id": job_id,
            "pipeline": "photo",
            "pipeline_version": 1,
            "status": status,
            "revision": 3,
            "degraded": False,
            "waiting_on": None,
            "batch_id": None,
            "trace_id": "f" * 32,
            "created_at": AT,
            "started_at": AT,
            "ended_at": AT if status.is_terminal else None,
            "error": None,
            "phases": [{"name": "analyze", "status": status, "attempt": 1, "revision": 3, "facts": {}}],
            "artifacts": [],
            **known,
        }
        return job_id

    def tell(self, job_id: str, kind: str, **data: Any) -> None:
        """The next event of the job's stream."""
        whole = {"job_id": job_id, "at": AT, "changes": [], "waiting_on": None, **data}
        text = f"id: {data['revision']}\nevent: {kind}\ndata: {json.dumps(whole)}\n\n"
        self.loop.call_soon_threadsafe(self._stream_of(job_id).put_nowait, text)

    def _stream_of(self, job_id: str) -> asyncio.Queue[str]:
        return self._streams.setdefault(job_id, asyncio.Queue())

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(SafelightError)
        async def told(_request: object, problem: SafelightError) -> Any:
            return problem_response(problem)

        @app.get("/live")
        async def live() -> None: ...

        @app.get("/v1/jobs")
        async def jobs() -> dict[str, Any]:
            return {"items": list(self.jobs.values()), "next_cursor": None}

        @app.get("/v1/jobs/{job_id}")
        async def job(job_id: str) -> dict[str, Any]:
            return self.jobs[job_id]

        @app.get("/v1/jobs/{job_id}/versions")
        async def versions(job_id: str) -> dict[str, Any]:
            return {"upload_id": job_id, "versions": self.versions.get(job_id, [])}

        @app.get("/v1/jobs/{job_id}/events")
        async def events(job_id: str) -> StreamingResponse:
            async def said() -> AsyncIterator[str]:
                yield "retry: 1000\n\n"
                while not Status(self.jobs[job_id]["status"]).is_terminal:
                    yield await self._stream_of(job_id).get()

            return StreamingResponse(said(), media_type="text/event-stream")

        @app.post("/v1/jobs/{job_id}/{action}")
        async def act(job_id: str, action: str) -> dict[str, Any]:
            self.asked.append((job_id, action))
            if self.refusal:
                raise self.refusal
            known = self.jobs[job_id]
            answers: dict[str, dict[str, Any]] = {
                "cancel": {"status": "cancelled", "ended_at": AT, "waiting_on": None},
                "retry": {"status": "running", "ended_at": None, "error": None},
                "pause": {"waiting_on": "paused by tenant:demo"},
                "resume": {"waiting_on": None},
            }
            self.jobs[job_id] = {**known, **answers[action], "revision": known["revision"] + 1}
            if action == "cancel":
                self.tell(job_id, "job.v1.cancelled", revision=known["revision"] + 1)
            return {"job_id": job_id, "status": self.jobs[job_id]["status"], "revision": known["revision"] + 1}

        return app


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Room, str]]:
    served = Room()
    with running(tmp_path_factory.mktemp("page"), served) as console:
        yield served, str(console.client.base_url)
    served.stop()


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        await started.close()


@pytest.fixture(scope="module")
async def shared(browser: Browser, room: tuple[Room, str]) -> AsyncIterator[Page]:
    """A page whose modules are there; nothing is clicked on it."""
    opened = await browser.new_page()
    await opened.goto(room[1])
    yield opened
    await opened.close()


@pytest.fixture
async def page(browser: Browser, room: tuple[Room, str]) -> AsyncIterator[Page]:
    served, url = room
    served.jobs.clear()
    served.asked.clear()
    served.refusal = None
    context = await browser.new_context()
    opened = await context.new_page()
    heard: list[str] = []
    opened.on("pageerror", lambda problem: heard.append(str(problem)))
    await opened.goto(url)
    yield opened
    with suppress(Exception):
        await context.close()
    assert heard == []


async def entered(page: Page, job_id: str) -> Locator:
    """The card of that job, once the list is there."""
    await page.get_by_label("API key").fill("a-key-of-the-tests-1")
    await page.get_by_role("button", name="Open").click()
    card = page.locator(".card", has=page.get_by_text(job_id[:8], exact=True))
    await expect(card).to_be_visible()
    return card


async def opened(page: Page, card: Locator) -> Locator:
    await card.get_by_role("button").click()
    return page.get_by_role("dialog")


# -- what buttons ask ------------------------------------------------------------------------


async def test_a_job_says_what_it_waits_for_and_can_be_cancelled(page: Page, room: tuple[Room, str]) -> None:
    served, _ = room
    batch = str(UUID(int=99))
    job_id = served.job(0x70000000 << 96, Status.RUNNING, waiting_on="queued behind 40 jobs", batch_id=batch)
    card = await entered(page, job_id)
    await expect(card).to_contain_text("queued behind 40 jobs")
    detail = await opened(page, card)
    await expect(detail).to_contain_text(batch)
    await detail.get_by_role("button", name="Cancel").click()
    await expect(card.locator(".badge")).to_contain_text("cancelled")
    await expect(card).not_to_contain_text("queued behind")
    await expect(detail.get_by_role("button", name="Retry")).to_be_visible()
    await expect(detail.get_by_role("button", name="Cancel")).to_have_count(0)
    assert served.asked == [(job_id, "cancel")]


async def test_a_job_stands_still_and_goes_on(page: Page, room: tuple[Room, str]) -> None:
    served, _ = room
    job_id = served.job(0x71000000 << 96, Status.RUNNING)
    detail = await opened(page, await entered(page, job_id))
    await detail.get_by_role("button", name="Pause").click()
    await expect(detail).to_contain_text("paused by tenant:demo")
    await detail.get_by_role("button", name="Resume").click()
    await expect(detail).not_to_contain_text("paused by")
    assert [action for _, action in served.asked] == ["pause", "resume"]


async def test_what_is_refused_says_why(page: Page, room: tuple[Room, str]) -> None:
    served, _ = room
    served.refusal = error("STATE_CONFLICT", "the job is succeeded")
    job_id = served.job(0x72000000 << 96, Status.RUNNING)
    detail = await opened(page, await entered(page, job_id))
    await detail.get_by_role("button", name="Pause").click()
    await expect(detail.get_by_role("alert")).to_contain_text("STATE_CONFLICT the job is succeeded")


async def test_a_dead_job_is_tried_again_and_followed_again(page: Page, room: tuple[Room, str]) -> None:
    served, _ = room
    problem = {"code": "CALL_LOST", "detail": "It died.", "phase": "analyze"}
    job_id = served.job(0x73000000 << 96, Status.DEAD, error=problem)
    card = await entered(page, job_id)
    await expect(card).to_contain_text("CALL_LOST")
    detail = await opened(page, card)
    await detail.get_by_role("button", name="Retry").click()
    await expect(card.locator(".badge")).to_contain_text("running")
    await expect(card).not_to_contain_text("CALL_LOST")
    served.tell(job_id, "job.v1.changed", revision=5, status="running", waiting_on="a retry")
    await expect(card).to_contain_text("a retry")
    served.jobs[job_id] |= {"status": "succeeded", "revision": 6, "ended_at": AT}
    served.tell(job_id, "job.v1.succeeded", revision=6)
    await expect(card.locator(".badge")).to_contain_text("succeeded")


async def test_a_job_that_succeeded_has_nothing_to_ask_for(page: Page, room: tuple[Room, str]) -> None:
    served, _ = room
    job_id = served.job(0x74000000 << 96, Status.SUCCEEDED)
    detail = await opened(page, await entered(page, job_id))
    await expect(detail.get_by_role("heading", name="Phases")).to_be_visible()
    for name in ("Pause", "Resume", "Cancel", "Retry"):
        await expect(detail.get_by_role("button", name=name)).to_have_count(0)


async def test_the_versions_of_a_photo_stand_side_by_side_and_open_each_other(
    page: Page, room: tuple[Room, str]
) -> None:
    served, _ = room
    ids = [served.job(0x75000000 + n << 96, Status.SUCCEEDED) for n in range(2)]
    asked = [{"style": "mono@1", "crop": "1:1"}, {"style": None, "crop": "1:1"}]
    both = [{"job_id": ids[n], "version": n + 1, "status": "succeeded", "options": asked[n]} for n in range(2)]
    served.versions = dict.fromkeys(ids, both)
    detail = await opened(page, await entered(page, ids[0]))
    versions = detail.locator(".versions button")
    await expect(versions).to_have_text(["1 style mono@1, crop 1:1", "2 style none"])
    await expect(detail.locator("[aria-current]")).to_contain_text("1 style")
    await versions.nth(1).click()
    await expect(detail.get_by_role("heading", level=2)).to_have_text(ids[1][:8])
    await expect(detail.locator("[aria-current]")).to_contain_text("2 style")


# -- what events make of a job ---------------------------------------------------------------

FOLD = """
async ([job, events]) => {
  const { after } = await import("/events.js");
  return events.reduce((job, event) => after(job, event), job);
}
"""
PHASE = ("name", "status", "attempt", "revision", "progress", "seconds", "engine", "degraded", "items")


def essence(job: dict[str, Any]) -> dict[str, Any]:
    known = ("status", "revision", "waiting_on", "degraded", "error")
    phases = [{name: phase.get(name) for name in PHASE} for phase in job["phases"]]
    for phase in phases:
        phase |= {"attempt": phase["attempt"] or 0, "degraded": bool(phase["degraded"])}
    return {name: job.get(name) for name in known} | {"ended": bool(job.get("ended_at")), "phases": phases}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(0, 20), pipeline=st.sampled_from([PHOTO, ALBUM]))
async def test_the_page_and_the_client_make_the_same_of_every_event(
    shared: Page, seed: int, steps: int, pipeline: Any
) -> None:
    chance = random.Random(seed)
    told = Story(pipeline=pipeline).wanders(chance, steps).progresses("analyze", 0.5).events
    mixed = [*told, *chance.choices(told, k=4)]
    chance.shuffle(mixed)
    events = [Event("1", CHANNELS[one.subject].message.TYPE, json.loads(one.body)) for one in mixed]
    new = Job(id=UUID(int=7), pipeline="photo", status=Status.QUEUED, created_at=AT)
    as_sent = [{"id": one.id, "type": one.type, "data": json.dumps(one.data)} for one in events]
    drawn = await shared.evaluate(FOLD, [new.model_dump(mode="json"), as_sent])
    assert essence(drawn) == essence(reduce(after, events, new).model_dump(mode="json"))
