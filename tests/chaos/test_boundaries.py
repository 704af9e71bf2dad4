"""Every boundary fails once: a service is killed before it and after it, and what is left is as after a calm run.

An ordinary test run takes one side of each boundary; `just crashes` takes both (some eight minutes).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.chaos.house import House, until
from tests.chaos.hurdles import hurdles
from tests.chaos.ledger import Left, differences, left_of
from tests.chaos.points import CALM, POINTS, Point, one_side_of_each
from tests.chaos.scenarios import SCENARIOS

Calm = dict[str, list[Left]]
ALL = os.environ.get("SAFELIGHT_CRASHES") == "all"
HIT_S = 15.0  # a job may be over before the process dies that has ended it


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Servers and services, started once; a test restarts its victim only."""
    house = House(tmp_path_factory.mktemp("chaos"))
    try:
        house.open()
        yield house
    finally:
        house.close()


@pytest.fixture(scope="module")
async def house(opened: House) -> AsyncIterator[House]:
    """The same, with clients and a worker for no-op phases."""
    await opened.connect()
    async with hurdles(opened):
        yield opened
    await opened.disconnect()


@pytest.fixture(scope="module")
async def calm(house: House) -> Calm:
    """What each scenario leaves when nothing dies."""
    return {name: await play(house, name) for name in SCENARIOS}


async def play(house: House, scenario: str) -> list[Left]:
    """Send a scenario's jobs, wait until nothing is left to do, and read what they left."""
    house.forget()
    return await played(house, scenario)


async def played(house: House, scenario: str) -> list[Left]:
    jobs = await SCENARIOS[scenario](house)
    await house.quiet()
    return [await left_of(house, job) for job in jobs]


def test_there_are_enough_points() -> None:
    assert len(one_side_of_each(POINTS)) >= 60
    assert len({str(point) for point in POINTS}) == len(POINTS)


async def test_two_calm_runs_leave_the_same(house: House, calm: Calm) -> None:
    for name in SCENARIOS:
        for before, again in zip(calm[name], await play(house, name), strict=True):
            assert differences(before, again, CALM) == []


@pytest.mark.parametrize("point", POINTS if ALL else one_side_of_each(POINTS), ids=str)
async def test_a_crash_leaves_what_a_calm_run_leaves(house: House, calm: Calm, point: Point) -> None:
    allowed = point.tolerance or CALM
    before = await house.census()
    try:
        found = await crashed(house, point)
    except BaseException:
        await house.clean()
        raise
    expected = calm[allowed.like or point.flow.scenario]
    assert [line for pair in zip(expected, found, strict=True) for line in differences(*pair, allowed)] == []
    more, jobs = (await house.census()).since(before), sum(1 for left in found if left.rows["job"])
    assert more._replace(stored=0) == (jobs, jobs, jobs, 0), "an upload is one job"
    assert allowed.orphans[0] <= more.stored - jobs <= allowed.orphans[1]


async def crashed(house: House, point: Point) -> list[Left]:
    """Play the point's scenario while its service dies there once."""
    service = point.flow.service
    house.forget()
    if service == "gpu-functions":
        house.arm_worker(point)  # the bridge starts another one by itself
        found = await played(house, point.flow.scenario)
        assert house.hit == str(point)
        return found
    await house.kill(service)
    house.start(service, point)
    revival = asyncio.create_task(revived(house, point))
    try:
        found = await played(house, point.flow.scenario)
        await asyncio.wait_for(revival, HIT_S)
    except BaseException:
        print(house.log(service))
        raise
    finally:
        revival.cancel()
        await asyncio.gather(revival, return_exceptions=True)
        if not house.is_running(service):
            house.start(service)
    return found


async def revived(house: House, point: Point) -> None:
    """Wait until the victim has died at its point, and start it again, without one."""

    async def hit() -> bool:
        return bool(house.hit)

    await until(hit, f"the point is hit: {point}")
    assert house.hit == str(point)
    await house.gone(point.flow.service)
    house.start(point.flow.service)
