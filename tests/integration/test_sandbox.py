"""A child may hang, grow, crash or refuse: the service says which, and goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from contracts.errors import SafelightError
from runtime.sandbox import Sandbox
from tests.integration.conftest import until

HOSTILE = "tests.integration.hostile"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(workers=2, memory_bytes=2 * 1024**3, preload=[HOSTILE])
    yield made
    made.close()


async def test_a_call_runs_elsewhere_and_returns(sandbox: Sandbox) -> None:
    assert await sandbox.run(10, f"{HOSTILE}:double", 21) == 42
    assert await sandbox.run(10, f"{HOSTILE}:pid") != os.getpid()


async def test_no_two_calls_share_a_process(sandbox: Sandbox) -> None:
    assert await sandbox.run(10, f"{HOSTILE}:pid") != await sandbox.run(10, f"{HOSTILE}:pid")


@pytest.mark.parametrize(
    ("function", "deadline_s", "code", "says"),
    [
        pytest.param("hang", 0.3, "DECODE_LIMIT", "stopped after 0.3 s", id="a hang is killed at its deadline"),
        pytest.param("grow", 10, "DECODE_LIMIT", "memory", id="a bomb stops at its memory limit"),
        pytest.param("crash", 10, "DECODE_LIMIT", "died", id="a crash is told"),
        pytest.param("refuse", 10, "IMAGE_CORRUPT", "cut short", id="an error of ours comes out whole"),
    ],
)
async def test_hostile_children(sandbox: Sandbox, function: str, deadline_s: float, code: str, says: str) -> None:
    with pytest.raises(SafelightError) as caught:
        await sandbox.run(deadline_s, f"{HOSTILE}:{function}")
    assert caught.value.code == code
    assert says in caught.value.detail
    assert await sandbox.run(10, f"{HOSTILE}:double", 1) == 2


async def test_an_idle_sandbox_lets_its_children_go_and_starts_new_ones(sandbox: Sandbox) -> None:
    server = psutil.Process(await sandbox.run(10, f"{HOSTILE}:parent"))  # of the children of all sandboxes
    sandbox.close()
    others = set(server.children())
    resting = Sandbox(workers=2, memory_bytes=2 * 1024**3, idle_s=0.05)
    assert await resting.run(10, f"{HOSTILE}:double", 1) == 2
    await until(lambda: set(server.children()) <= others)
    assert await resting.run(10, f"{HOSTILE}:double", 2) == 4
    resting.close()


async def test_children_that_are_killed_while_they_wait_cost_no_call(sandbox: Sandbox) -> None:
    server = psutil.Process(await sandbox.run(10, f"{HOSTILE}:parent"))
    for noticed in (False, True):
        children = await until(server.children)
        for child in children:
            with suppress(psutil.NoSuchProcess):  # one that has done its call ends by itself
                child.kill()
        gone, _ = psutil.wait_procs(children, timeout=10)
        assert len(gone) == len(children)
        if noticed:
            await until(lambda: sandbox._pool is not None and not sandbox._pool.active)
        assert await sandbox.run(10, f"{HOSTILE}:double", 1) == 2
