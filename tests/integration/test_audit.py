"""The audit on real servers: every room tells it, its lines are a chain, and who tampers with it is found out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from nats.aio.client import Client as Nats
from sqlalchemy.ext.asyncio import AsyncEngine

from console import audit as reading
from console.audit import Tampered, check
from console.client import Client, Connection
from contracts.audit import AUDIT_NOTED, AuditNoted
from orchestrator.app import build
from orchestrator.audit import Actor, note
from runtime import clock, postgres
from runtime.outbox import outgoing, publish
from stack.servers import DATABASE
from tests.integration.conftest import SettingsOf, until
from tests.integration.desk import KEYS, Desk, engine_for, pipelines_in, seated, settings_for
from tests.integration.orchestra import calm
from tests.integration.wire import served
from tests.servers.models import NatsServer, PostgresServer

ODD = 'a "quoted"\n\\ line, 1:2, ü, 漢, \u202e'


@pytest.fixture(scope="module")
async def service(
    prepared: object, settings_of: SettingsOf, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, AsyncEngine]]:
    settings = settings_for(settings_of, pipelines_in(tmp_path_factory.mktemp("pipelines")))
    engine = engine_for(settings)
    async with calm(engine, nats_server), served(build(settings)) as site:
        yield site.url, engine
    await engine.dispose()


@pytest.fixture
async def desk(service: tuple[str, AsyncEngine], nc: Nats) -> AsyncIterator[Desk]:
    async with seated(*service, nc) as made:
        yield made


def noted(subject: str, **changes: object) -> AuditNoted:
    fields = {"room": "output", "who": "tenant:alice", "action": "artifact.read", "tenant": "alice"}
    return AuditNoted.model_validate({"id": uuid4(), "at": clock.now(), "subject": subject, **fields, **changes})


async def tell(nc: Nats, *lines: AuditNoted) -> None:
    said = [outgoing(AUDIT_NOTED, one, message_id=str(uuid4()), key=one.subject, source="output") for one in lines]
    await publish(nc.jetstream(), said)


async def exported(desk: Desk, service: tuple[str, AsyncEngine], folder: Path) -> Path:
    async with Client(Connection(service[0], KEYS["ops"])) as api:
        return await reading.export(api, folder / "audit.jsonl")


async def test_what_a_room_tells_is_a_line_once(desk: Desk) -> None:
    subject = str(uuid4())
    line = noted(subject, why=ODD, details={"artifact": "web.jpg", "lives_s": 900})
    await tell(desk.nc, line, line, noted(subject, action="artifact.linked"))
    await tell(desk.nc, line)  # again, as after a crash

    async def there() -> bool:
        return len(await desk.audit(subject)) == 2

    await until(there)
    first, second = await desk.audit(subject)
    assert (first["action"], first["room"], first["tenant"], first["why"]) == ("artifact.read", "output", "alice", ODD)
    assert first["details"] == {"artifact": "web.jpg", "lives_s": 900}
    assert (second["action"], second["id"]) == ("artifact.linked", first["id"] + 1), "in the order in which it was told"


async def test_lines_are_found_by_whose_they_are_and_what_was_done(desk: Desk) -> None:
    tenant = f"t-{uuid4().hex[:8]}"
    await tell(desk.nc, noted("one", tenant=tenant), noted("two", tenant=tenant, action="data.moved"))

    async def found(**which: Any) -> list[str]:
        return [line["subject"] for line in (await desk.get("/v1/audit", "ops", **which))["items"]]

    async def both() -> bool:
        return len(await found(tenant=tenant)) == 2

    await until(both)
    assert await found(tenant=tenant, action="data.moved") == ["two"]
    assert await found(tenant=tenant, since="2100-01-01T00:00:00Z") == []
    assert await found(tenant=tenant, until="2100-01-01T00:00:00Z") == ["two", "one"]


async def test_an_export_is_checked_where_it_is_read_and_holds(
    desk: Desk, service: tuple[str, AsyncEngine], tmp_path: Path
) -> None:
    desk.worker.holds.add(("alice", "first"))
    job = await desk.begun()
    await desk.at_work(job, "first")
    await desk.post(f"/v1/jobs/{job}/cancel", reason=ODD)
    file = await exported(desk, service, tmp_path)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(1, len(lines) + 1))
    assert check(file, None) == (len(lines), lines[-1]["hash"])
    head = f"{lines[-1]['id']}:{lines[-1]['hash']}"
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:-1]))
    check(file, None)
    with pytest.raises(Tampered, match="was there once"):
        check(file, head)


async def test_lines_that_are_written_at_once_follow_each_other(service: tuple[str, AsyncEngine]) -> None:
    async def write(n: int) -> None:
        async with postgres.transaction(service[1]) as conn:
            await note(conn, Actor(f"operator:{n}", None, ""), "test.act", "at-once")
            await note(conn, Actor(f"operator:{n}", None, ""), "test.act", "at-once")

    await asyncio.gather(*(write(n) for n in range(8)))
    async with postgres.transaction(service[1]) as conn:
        rows = await conn.fetch("SELECT id, who FROM orchestrator.audit WHERE subject = 'at-once' ORDER BY id")
    numbers = [row["id"] for row in rows]
    assert len(numbers) == 16
    assert numbers == list(range(numbers[0], numbers[0] + 16))
    assert all(rows[n]["who"] == rows[n + 1]["who"] for n in range(0, 16, 2)), "a transaction's lines stay together"


async def test_nobody_changes_a_line(service: tuple[str, AsyncEngine]) -> None:
    for act in (
        "UPDATE orchestrator.audit SET why = 'x'",
        "DELETE FROM orchestrator.audit",
        "TRUNCATE orchestrator.audit",
    ):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            async with postgres.transaction(service[1]) as conn:
                await conn.execute(act)


Tamper = Callable[[asyncpg.Connection, int], Awaitable[object]]
TAMPERED: dict[str, Tamper] = {
    "a line is changed": lambda conn, id_: conn.execute(
        "UPDATE orchestrator.audit SET who = 'operator:else' WHERE id = $1", id_
    ),
    "a line is taken out": lambda conn, id_: conn.execute("DELETE FROM orchestrator.audit WHERE id = $1", id_),
    "a time is moved": lambda conn, id_: conn.execute(
        "UPDATE orchestrator.audit SET at = at - interval '1 microsecond' WHERE id = $1", id_
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
async def test_who_owns_the_database_is_found_out(
    desk: Desk, service: tuple[str, AsyncEngine], postgres_server: PostgresServer, tmp_path: Path, how: str
) -> None:
    async with postgres.transaction(service[1]) as conn:
        for _ in range(3):
            await note(conn, Actor("operator:ops", None, ""), "test.act", how)
        [*_, id_, _] = [row["id"] for row in await conn.fetch("SELECT id FROM orchestrator.audit ORDER BY id")]
    admin = await asyncpg.connect(postgres_server.url(DATABASE))
    triggers = "ALTER TABLE orchestrator.audit {} TRIGGER USER"
    try:
        await admin.execute(f"CREATE TEMPORARY TABLE kept AS SELECT * FROM orchestrator.audit WHERE id = {id_}")
        await admin.execute(triggers.format("DISABLE"))
        await TAMPERED[how](admin, id_)
        with pytest.raises(Tampered, match=r"AUDIT_BROKEN|does not hold"):
            check(await exported(desk, service, tmp_path), None)
        await admin.execute("DELETE FROM orchestrator.audit WHERE id = $1", id_)
        await admin.execute("INSERT INTO orchestrator.audit SELECT * FROM kept")
        check(await exported(desk, service, tmp_path), None)
    finally:
        await admin.execute(triggers.format("ENABLE"))
        await admin.close()
