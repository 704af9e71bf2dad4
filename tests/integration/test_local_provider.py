"""The own CPU as a provider: the suite of every provider, and what only children of ours can show."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from gpu_bridge.providers.local import LocalProvider
from gpu_bridge.providers.port import Pending, Provider
from gpu_bridge.settings import Settings
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf, until
from tests.integration.provider_conformance import (
    ProviderConformance,
    Stall,
    code_of,
    ended,
    request,
    stalling,
    styled,
)
from tests.integration.wire import picture

GIB = 2**30


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "gpu-bridge"))
    yield made
    made.close()


@pytest.fixture
async def stall() -> AsyncIterator[Stall]:
    async with stalling() as made:
        yield made


@asynccontextmanager
async def local(workers: int = 2, idle_s: float = 30) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(workers=workers, memory_bytes=2 * GIB, idle_s=idle_s)
    try:
        yield provider
    finally:
        await provider.close()


class TestLocal(ProviderConformance):
    @pytest.fixture(scope="class")
    @classmethod
    async def provider(cls) -> AsyncIterator[Provider]:
        async with local() as made:
            yield made


def children() -> list[psutil.Process]:
    """The worker processes that this process has now."""

    def works(one: psutil.Process) -> bool:
        try:
            return one.status() != psutil.STATUS_ZOMBIE and "gpu_functions" in one.cmdline()
        except psutil.NoSuchProcess:
            return False

    return [one for one in psutil.Process().children() if works(one)]


async def test_a_worker_is_kept_warm_for_the_next_call(objects: Objects) -> None:
    async with local(workers=1) as provider:
        pids = []
        for _ in range(2):
            await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))
            pids += [one.pid for one in children()]
    assert len(pids) == 2
    assert len(set(pids)) == 1
    assert children() == []


async def test_a_worker_that_has_nothing_to_do_is_retired(objects: Objects) -> None:
    async with local(workers=1, idle_s=0.2) as provider:
        await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))
        assert len(children()) == 1
        await until(lambda: not children(), 5)
        await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))


async def test_a_killed_worker_loses_its_call_and_the_next_gets_a_new_one(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        handle = await provider.submit(request(await styled(objects, picture(), inputs={"image": stall.link()})))
        await stall.asked.wait()
        [child] = children()
        child.send_signal(signal.SIGKILL)
        assert await code_of(provider, handle) == "CALL_LOST"
        answer = await ended(provider, await provider.submit(request(await styled(objects, picture(width=64)))))
        assert answer.items[0].error is None


async def test_a_worker_past_its_deadline_does_not_live_on(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        handle = await provider.submit(request(item, deadline_s=1.5))
        await stall.asked.wait()
        [child] = children()
        assert await code_of(provider, handle) == "CALL_DEADLINE"
        await until(lambda: child not in children(), 5)


async def test_a_cancelled_worker_is_killed(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        handle = await provider.submit(request(await styled(objects, picture(), inputs={"image": stall.link()})))
        await stall.asked.wait()
        await provider.cancel(handle)
        assert children() == []


async def test_a_call_that_waits_for_a_worker_runs_out_of_time_too(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        item = await styled(objects, picture(), inputs={"image": stall.link()})
        busy = await provider.submit(request(item))
        await stall.asked.wait()
        late = await provider.submit(request(await styled(objects, picture()), deadline_s=0.3))
        assert await code_of(provider, late) == "CALL_DEADLINE"
        assert isinstance(await provider.poll(busy, 0.01), Pending)


async def test_a_worker_is_given_no_variable_of_ours(
    objects: Objects, stall: Stall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFELIGHT_S3_SECRET_KEY", "a-secret-of-ours")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-ours")
    async with local(workers=1) as provider:
        await provider.submit(request(await styled(objects, picture(), inputs={"image": stall.link()})))
        await stall.asked.wait()
        [child] = children()
        given = await asyncio.to_thread(Path(f"/proc/{child.pid}/environ").read_bytes)
    assert b"PATH=" in given
    assert b"SAFELIGHT" not in given
    assert b"a-secret-of-ours" not in given
