"""The own CPU as a provider: the suite of every provider, and what only children of ours can show."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil
import pytest

from gpu_bridge.providers import local as local_module
from gpu_bridge.providers.local import ENDED_MAX, BoxProvider, LocalProvider
from gpu_bridge.providers.port import Available, Broken, Ended, Pending, Provider, Unavailable
from gpu_bridge.settings import Settings
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf, until
from tests.integration.provider_conformance import (
    ProviderConformance,
    Stall,
    answered,
    code_of,
    ended,
    owner_of,
    request,
    result_of,
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
async def local(workers: int = 2, idle_s: float = 30, kept_s: float = 30) -> AsyncIterator[LocalProvider]:
    provider = LocalProvider(workers=workers, memory_bytes=2 * GIB, idle_s=idle_s, kept_s=kept_s)
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


class TestBox(ProviderConformance):
    """The own GPU: a driver that answers, and engines that find no card compute on the CPU."""

    @pytest.fixture(scope="class")
    @classmethod
    async def provider(cls, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
        with driver(tmp_path_factory.mktemp("driver"), "echo NVIDIA L4"):
            made = BoxProvider(weights=None, allow_noncommercial=False, idle_s=30, workers=2)
            try:
                yield made
            finally:
                await made.close()


@contextmanager
def driver(folder: Path, script: str) -> Iterator[None]:
    """Let `nvidia-smi` be this shell script."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.mark.parametrize(
    ("script", "state"),
    [
        pytest.param("echo NVIDIA L4", Available, id="it answers"),
        pytest.param("exit 9", Unavailable, id="it has no card"),
        pytest.param("exec sleep 60", Unavailable, id="it hangs"),
    ],
)
async def test_the_box_is_as_well_as_its_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, state: type
) -> None:
    monkeypatch.setattr(local_module, "DRIVER_S", 1.0)
    box = BoxProvider(weights=None, allow_noncommercial=False, idle_s=30)
    with driver(tmp_path, script):
        assert isinstance(await box.health(), state)
    await box.close()


async def test_a_box_without_a_driver_is_ill_and_the_own_cpu_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    box = BoxProvider(weights=None, allow_noncommercial=False, idle_s=30)
    assert isinstance(await box.health(), Unavailable)
    async with local() as provider:
        assert await provider.health() == Available()


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
        handle = await provider.submit(request(item, deadline_s=5))
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
        assert await provider.poll(handle, 0.1) == Broken("CALL_KILLED")


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


async def test_a_handle_that_nobody_gave_is_lost() -> None:
    async with local() as provider:
        assert await provider.poll("no-such", 0.1) == Broken("CALL_LOST")


async def test_a_call_is_known_by_its_id_and_submitting_it_twice_is_one_call(objects: Objects, stall: Stall) -> None:
    async with local(workers=2) as provider:
        asked = request(await styled(objects, picture(), inputs={"image": stall.link()}))
        assert await provider.submit(asked) == asked.call_id
        await stall.asked.wait()
        assert await provider.submit(asked) == asked.call_id
        await answered(provider, request(await styled(objects, picture(width=64))))
        assert stall.times == 1
        assert isinstance(await provider.poll(asked.call_id, 0.01), Pending)


async def test_a_call_whose_worker_died_goes_on_under_its_own_name(objects: Objects, stall: Stall) -> None:
    async with local(workers=1) as provider:
        item = await styled(objects, picture(width=64))
        asked = request(item.model_copy(update={"inputs": item.inputs | {"image": stall.link()}}))
        await provider.submit(asked)
        await stall.asked.wait()
        [child] = children()
        child.kill()
        assert await code_of(provider, asked.call_id) == "CALL_LOST"
        assert await owner_of(objects, item) == asked.call_id
        _, answer = await answered(provider, asked.model_copy(update={"items": [item]}))
        assert answer.items == [(await result_of(objects, item)).item]
        assert answer.items[0].error is None


async def test_only_the_first_call_of_a_worker_is_cold(objects: Objects) -> None:
    async with local(workers=1) as provider:
        usages = []
        for _ in range(2):
            _, answer = await answered(provider, request(await styled(objects, picture(width=64))))
            assert answer.usage
            usages.append(answer.usage)
    assert [usage.cold for usage in usages] == [True, False]
    assert 0 < usages[0].boot_s < 30
    assert usages[1].boot_s == 0


async def test_an_answer_that_was_taken_is_forgotten_after_a_while(objects: Objects) -> None:
    async with local(kept_s=0.2) as provider:
        handle, answer = await answered(provider, request(await styled(objects, picture(width=64))))
        assert await provider.poll(handle, 0.1) == Ended(answer)

        async def forgotten() -> bool:
            return await provider.poll(handle, 0.1) == Broken("CALL_LOST")

        await until(forgotten, 5)


async def test_answers_that_nobody_takes_do_not_pile_up(objects: Objects) -> None:
    item = await styled(objects, picture(width=64))
    async with local() as provider:
        handles = [await provider.submit(request(item, deadline_s=-1)) for _ in range(ENDED_MAX + 2)]
        assert await code_of(provider, handles[-1]) == "CALL_DEADLINE"
        assert [await code_of(provider, handle) for handle in handles[:3]] == [
            "CALL_LOST",
            "CALL_LOST",
            "CALL_DEADLINE",
        ]
