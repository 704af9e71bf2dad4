"""What is sent, and when it is over. A scenario gives the jobs whose rows are compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID, uuid4

from contracts.message import HEADER_ID, HEADER_MESSAGE_ID, HEADER_SUBJECT
from contracts.phases import PHASE_FAILED
from tests.chaos.house import House, until

Scenario = Callable[[House], Awaitable[list[UUID]]]


async def photo(house: House) -> list[UUID]:
    """A photo with a style: every service has a part in it."""
    job = await house.upload("photo", style="mono")
    await house.ended(job)
    return [job]


async def plain(house: House) -> list[UUID]:
    """One phase: enough where only the way of a message counts."""
    return await _through(house, "plain")


async def rendered(house: House) -> list[UUID]:
    """One phase, which makes artifacts."""
    return await _through(house, "rendered")


async def retried(house: House) -> list[UUID]:
    """The same, but the style's first attempt fails as if its worker had died."""
    house.fail_call()
    return await photo(house)


async def stumbles(house: House) -> list[UUID]:
    """A first attempt fails: a timer gives the second."""
    return await _through(house, "stumbles")


async def refused(house: House) -> list[UUID]:
    """A command that no delivery of which is handled becomes a dead letter."""
    return await _through(house, "refused")


async def vanished(house: House) -> list[UUID]:
    """A command that no delivery of which is settled is told of by the broker."""
    return await _through(house, "vanished")


async def narrow(house: House) -> list[UUID]:
    """Two jobs and room for one: the second waits, and is admitted when the first is through."""
    first = await house.upload("narrow")

    async def begun() -> bool:
        return bool(await house.ask("SELECT 1 FROM orchestrator.jobs WHERE id = $1", first))

    await until(begun, "the first has taken the room")
    jobs = [first, await house.upload("narrow")]
    for job in jobs:
        await house.ended(job)
    return jobs


async def cancelled(house: House) -> list[UUID]:
    """A job is cancelled while a provider works on its style."""
    house.hold_calls()
    try:
        job = await house.upload("photo", style="mono")

        async def begun() -> bool:
            return await house.begun(job)

        await until(begun, "the style has begun")
        await house.cancel(job)
        await house.ended(job)
        await house.quiet()
    finally:
        house.release_calls()
    return [job]


async def broken(house: House) -> list[UUID]:
    """An event that is none: nobody can take it, so it is kept for people. Its `job` names the letter."""
    job = uuid4()
    headers = {HEADER_MESSAGE_ID: f"{job}.broken", HEADER_ID: f"{job}.broken", HEADER_SUBJECT: str(job)}
    await house.nc.jetstream().publish(PHASE_FAILED.subject, b'{"half": ', headers=headers)

    async def kept() -> bool:
        return bool(await house.ask("SELECT 1 FROM orchestrator.dead_letters WHERE job_id = $1", job))

    await until(kept, "the letter is kept")
    return [job]


async def _through(house: House, pipeline: str) -> list[UUID]:
    job = await house.upload(pipeline)
    await house.ended(job)
    return [job]


SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.__name__: scenario
    for scenario in (photo, plain, rendered, retried, stumbles, refused, vanished, narrow, cancelled, broken)
}
