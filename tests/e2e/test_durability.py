"""Duplicates, crashes and restarts: nothing is lost, nothing is done twice, every job ends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from stack import backup, control
from stack.home import Refusal
from tests.e2e.conftest import ENDED, Stack, phases
from tests.integration.conftest import until

SERVICES = ("ingest", "orchestrator", "gpu-bridge", "output", "console")
SERVERS = ("nats", "postgres", "s3")


async def test_the_same_key_gets_the_same_answer_and_one_job(stack: Stack, samples: dict[str, Path]) -> None:
    key = str(uuid4())
    first = await stack.upload(samples["coffee.png"], idempotency_key=key)
    second = await stack.upload(samples["coffee.png"], idempotency_key=key)
    assert first.status_code == second.status_code == 202
    assert first.json() == second.json()
    await stack.ended(first)
    assert await jobs_of(stack, first.json()["upload_id"]) == 1


async def test_the_same_key_at_the_same_time_makes_one_job(stack: Stack, samples: dict[str, Path]) -> None:
    key = str(uuid4())
    answers = await asyncio.gather(*(stack.upload(samples["coffee.png"], idempotency_key=key) for _ in range(5)))
    assert {answer.json()["job_id"] for answer in answers} == {answers[0].json()["job_id"]}
    await stack.ended(answers[0])


async def test_the_same_key_for_another_file_is_refused(stack: Stack, samples: dict[str, Path]) -> None:
    key = str(uuid4())
    await stack.ended(await stack.upload(samples["coffee.png"], idempotency_key=key))
    other = await stack.upload(samples["rocket.jpg"], idempotency_key=key)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


@pytest.mark.parametrize("victim", SERVICES)
async def test_a_service_that_is_killed_in_mid_job_costs_no_job(
    stack: Stack, samples: dict[str, Path], victim: str
) -> None:
    answers = [await stack.upload(samples["grace-hopper.jpg"], style="mono") for _ in range(4)]
    await stack.until(answers[0].json()["job_id"], lambda job: phases(job).get("analyze") != "queued")
    stack.kill(victim)
    ended = await asyncio.gather(*(stack.ended(answer) for answer in answers))
    assert [job["status"] for job in ended] == ["succeeded"] * 4, ended


@pytest.mark.parametrize("victim", SERVERS)
async def test_a_server_that_is_killed_in_mid_job_costs_no_job(
    stack: Stack, samples: dict[str, Path], victim: str
) -> None:
    answers = [await stack.upload(samples["grace-hopper.jpg"], style="mono") for _ in range(3)]
    stack.kill(victim)
    ended = await asyncio.gather(*(stack.ended(answer) for answer in answers))
    assert [job["status"] for job in ended] == ["succeeded"] * 3, ended


async def test_jobs_in_flight_go_on_after_the_whole_stack_was_restarted(stack: Stack, samples: dict[str, Path]) -> None:
    answers = [await stack.upload(samples["grace-hopper-12mp.jpg"], style="mono") for _ in range(3)]
    await asyncio.to_thread(control.down, stack.home)
    await asyncio.to_thread(control.up, stack.home)
    ended = await asyncio.gather(*(stack.ended(answer) for answer in answers))
    assert [job["status"] for job in ended] == ["succeeded"] * 3


async def test_a_restored_database_learns_what_came_after_its_backup(
    stack: Stack, samples: dict[str, Path], tmp_path: Path
) -> None:
    before = await stack.ended(await stack.upload(samples["coffee.png"]))
    file = tmp_path / "safelight.dump"
    await asyncio.to_thread(backup.backup, stack.home, file)
    after = await stack.ended(await stack.upload(samples["rocket.jpg"]))
    with pytest.raises(Refusal, match="is up here"):
        await asyncio.to_thread(backup.restore, stack.home, file)
    await asyncio.to_thread(control.down, stack.home)
    await asyncio.to_thread(backup.restore, stack.home, file)
    await asyncio.to_thread(control.up, stack.home)
    again = await stack.until(after["id"], lambda job: job["status"] in ENDED)
    assert [a["sha256"] for a in again["artifacts"]] == [a["sha256"] for a in after["artifacts"]]
    assert (await stack.job(before["id"]))["status"] == again["status"] == "succeeded"

    async def told() -> bool:
        query = "SELECT action FROM orchestrator.audit WHERE who LIKE 'shell:%' AND room = 'shell'"
        actions = {row["action"] for row in await asyncio.to_thread(stack.rows, query)}
        return actions >= {"database.backed-up", "database.restored", "events.rewound"}

    await until(told)


async def test_at_the_end_no_job_is_left_over_and_none_ended_twice(stack: Stack) -> None:
    rows = await asyncio.to_thread(
        stack.rows,
        "SELECT j.id, j.status AS decided, o.status AS shown, "
        "(SELECT count(*) FROM output.events e WHERE e.job_id = j.id AND e.type IN "
        "('job.v1.succeeded', 'job.v1.failed', 'job.v1.dead', 'job.v1.cancelled')) AS endings, "
        "(SELECT count(*) FROM output.events e WHERE e.job_id = j.id AND e.type = 'job.v1.reopened') AS again "
        "FROM orchestrator.jobs j LEFT JOIN output.jobs o USING (id)",
    )
    assert rows
    for row in rows:
        assert row["decided"] in ENDED
        assert row["shown"] == row["decided"]
        assert row["endings"] == 1 + row["again"]


async def jobs_of(stack: Stack, upload_id: str) -> int:
    query = f"SELECT count(*) AS n FROM output.jobs WHERE upload_id = '{upload_id}'"
    found: list[dict[str, Any]] = await asyncio.to_thread(stack.rows, query)
    count: int = found[0]["n"]
    return count
