"""Tables in code equal the migrated schemas, and no role sees another's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from runtime import migrate
from stack.setup import ROOMS, Room, SetupSettings, setup

EngineOf = Callable[[str], AsyncEngine]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.schema)
async def test_the_migrated_schema_equals_the_tables_in_code(engine_of: EngineOf, room: Room) -> None:
    engine = engine_of(room.schema.replace("_", "-"))
    assert await migrate.differences(engine, room.metadata) == []
    await engine.dispose()


async def test_a_difference_would_be_noticed(engine_of: EngineOf) -> None:
    from sqlalchemy import Column, Integer, MetaData, Table

    declared = MetaData(schema="ingest")
    Table("not_there", declared, Column("id", Integer, primary_key=True))
    engine = engine_of("ingest")
    found = str(await migrate.differences(engine, declared))
    await engine.dispose()
    assert "add_table" in found
    assert "remove_table" in found


async def test_setting_up_twice_changes_nothing_the_second_time(prepared: SetupSettings) -> None:
    assert await setup(prepared) == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.schema)
@pytest.mark.parametrize("other", ROOMS, ids=lambda room: room.schema)
async def test_a_role_reads_its_own_schema_and_no_other(engine_of: EngineOf, room: Room, other: Room) -> None:
    engine = engine_of(room.schema.replace("_", "-"))
    table = other.metadata.sorted_tables[0].fullname
    try:
        async with engine.connect() as conn:
            if room is other:
                await conn.execute(text(f"SELECT count(*) FROM {table}"))
            else:
                with pytest.raises(DBAPIError, match="permission denied for schema"):
                    await conn.execute(text(f"SELECT count(*) FROM {table}"))
    finally:
        await engine.dispose()


async def test_the_database_refuses_a_job_that_ended_and_still_waits(engine_of: EngineOf) -> None:
    engine = engine_of("orchestrator")
    insert = (
        "INSERT INTO orchestrator.jobs (id, tenant, pipeline, pipeline_version, status, revision, state, wake_at, "
        "created_at, ended_at, upload_id) VALUES (gen_random_uuid(), 't', 'p', 1, 'succeeded', 1, '{}', now(), now(), "
        "now(), gen_random_uuid())"
    )
    async with engine.connect() as conn:
        with pytest.raises(DBAPIError, match="wakes_until_it_ends"):
            await conn.execute(text(insert))
    await engine.dispose()
