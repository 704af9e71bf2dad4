"""When what is watched is looked at."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from gpu_bridge.call import Call, State
from gpu_bridge.watches import Pace, Watch, Watches

SLOW = Pace(first_s=3600, most_s=3600)
T = datetime(2026, 1, 1, tzinfo=UTC)


def watch(calls: int = 1) -> Watch:
    made = [
        Call(f"k{n}-{uuid4()}", 1, uuid4(), "style.apply", "t", State.RUNNING, "near", "h", T, T) for n in range(calls)
    ]
    return Watch(None, "h", made)


async def nothing_is_due(watches: Watches) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await watches.next()


async def test_what_is_added_is_looked_at_at_once_and_then_by_schedule() -> None:
    watches, one = Watches(SLOW), watch()
    watches.add(one)
    assert await watches.next() is one
    await nothing_is_due(watches)
    watches.visited(one)
    await nothing_is_due(watches)


async def test_news_hurry_a_look_and_cost_no_second_one() -> None:
    watches, one = Watches(SLOW), watch()
    watches.add(one)
    for _ in range(3):
        watches.hurry(one)
    assert await watches.next() is one
    one.wanted.clear()
    watches.visited(one)
    await nothing_is_due(watches)


async def test_news_that_come_during_a_look_bring_the_next_at_once() -> None:
    watches, one = Watches(SLOW), watch()
    watches.add(one)
    assert await watches.next() is one
    watches.hurry(one)
    watches.visited(one)
    assert await watches.next() is one


async def test_what_has_no_call_left_is_looked_at_no_more() -> None:
    watches, one, other = Watches(SLOW), watch(2), watch()
    watches.add(one)
    watches.add(other)
    for call in list(one.calls):
        watches.drop(one, call)
    assert await watches.next() is other
    assert len(watches) == 1


async def test_a_call_that_moved_to_another_watch_is_not_lost_with_the_first() -> None:
    watches, one = Watches(SLOW), watch()
    [call] = one.calls
    watches.add(one)
    other = Watch(None, "h2", [call])
    watches.add(other)
    watches.drop(one, call)
    assert watches.of(call.key) is other


async def test_the_more_there_are_the_more_rarely_each_is_looked_at() -> None:
    watches = Watches(Pace(first_s=0.1, most_s=3.0, polls_per_s=10.0))
    many = [watch() for _ in range(1000)]
    for one in many:
        watches.add(one)
    assert 75 <= watches._pause_s(many[0]) <= 125  # 1,000 at 10 a second
    assert watches.marks_every_s() == pytest.approx(200)
