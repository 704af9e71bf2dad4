"""The picture of a job: whatever the order of its events, the last one is the same."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import SafelightError
from contracts.jobs import Status
from output.picture import CHANNELS, NO_HINT, Picture
from runtime.outbox import Outgoing
from tests.unit.output.stories import ALBUM, PHOTO, STORIES, Story, artifact, whole


def apply(picture: Picture, one: Outgoing) -> bool:
    event = CHANNELS[one.subject].message.model_validate_json(one.body)
    return picture.apply(one.subject, event, "a trace")


def drawn(events: list[Outgoing]) -> Picture:
    """The picture after these events; those that are ahead of the first one come again after the others."""
    picture, left = Picture(), list(events)
    while left:
        again = []
        for one in left:
            try:
                apply(picture, one)
            except SafelightError:
                again.append(one)
        assert len(again) < len(left), "events are refused for ever"
        left = again
    return picture


def told(picture: Picture) -> dict[str, Any]:
    """All that it says, without hints."""
    assert picture.job is not None
    rows = {key: asdict(row) for key, row in sorted(picture.phases.items())}
    for row in rows.values():
        del row["hint"]
        row["progress"] = row["progress"] if Status(row["status"]).is_terminal else None
    return {"job": asdict(picture.job), "phases": rows}


@given(seed=st.integers(0, 2**32), steps=st.integers(0, 25), pipeline=st.sampled_from([PHOTO, ALBUM]))
def test_the_order_of_events_makes_no_difference(seed: int, steps: int, pipeline: Any) -> None:
    chance = random.Random(seed)  # a test's story
    story = Story(pipeline=pipeline).wanders(chance, steps)
    shuffled = [*story.events, *chance.choices(story.events, k=5)]  # some come twice
    chance.shuffle(shuffled)
    assert told(drawn(shuffled)) == told(drawn(story.events))


@pytest.mark.parametrize("ending", STORIES)
def test_it_says_what_the_machine_decided(ending: str) -> None:
    story = STORIES[ending]()
    picture = drawn(story.events)
    assert picture.job is not None
    assert story.job is not None
    assert picture.job.status == story.job.status == ending.split()[0]
    assert {name: row.status for (name, item), row in picture.phases.items() if not item} == {
        name: state.status for name, state in story.job.phases.items() if (name, "") in picture.phases
    }
    assert (picture.job.ended_at, picture.job.pipeline_version) == (story.job.ended_at, story.job.pipeline_version)


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 25), pipeline=st.sampled_from([PHOTO, ALBUM]))
def test_at_every_moment_it_says_what_the_machine_says(seed: int, steps: int, pipeline: Any) -> None:
    story = Story(pipeline=pipeline).wanders(random.Random(seed), steps)
    job, picture = story.job, drawn(story.events)
    assert job is not None
    assert picture.job is not None
    assert (picture.job.status, picture.job.ended_at, picture.job.degraded) == (
        job.status,
        job.ended_at,
        job.degraded and job.status is Status.SUCCEEDED,
    )
    for name, state in job.phases.items():
        row = picture.phases.get((name, ""))
        assert (row.status if row else Status.QUEUED) == state.status
        whole_revision = row.reset_revision if row else 0
        for item, unit in state.items.items():
            known = picture.phases.get((name, item))
            if known and known.revision >= whole_revision:
                assert known.status == unit.status


def test_what_is_known_is_no_news() -> None:
    picture, story = Picture(), whole()
    assert [apply(picture, one) for one in story.events] == [True] * len(story.events)
    assert [apply(picture, one) for one in story.events] == [False] * len(story.events)


def test_a_job_that_was_reopened_has_no_ending() -> None:
    story = Story().begins().succeeds("analyze").fails("crop", "MESSAGE_INVALID").is_retried()
    job = drawn(story.events).job
    assert job is not None
    assert (job.status, job.ended_at, job.error, job.degraded) == (Status.RUNNING, None, None, False)
    assert job.deadline is not None


def test_while_an_attempt_runs_its_progress_only_grows() -> None:
    picture = drawn(Story().begins().progresses("analyze", 0.6).progresses("analyze", 0.3).events)
    assert picture.phases["analyze", ""].progress == 0.6


def test_what_a_phase_tells_while_it_runs_is_gone_with_the_attempt() -> None:
    story = Story().begins().progresses("analyze", 0.3, artifact("preview.jpg"), loss=0.5)
    hint = json.loads(drawn(story.events).phases["analyze", ""].hint)
    assert hint["facts"] == {"loss": 0.5}
    assert [made["name"] for made in hint["artifacts"]] == ["preview.jpg"]
    for then in (story.fails("analyze", "CALL_LOST"), story.waits(60).progresses("analyze", 0.9, loss=0.1)):
        assert drawn(then.events).phases["analyze", ""].hint == NO_HINT, "attempt 1 is over"
    again = story.progresses("analyze", 0.1, attempt=2, loss=0.4)
    assert json.loads(drawn(again.events).phases["analyze", ""].hint)["facts"] == {"loss": 0.4}


def test_a_phase_that_fans_out_is_as_far_as_its_items() -> None:
    story = Story(pipeline=ALBUM).begins().succeeds("analyze", pages=["p1", "p2"]).succeeds("pages", item="p1")
    assert drawn(story.events).phases["pages", ""].progress == 0.5
