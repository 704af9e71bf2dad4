"""The bridge dies before and after each step of a call on Modal, and nothing is paid twice, nothing told twice.

The real SDK spawns on a local Modal platform, which runs what the real `modal deploy` brought in real processes. What
is counted is what was paid for: calls there whose body did the work, not results.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from contracts.phases import PHASE_SUCCEEDED, RunPhase
from tests.chaos.house import until
from tests.chaos.modal_house import APP, BRIDGE, SECOND, Bought, Epoch, ModalHouse
from tests.chaos.points import FREEZING_POINTS, MODAL_POINTS, STOPPING_POINTS, Point
from tests.servers.modal import ModalPlatform

CRASHES = [point for point in MODAL_POINTS if point not in STOPPING_POINTS]
# Of a submission, between these: it may have been made, and not have come to claim yet while its bridge is adopted
# from. Then it is made again, and whichever claims later does no work.
MAYBE_AGAIN = frozenset({"after spawn", "before note", "after note", "before commit"})


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModalHouse]:
    """Modal with our app for the CPU on it, servers, and a bridge: started once, only the bridge dies."""
    with ModalPlatform(tmp_path_factory.mktemp("modal")) as platform:
        house = ModalHouse(tmp_path_factory.mktemp("chaos"), platform)
        try:
            platform.deploy(APP, SAFELIGHT_MODAL_GPUS="")
            house.open()
            yield house
        finally:
            house.close()


@pytest.fixture(scope="module")
async def running(opened: ModalHouse) -> AsyncIterator[ModalHouse]:
    """The same with clients, after a first call: its containers are warm."""
    await opened.connect()
    await opened.furnish()
    await opened.sent(opened.given())
    await opened.quiet()
    yield opened
    await opened.disconnect()


@pytest.fixture
def house(running: ModalHouse) -> Iterator[ModalHouse]:
    """The same, without the faults of the test before."""
    running.forget()
    yield running
    running.platform.faults.clear()


def test_each_step_of_a_call_is_a_point() -> None:
    steps = {"inbox", "begin", "spawn", "note", "started", "answer", "record", "publish", "ack", "claim", "void"}
    assert steps <= {point.boundary for point in MODAL_POINTS}
    assert len({str(point) for point in MODAL_POINTS}) == len(MODAL_POINTS)


async def test_what_nobody_disturbs_is_bought_once(house: ModalHouse) -> None:
    given = await house.sent(house.given())
    bought = await ended_once(house, given)
    [handle] = bought.paid
    assert bought == Bought([Epoch(1, "modal", handle, None)], spawns=1, paid=[handle], local=0)


@pytest.mark.parametrize("point", CRASHES, ids=str)
async def test_a_crash_buys_nothing_twice(house: ModalHouse, point: Point) -> None:
    given = house.given()
    await house.kill(BRIDGE)
    match point.flow.scenario:
        case "lost":
            house.platform.faults.lose_after = 1
        case "void":
            house.platform.faults.lose_before = 2
    house.start(BRIDGE, point)
    try:
        await house.sent(given)
        await hit(house, point)
    finally:
        await house.gone(BRIDGE) if house.hit else await house.kill(BRIDGE)
        house.start(BRIDGE)
    bought = await ended_once(house, given)
    if point.flow.scenario == "void":
        given_up = [epoch for epoch in bought.epochs if epoch.provider == "modal" and epoch.code]
        assert len(given_up) == bought.local == len(bought.epochs) - 1, "who comes instead is paid instead"
        return
    assert [(epoch.epoch, epoch.provider) for epoch in bought.epochs] == [(1, "modal")]
    assert bought.paid == [bought.epochs[0].handle]
    unnoticed = "note" in point.flow.boundaries and point.place in MAYBE_AGAIN
    assert 1 <= bought.spawns <= (2 if unnoticed else 1)


@pytest.mark.parametrize("point", STOPPING_POINTS, ids=str)
async def test_a_crash_while_it_is_stopped_leaves_nothing_running(house: ModalHouse, point: Point) -> None:
    given = house.given()
    await house.kill(BRIDGE)
    house.platform.faults.hang = 1
    house.start(BRIDGE, point)
    try:
        await house.sent(given)
        handle = await under_way(house, given)
        await house.stopped(given)
        await hit(house, point)
    finally:
        await house.gone(BRIDGE) if house.hit else await house.kill(BRIDGE)
        house.start(BRIDGE)
    await house.quiet()
    assert house.terminated(handle)
    assert await house.outcomes(given) == []
    bought = await house.bought(given)
    assert [epoch.handle for epoch in bought.epochs] == [handle]
    assert (bought.spawns, bought.paid, bought.local) == (0, [], 0)


async def test_a_command_that_comes_again_follows_its_call(house: ModalHouse) -> None:
    given = await house.sent(house.given())
    await house.sent(given, message_id=f"{given.key}.while")
    await house.sent(house.given(job_id=given.job_id, strength=given.parameters["strength"]), f"{given.key}.other")
    bought = await ended_once(house, given)
    await house.sent(given, message_id=f"{given.key}.after")
    assert await ended_once(house, given) == bought
    assert (bought.spawns, len(bought.paid), len(bought.epochs)) == (1, 1, 1)


async def test_commands_for_the_same_work_are_answered_by_one_run(house: ModalHouse) -> None:
    first = house.given()
    others = [house.given(strength=first.parameters["strength"]) for _ in range(3)]
    house.platform.faults.held = True
    for one in (first, *others):
        await house.sent(one)
    await until_follow(house, first, 4)
    house.platform.faults.held = False
    bought = [await ended_once(house, one) for one in (first, *others)]
    assert bought[1:] == bought[:-1]
    assert (bought[0].spawns, len(bought[0].paid), len(bought[0].epochs)) == (1, 1, 1)


async def test_a_broker_that_dies_in_mid_call_changes_nothing(house: ModalHouse) -> None:
    spawns = house.platform.counters.spawns["run"]
    given = await house.sent(house.given())
    await until_spawned(house, spawns + 1)
    await asyncio.to_thread(house.restart_broker)
    bought = await ended_once(house, given)
    assert (bought.spawns, len(bought.paid), len(bought.epochs)) == (1, 1, 1)


async def test_of_two_bridges_either_may_die_in_mid_call(house: ModalHouse) -> None:
    spawns = house.platform.counters.spawns["run"]
    house.start_second()
    try:
        given = [house.given() for _ in range(12)]
        for one in given[:6]:
            await house.sent(one)
        await until_spawned(house, spawns + 1)
        await house.kill(BRIDGE)
        for one in given[6:]:
            await house.sent(one)
        house.start(BRIDGE)
        await until_spawned(house, spawns + 2)
        await house.kill(SECOND)
        bought = [await ended_once(house, one) for one in given]
    finally:
        if house.is_running(SECOND):
            await house.kill(SECOND)
    for each in bought:
        assert [(epoch.epoch, epoch.provider) for epoch in each.epochs] == [(1, "modal")]
        assert each.paid == [each.epochs[0].handle]
        assert each.spawns <= 2


@pytest.mark.parametrize("point", FREEZING_POINTS, ids=lambda point: f"frozen {point.place}")
async def test_a_bridge_that_was_taken_for_dead_buys_and_tells_nothing(house: ModalHouse, point: Point) -> None:
    await house.kill(BRIDGE)
    house.start(BRIDGE, point, freezes=True)
    spawns = house.platform.counters.spawns["run"]
    try:
        given = await house.sent(house.given())
        await hit(house, point)
        house.start_second()
        before = await ended_once(house, given)
        house.thaw(BRIDGE)
        await both_alive(house)
        if point.place == "before spawn":
            await until_spawned(house, spawns + 2)
        after = await ended_once(house, given)
    finally:
        house.thaw(BRIDGE)
        if house.is_running(SECOND):
            await house.kill(SECOND)
    assert (after.epochs, after.paid) == (before.epochs, before.paid)
    assert len(after.epochs) == 1
    assert after.spawns == (2 if point.place == "before spawn" else 1)


# -- what is asserted of every call -------------------------------------------------------------


async def ended_once(house: ModalHouse, given: RunPhase) -> Bought:
    """What was bought for a command when all is over.

    One outcome was published. Of all epochs one ended well, the last; one body ran to its end for it, and none for
    any other; and it is the one that the ledger knows.
    """
    await house.quiet()
    told = await house.outcomes(given)
    assert [one.subject for one in told] == [PHASE_SUCCEEDED.subject], told
    bought = await house.bought(given)
    assert [epoch.epoch for epoch in bought.epochs] == list(range(1, len(bought.epochs) + 1))
    assert [epoch.code is None for epoch in bought.epochs] == [*(False for _ in bought.epochs[1:]), True]
    assert len(bought.paid) + bought.local == 1, bought
    return bought


async def hit(house: ModalHouse, point: Point) -> None:
    """Wait until the bridge has died there."""

    async def dead() -> bool:
        return bool(house.hit)

    try:
        await until(dead, f"the point is hit: {point}", 20)
    except AssertionError:
        print(house.log(BRIDGE))
        raise
    assert house.hit == str(point)


async def under_way(house: ModalHouse, given: RunPhase) -> str:
    """Wait until a container has the call of a command, and the ledger its handle; which that is."""
    query = "SELECT c.handle FROM gpu_bridge.calls c JOIN gpu_bridge.commands o ON o.call = c.key WHERE o.key = $1"

    async def begun() -> str | None:
        handles = [row["handle"] for row in await house.ask(query, given.key) if row["handle"]]
        return next((one for one in handles if house.platform.calls[one].started), None)

    return await until(begun, "a container has the call")


async def until_spawned(house: ModalHouse, most: int) -> None:
    """Wait until Modal was asked so often."""

    async def asked() -> bool:
        return house.platform.counters.spawns["run"] >= most

    await until(asked, f"{most} spawns")


async def both_alive(house: ModalHouse) -> None:
    """Wait until two bridges keep their leases: one that froze is at work again."""

    async def alive() -> bool:
        return await house.bridges_alive() == 2

    await until(alive, "two bridges are alive")


async def until_follow(house: ModalHouse, given: RunPhase, commands: int) -> None:
    """Wait until so many commands follow one call."""
    query = (
        "SELECT count(*) AS n FROM gpu_bridge.commands WHERE call = "
        "(SELECT call FROM gpu_bridge.commands WHERE key = $1)"
    )

    async def following() -> bool:
        return bool((await house.ask(query, given.key))[0]["n"] == commands)

    await until(following, f"{commands} commands follow")
