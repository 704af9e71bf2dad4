"""What comes late brings nothing back of a job that was erased, in whichever room, and whenever it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from nats.aio.client import Client
from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncEngine

import gpu_bridge.tables
import ingest.erasing
import ingest.tables
import output.erasing
import output.tables
from contracts.artifacts import Artifact
from contracts.erasures import ErasureRequested
from contracts.phases import RunPhase
from ingest.settings import Settings
from runtime import erased, postgres
from runtime.objects import Objects
from tests.integration.conftest import PhasesOf, SettingsOf, until
from tests.integration.wire import command, told

ERASING: dict[str, Any] = {"ingest": ingest.erasing.Erasing, "output": output.erasing.Erasing}
TABLES = {"ingest": ingest.tables.ERASED, "gpu-bridge": gpu_bridge.tables.ERASED, "output": output.tables.ERASED}


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "ingest"))
    yield made
    made.close()


@pytest.fixture(params=list(TABLES))
async def room(
    request: pytest.FixtureRequest, engine_of: Callable[[str], AsyncEngine]
) -> AsyncIterator[tuple[Table, AsyncEngine]]:
    """A room's table, and the database as its role."""
    engine = engine_of(request.param)
    yield TABLES[request.param], engine
    await engine.dispose()


def erasure(*jobs: UUID) -> ErasureRequested:
    return ErasureRequested(erasure_id=uuid4(), part=1, tenant="demo", jobs=list(jobs), uploads=[])


async def left(objects: Objects, job: UUID) -> int:
    """How many objects there were of a job's phases; they are gone now."""
    return await objects.remove_all(f"jobs/{job}/")


# -- objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ERASING))
async def test_what_a_phase_makes_while_its_job_is_erased_is_deleted_again(
    nc: Client, objects: Objects, phases_of: PhasesOf, name: str
) -> None:
    phases = phases_of(name, objects)
    erasing = ERASING[name](nc.jetstream(), phases.engine, objects)

    def work(before: bool, after: bool) -> Callable[[RunPhase], Awaitable[Any]]:
        async def done(given: RunPhase) -> tuple[list[Artifact], dict[str, Any]]:
            if before:
                await erasing.erase(erasure(given.job_id))
            key = f"{given.prefix}/image.png"
            sha256, size = await objects.put(key, b"a face", "image/png")
            if after:
                await erasing.erase(erasure(given.job_id))
            return [Artifact(key=key, sha256=sha256, size=size, media_type="image/png", name="image.png")], {}

        return done

    for before, after in ((True, False), (False, True), (False, False)):
        given = command("crop")
        await phases.answer(given, "a test", work(before, after))
        spared = not before and not after
        assert (len(await told(nc, given.key)), await left(objects, given.job_id)) == (spared, spared), (before, after)


@pytest.mark.parametrize("name", list(ERASING))
async def test_a_command_that_comes_again_after_its_job_was_erased_is_not_done_and_cleans_up(
    nc: Client, objects: Objects, phases_of: PhasesOf, name: str
) -> None:
    phases, given = phases_of(name, objects), command("crop")
    await erased.remember(phases.engine, phases.erased, [given.job_id])
    await objects.put(f"{given.prefix}/image.png", b"a face", "image/png")  # its process died before it could ask

    async def never(_: RunPhase) -> tuple[list[Artifact], dict[str, Any]]:
        raise AssertionError("it is not done")

    await phases.answer(given, "a test", never)
    assert (await told(nc, given.key), await left(objects, given.job_id)) == ([], 0)


# -- rows -------------------------------------------------------------------------------------


async def test_no_job_is_marked_while_somebody_writes_who_has_asked(room: tuple[Table, AsyncEngine]) -> None:
    table, engine = room
    job, other = uuid4(), uuid4()
    await erased.remember(engine, table, [other])
    async with engine.begin() as asking, engine.connect() as looking:
        assert await erased.among(asking, table, [job, other]) == {other}
        marking = asyncio.create_task(erased.remember(engine, table, [job, other]))
        waits = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        await until(lambda: _some(looking, waits))
        assert not await erased.has(engine, table, job)
    await marking
    assert await erased.has(engine, table, job)
    async with postgres.transaction(engine) as conn:
        assert await erased.among(conn, table, [job, other]) == {job, other}


async def _some(conn: Any, query: Any) -> bool:
    return bool((await conn.execute(query)).scalar_one())
