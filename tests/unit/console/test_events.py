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
from contracts.jobs import (
    JobCancelled,
    JobChanged,
    JobDead,
    JobFailed,
    JobReopened,
    JobStarted,
    JobSucceeded,
    PhaseChange,
    Status,
)
from contracts.message import Message
from contracts.phases import PhaseProgressed

JOB = UUID(int=7)
T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


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


def about(revision: int) -> dict[str, Any]:
    return {"job_id": JOB, "tenant": "t", "revision": revision, "at": T0}


def change(phase: str, status: Status, attempt: int = 1, **known: Any) -> PhaseChange:
    return PhaseChange(phase=phase, status=status, attempt=attempt, **known)


def changed(revision: int, *changes: PhaseChange, **known: Any) -> Event:
    status = known.pop("status", Status.RUNNING)
    return told(JobChanged(**about(revision), status=status, deadline=T0, changes=list(changes), **known))


def progressed(name: str, attempt: int, fraction: float, item: str | None = None, **facts: Any) -> Event:
    return told(
        PhaseProgressed(job_id=JOB, phase=name, item=item, attempt=attempt, fraction=fraction, at=T0, facts=facts)
    )


NEW = Job(id=JOB, pipeline="photo", status=Status.QUEUED, created_at=T0)
STARTED = told(
    JobStarted(
        **about(1),
        upload_id=JOB,
        pipeline="photo",
        pipeline_version=1,
        phases=["analyze", "style"],
        deadline=T0,
        changes=[change("analyze", Status.RUNNING)],
    )
)
DONE = change("analyze", Status.SUCCEEDED, engine="e", started_at=T0, ended_at=T0 + timedelta(seconds=1.5))
STORY = [
    STARTED,
    progressed("analyze", 1, 0.5),
    changed(2, DONE, change("style", Status.RUNNING)),
    changed(3, change("style", Status.RUNNING, code="CALL_LOST", detail="died", retry_at=T0), waiting_on="a retry"),
    changed(4, change("style", Status.RUNNING, attempt=2, code="CALL_LOST", detail="died")),
    progressed("style", 2, 0.25),
    told(
        JobSucceeded(**about(5), degraded=True, changes=[change("style", Status.SUCCEEDED, attempt=2, degraded=True)])
    ),
]
DEAD = told(JobDead(**about(6), phase="style", code="PHASE_DEADLINE", detail="late"))
REOPENED = told(
    JobReopened(
        **about(7),
        status=Status.RUNNING,
        pipeline_version=2,
        phases=["analyze", "style", "frame"],
        deadline=T0,
        changes=[change("style", Status.RUNNING, attempt=3)],
    )
)


def following(events: Sequence[Event], job: Job = NEW) -> Job:
    return reduce(after, events, job)


def phases_of(job: Job) -> dict[str, Phase]:
    return {one.name: one for one in job.phases}


def test_a_started_job_knows_its_phases_in_order() -> None:
    job = following(STORY[:1])
    assert [(one.name, one.status) for one in job.phases] == [("analyze", Status.RUNNING), ("style", Status.QUEUED)]
    assert job.status is Status.RUNNING


def test_a_job_that_found_no_room_waits_and_says_so() -> None:
    known = {"upload_id": JOB, "pipeline": "photo", "pipeline_version": 1, "phases": ["analyze"], "deadline": T0}
    why = "analyze is queued behind 40 jobs of tenant t"
    waits = told(JobStarted(**about(1), **known, changes=[change("analyze", Status.QUEUED, 0)], waiting_on=why))
    job = following([waits])
    assert (job.status, job.waiting_on) == (Status.QUEUED, why)


def test_numbers_of_a_phase_that_runs_give_way_to_what_it_found_out() -> None:
    job = following([*STORY[:1], progressed("analyze", 1, 0.5, eta_s=12)])
    assert phases_of(job)["analyze"].facts == {"eta_s": 12}
    ended = changed(9, change("analyze", Status.SUCCEEDED, facts={"faces": []}))
    assert phases_of(after(job, ended))["analyze"].facts == {"faces": []}


def test_progress_moves_the_phase_that_runs() -> None:
    assert phases_of(following(STORY[:2]))["analyze"].progress == 0.5


def test_a_finished_phase_says_how_long_it_took() -> None:
    assert phases_of(following(STORY[:3]))["analyze"].seconds == 1.5


