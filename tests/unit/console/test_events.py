"""A job's event stream as the client reads it, and what each event makes of the job."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from itertools import pairwise
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.client import events_of
from console.jobs import Event, Job, Phase, after
from contracts.jobs import JobDead, JobPhaseChanged, JobStarted, JobSucceeded, Status
from contracts.message import Message
from contracts.phases import PhaseProgressed

JOB = UUID(int=7)
T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ABOUT: dict[str, Any] = {"job_id": JOB, "tenant": "t", "revision": 1, "at": T0}


class Pieces(httpx.AsyncByteStream):
    """A body that arrives in these pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def read(pieces: Sequence[bytes]) -> list[Event]:
    async def all_of_it() -> list[Event]:
        answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=Pieces(pieces))
        return [event async for event in events_of(answer)]

    with asyncio.Runner() as runner:
        return runner.run(all_of_it())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9999, 9999) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
EVENTS = st.lists(
    st.builds(
        Event,
        id=st.integers(1, 10**12).map(str),
        type=st.from_regex(r"[a-z]+\.v1\.[a-z]+", fullmatch=True),
        data=st.dictionaries(st.text(max_size=5), JSON, max_size=4),
    ),
    max_size=6,
)


@given(EVENTS, st.lists(st.integers(0, 2000), max_size=20), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_events_are_read_whole_however_the_network_cuts_them(
    events: list[Event], cuts: list[int], beating: bool, end: str
) -> None:
    lines = ["retry: 1000", ""]
    for event in events:
        # ensure_ascii=False: line separators such as U+2028 are text here, and no end of a line.
        data = json.dumps(event.data, ensure_ascii=False)
        lines += [f"id: {event.id}", f"event: {event.type}", f"data: {data}", ""]
        lines += [": still here", ""] if beating else []
    body = end.join([*lines, ""]).encode()
    at = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    pieces = [body[a:b] for a, b in pairwise(at)]
    assert read(pieces) == events


def test_an_event_that_is_cut_off_is_none() -> None:
    assert read([b'id: 1\nevent: a\ndata: {"a": 1}\n']) == []


# -- what events make of a job ---------------------------------------------------------------


def told(message: Message) -> Event:
    return Event("1", message.TYPE, message.model_dump(mode="json"))


def phase(name: str, status: Status, attempt: int = 1, **known: Any) -> Event:
    return told(JobPhaseChanged(**ABOUT, phase=name, status=status, attempt=attempt, **known))


def progressed(name: str, attempt: int, fraction: float) -> Event:
    return told(PhaseProgressed(job_id=JOB, phase=name, attempt=attempt, fraction=fraction, at=T0))


NEW = Job(id=JOB, pipeline="photo", status=Status.QUEUED, created_at=T0)
STARTED = told(
    JobStarted(**ABOUT, upload_id=JOB, pipeline="photo", pipeline_version=1, phases=["analyze", "style"], deadline=T0)
)
STORY = [
    STARTED,
    phase("analyze", Status.RUNNING),
    progressed("analyze", 1, 0.5),
    phase("analyze", Status.SUCCEEDED, engine="e", started_at=T0, ended_at=T0 + timedelta(seconds=1.5)),
    phase("style", Status.RUNNING),
    phase("style", Status.RUNNING, attempt=2, code="CALL_LOST", detail="died"),
    progressed("style", 2, 0.25),
    phase("style", Status.SUCCEEDED, attempt=2, degraded=True),
    told(JobSucceeded(**ABOUT, degraded=True)),
]


def following(events: Sequence[Event], job: Job = NEW) -> Job:
    return reduce(after, events, job)


def phases_of(job: Job) -> dict[str, Phase]:
    return {one.name: one for one in job.phases}


def test_a_started_job_knows_its_phases_in_order() -> None:
    job = following(STORY[:1])
    assert [(one.name, one.status) for one in job.phases] == [("analyze", Status.QUEUED), ("style", Status.QUEUED)]
    assert job.status is Status.RUNNING


def test_progress_moves_the_phase_that_runs() -> None:
    assert phases_of(following(STORY[:3]))["analyze"].progress == 0.5


def test_a_finished_phase_says_how_long_it_took() -> None:
    assert phases_of(following(STORY[:4]))["analyze"].seconds == 1.5


@pytest.mark.parametrize(
    ("late", "when"),
    [(progressed("style", 1, 0.9), STORY[:7]), (progressed("analyze", 1, 0.9), STORY[:4])],
    ids=["progress of an earlier try changes nothing", "progress after the end changes nothing"],
)
def test_late_progress_is_ignored(late: Event, when: list[Event]) -> None:
    assert following([*when, late]) == following(when)


def test_a_phase_that_is_tried_again_shows_why() -> None:
    style = phases_of(following(STORY[:6]))["style"]
    assert (style.status, style.attempt, style.error and style.error.code) == (Status.RUNNING, 2, "CALL_LOST")


def test_the_end_is_told_with_its_mark() -> None:
    job = following(STORY)
    assert (job.status, job.degraded, job.ended_at) == (Status.SUCCEEDED, True, T0)


def test_a_dead_job_says_why() -> None:
    job = following([STARTED, told(JobDead(**ABOUT, phase="style", code="PHASE_DEADLINE", detail="late"))])
    assert job.error is not None
    assert (job.status, job.error.code, job.error.phase) == (Status.DEAD, "PHASE_DEADLINE", "style")


@pytest.mark.parametrize("at", range(len(STORY) + 1))
def test_reading_the_stream_again_from_its_beginning_ends_in_the_same_job(at: int) -> None:
    assert following(STORY, job=following(STORY[:at])) == following(STORY)


def test_an_event_of_a_newer_service_changes_nothing() -> None:
    assert after(NEW, Event("1", "job.v9.levitated", {"at": "?"})) == NEW
