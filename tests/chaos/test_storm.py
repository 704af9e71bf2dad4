"""The short form of `just chaos`: jobs run while services and servers are killed at random, and none is lost."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.home import Home
from tests.chaos.storm import Plan, stack_up, storm


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A stack of its own."""
    with stack_up(tmp_path) as home:
        yield home


async def test_whatever_is_killed_no_job_is_lost_or_ends_twice(home: Home) -> None:
    report = await storm(home, Plan(jobs=40, seconds=30, seed=secrets.randbelow(1_000_000), photos=0.25))
    print(report)
    assert report.kills.total() >= 3
    assert len(report.accepted) == report.plan.jobs
    assert report.wrong == []