@pytest.mark.parametrize(
    ("late", "when"),
    [
        (progressed("style", 1, 0.9), STORY[:6]),
        (progressed("analyze", 1, 0.9), STORY[:3]),
        (changed(1, change("style", Status.RUNNING, attempt=9)), STORY[:4]),
        (STORY[4], STORY),
        (STARTED, STORY[:4]),
    ],
    ids=[
        "progress of an earlier try",
        "progress after the end of its phase",
        "a decision that is older than the phase's newest",
        "a decision after the job's end",
        "the beginning once more",
    ],
)
def test_what_is_late_changes_nothing(late: Event, when: list[Event]) -> None:
    assert following([*when, late]) == following(when)


def test_a_late_decision_still_moves_the_phases_that_no_newer_one_has_moved() -> None:
    job = following([STARTED, changed(3, change("style", Status.RUNNING)), changed(2, DONE)])
    assert (phases_of(job)["analyze"].status, job.revision) == (Status.SUCCEEDED, 3)


def test_a_phase_that_is_tried_again_shows_why() -> None:
    job = following(STORY[:4])
    style = phases_of(job)["style"]
    assert (style.status, style.retry_at, style.error and style.error.code) == (Status.RUNNING, T0, "CALL_LOST")
    assert job.waiting_on == "a retry"
    assert following(STORY[:5]).waiting_on is None


def test_items_are_counted_and_their_phase_is_as_far_as_they_are() -> None:
    counts = {"total": 4, "ended": 1, "gave_up": 0}
    whole = change("style", Status.RUNNING, items=counts)
    item = change("style", Status.SUCCEEDED, item="p1")
    job = following([STARTED, changed(2, whole, item), progressed("style", 1, 0.9, item="p2")])
    style = phases_of(job)["style"]
    assert (style.status, style.progress, style.items and style.items.model_dump()) == (Status.RUNNING, 0.25, counts)


def test_the_end_is_told_with_its_mark() -> None:
    job = following(STORY)
    assert (job.status, job.degraded, job.ended_at) == (Status.SUCCEEDED, True, T0)


def test_a_dead_job_says_why() -> None:
    job = following([STARTED, DEAD])
    assert job.error is not None
    assert (job.status, job.error.code, job.error.phase) == (Status.DEAD, "PHASE_DEADLINE", "style")


def test_a_job_that_is_reopened_leaves_its_ending() -> None:
    job = following([STARTED, DEAD, REOPENED])
    assert (job.status, job.ended_at, job.error) == (Status.RUNNING, None, None)
    assert [(one.name, one.status) for one in job.phases][1:] == [("style", Status.RUNNING), ("frame", Status.QUEUED)]


def test_a_cancelled_job_has_no_error() -> None:
    job = following([STARTED, told(JobCancelled(**about(2), changes=[change("analyze", Status.CANCELLED)]))])
    assert (job.status, job.error, job.ended_at) == (Status.CANCELLED, None, T0)
    assert phases_of(job)["analyze"].status is Status.CANCELLED


def test_a_job_that_ends_as_it_begins_has_ended() -> None:
    failed = told(JobFailed(**about(1), code="MEDIA_TYPE_UNSUPPORTED"))
    assert following([STARTED, failed]).status is Status.FAILED
    assert following([failed, STARTED]).status is Status.FAILED


@pytest.mark.parametrize("at", range(len(STORY) + 1))
def test_reading_the_stream_again_from_its_beginning_ends_in_the_same_job(at: int) -> None:
    assert following(STORY, job=following(STORY[:at])) == following(STORY)


@given(st.permutations([*STORY, DEAD, REOPENED]))
def test_the_order_of_events_makes_no_difference(events: list[Event]) -> None:
    mixed, straight = following([STARTED, *events]), following([*STORY, DEAD, REOPENED])
    assert without_hints(mixed) == without_hints(straight)


def without_hints(job: Job) -> Job:
    """Progress may be lost on its way."""
    return job.model_copy(update={"phases": tuple(one.model_copy(update={"progress": None}) for one in job.phases)})


def test_an_event_of_a_newer_service_changes_nothing() -> None:
    assert after(NEW, Event("1", "job.v9.levitated", {"at": "?"})) == NEW
