"""The worker of the no-op phases of `pipelines/`: what it does with a command is in the name of the phase."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError

from contracts.errors import error
from contracts.phases import RunPhase
from runtime import settle
from runtime.outbox import publish
from tests.chaos.house import House, until
from tests.chaos.noop import answer
from tests.chaos.timing import NOOP


@contextlib.asynccontextmanager
async def hurdles(house: House) -> AsyncIterator[None]:
    """Take the commands while it is entered."""
    async with asyncio.TaskGroup() as tasks:
        taking = tasks.create_task(_take(house, tasks))
        yield
        taking.cancel()


async def _take(house: House, tasks: asyncio.TaskGroup) -> None:
    pull = await house.nc.jetstream().pull_subscribe_bind(NOOP.name, NOOP.stream)
    while True:
        with contextlib.suppress(NatsTimeoutError, TimeoutError):
            for message in await pull.fetch(1, timeout=1):
                tasks.create_task(_work(house, message))


async def _work(house: House, message: Msg) -> None:
    command = RunPhase.model_validate_json(message.data)
    first = command.attempt == 1
    match command.phase:
        case "vanish" if first:
            return  # and nobody settles it
        case "refuse" if first:
            await settle.settle(house.nc.jetstream(), message, NOOP, error("INTERNAL", "refused"))
            return
        case "narrow":
            await message.ack()  # it takes longer than the broker would wait
            await _until_another_waits(house, command)
    await publish(house.nc.jetstream(), [answer(command, fails=first and command.phase == "stumble")])
    if command.phase != "narrow":
        await message.ack()


async def _until_another_waits(house: House, command: RunPhase) -> None:
    """The first job holds the only room until the second waits for it; the second finds nobody behind it."""

    async def told() -> bool:
        query = (
            "SELECT 1 FROM orchestrator.waiting UNION ALL SELECT 1 FROM orchestrator.history "
            "WHERE job_id = $1 AND input LIKE 'Admitted %'"
        )
        return bool(await house.ask(query, command.job_id))

    await until(told, "another job waits")
