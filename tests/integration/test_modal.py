"""Modal as a provider: the real SDK, the real `modal deploy` and the app as deployed, on a platform of our own."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import socket
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import modal
import pytest

from contracts.envelope import CallResponse, Item, WriteUrl
from contracts.errors import SafelightError
from deploy.modal import app as deployed
from gpu_bridge.providers import modal as ours
from gpu_bridge.providers.modal import ModalProvider
from gpu_bridge.providers.port import Available, Broken, Ended, Pending, Provider, Unavailable
from gpu_bridge.settings import Settings
from gpu_functions import weights
from gpu_functions.catalog import CATALOG
from gpu_functions.weights import WEIGHTS, Weight
from runtime.objects import Objects
from tests.integration.conftest import SettingsOf, until
from tests.integration.provider_conformance import (
    INVERSE,
    LIVES,
    ProviderConformance,
    Stall,
    answered,
    ended,
    has,
    over,
    owner_of,
    readable,
    request,
    stalling,
    styled,
)
from tests.integration.wire import picture, stored
from tests.servers.modal import TOKEN, ModalPlatform

ROOT = Path(__file__).parents[2]
APP = "deploy.modal.app"
SLACK_S = 2.5  # on top of a bound, for a slow machine


@pytest.fixture(scope="module")
def objects(prepared: object, settings_of: SettingsOf) -> Iterator[Objects]:
    made = Objects(settings_of(Settings, "gpu-bridge"))
    yield made
    made.close()


@pytest.fixture
async def stall() -> AsyncIterator[Stall]:
    async with stalling() as made:
        yield made


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """The process's variables, put back afterwards: those that the provider sets, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ours.SETTINGS.items():
            patch.setenv(f"MODAL_{name.upper()}", value)
        yield patch


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Iterator[ModalPlatform]:
    """A platform with our app on it, for the CPU: there is no GPU here."""
    with ModalPlatform(tmp_path_factory.mktemp("modal")) as made:
        for name, value in made.environment().items():
            environment.setenv(name, value)
        made.deploy(APP, SAFELIGHT_MODAL_GPUS="")
        yield made


@pytest.fixture
def platform(running: ModalPlatform) -> Iterator[ModalPlatform]:
    """The platform, without the faults and the calls of the test before."""
    yield running
    running.faults.clear()
    for call in running.calls.values():
        if call.result is None:
            running.oom(call.id)


@asynccontextmanager
async def connected(**changes: Any) -> AsyncIterator[ModalProvider]:
    provider = ModalProvider(device="cpu", gpus=(), **changes)
    try:
        yield provider
    finally:
        await provider.close()


@pytest.fixture
async def provider(platform: ModalPlatform) -> AsyncIterator[ModalProvider]:
    async with connected() as made:
        yield made


@pytest.fixture
async def client(platform: ModalPlatform) -> AsyncIterator[modal.Client]:
    """The SDK as anybody uses it."""
    made = await modal.Client.from_credentials.aio(*TOKEN)
    yield made
    await made.close.aio()


async def submitted(provider: Provider, objects: Objects) -> str:
    """A call that would end well."""
    return await provider.submit(request(await styled(objects, picture(width=64))))


async def stuck(provider: Provider, objects: Objects, stall: Stall) -> str:
    """A call that has claimed its item and now waits for storage, in mid-work."""
    stall.asked.clear()
    handle = await provider.submit(request(await styled(objects, picture(width=64), inputs={"image": stall.link()})))
    await stall.asked.wait()
    return handle


async def refusal(asked: Awaitable[Any]) -> str:
    """The code that comes out."""
    with pytest.raises(SafelightError) as caught:
        await asked
    return caught.value.code


class TestModal(ProviderConformance):
    @pytest.fixture(scope="class")
    @classmethod
    async def provider(cls, running: ModalPlatform) -> AsyncIterator[Provider]:
        async with connected() as made:
            yield made


# -- what is deployed -----------------------------------------------------------------------


def test_the_app_deploys_with_gpus_limits_and_read_only_weights(tmp_path: Path) -> None:
    with ModalPlatform(tmp_path) as platform:
        platform.deploy(APP, SAFELIGHT_MODAL_GPUS="L4,A10")
        worker, health, weights = (platform.functions[name] for name in ("Worker.*", "health", "fetch_weights"))
        reader = platform.functions["Reader.*"]
        again = platform.deploy(APP, SAFELIGHT_MODAL_GPUS="L4,A10")
    assert worker.gpus == reader.gpus == ["L4", "A10"]
    assert set(reader.definition.method_definitions) == {"run", "warm"}
    assert health.gpus == weights.gpus == []
    for one in (worker.definition, health.definition, weights.definition):
        assert one.retry_policy.retries == 0
        assert one.timeout_secs
        assert one.startup_timeout_secs == deployed.START_S
        assert one.autoscaler_settings.scaledown_window
    assert worker.definition.autoscaler_settings.max_containers == deployed.CONTAINERS_MAX
    assert worker.definition.checkpointing_enabled
    assert set(worker.definition.method_definitions) == {"run", "warm"}
    assert [mount.read_only for mount in worker.definition.volume_mounts] == [True]
    assert [mount.read_only for mount in weights.definition.volume_mounts] == [False]
    assert "deployed" in again


def test_only_sources_of_the_app_and_its_two_packages_go_up(running: ModalPlatform) -> None:
    known = {
        hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("contracts/contracts", "services/gpu-functions/gpu_functions", "deploy/modal")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert running.files
    assert running.files.keys() <= known


def test_the_image_has_the_packages_of_gpu_functions_with_the_pins_of_the_workspace() -> None:
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pins = set(workspace["tool"]["uv"]["constraint-dependencies"])
    functions = tomllib.loads((ROOT / "services/gpu-functions/pyproject.toml").read_text())
    wanted = [*functions["project"]["dependencies"], *functions["project"]["optional-dependencies"]["torch"]]
    needed = {name.partition(";")[0].strip() for name in wanted if not name.startswith("safelight-")}
    packages = {*deployed.PACKAGES, *deployed.BARE_PACKAGES}
    assert packages | {*deployed.THEIR_PACKAGES} <= pins
    assert {re.split(r"[=<>]", package)[0] for package in packages} == needed | {"pydantic"}


async def test_health_says_what_is_deployed(client: modal.Client) -> None:
    said = await modal.Function.from_name(deployed.APP, "health", client=client).remote.aio()
    assert (said["envelope"], said["device"], said["gpus"]) == (1, "cpu", [])
    assert "style.apply cube-lut@3 cpu" in said["engines"]
    assert said["weights"] == dict.fromkeys(WEIGHTS, "absent")


@pytest.mark.filterwarnings("ignore:.* is executing locally:UserWarning")  # that is what is wanted
def test_health_names_the_engines_that_cannot_run_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed, "DEVICE", "gpu")
    monkeypatch.setattr(deployed, "VOLUME", str(tmp_path))
    said = deployed.health.local()
    able = {row.label for row in CATALOG if not row.weights and not row.packages}
    assert able <= {line.split()[1] for line in said["engines"]}
    unable = {name.split()[1]: why for name, why in said["unavailable"].items()}
    assert {row.label for row in CATALOG if row.weights} <= unable.keys()
    assert all(why for why in unable.values())


@pytest.mark.filterwarnings("ignore:.* is executing locally:UserWarning")  # that is what is wanted
def test_the_volume_is_filled_with_what_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror, volume = tmp_path / "mirror", tmp_path / "volume"
    mirror.mkdir()
    (mirror / "good").write_bytes(b"learnt")
    (mirror / "swapped").write_bytes(b"something else")
    pin = hashlib.sha256(b"learnt").hexdigest()
    table = {
        name: Weight(name, "https://x", 6, pin, "MIT", commercial=name != "gated")
        for name in ("good", "swapped", "away", "gated")
    }
    monkeypatch.setattr(weights, "WEIGHTS", table)
    monkeypatch.setattr(deployed, "VOLUME", str(volume))
    monkeypatch.setitem(deployed.BAKED, "SAFELIGHT_WEIGHTS_MIRROR", str(mirror))
    monkeypatch.setattr(deployed.weights, "commit", lambda: None)  # the volume is Modal's, and this folder is not one
    told = deployed.fetch_weights.local()
    assert told["good"] == "here"
    assert "sha256" in told["swapped"]
    assert "FileNotFoundError" in told["away"]
    assert "gated" not in told
    assert [path.name for path in volume.iterdir()] == ["good"]


async def test_documents_are_read_in_containers_of_their_own(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    page = await readable(objects, await stored(objects, picture(), "image/jpeg"))
    keys = {role: f"tests/{uuid4().hex}.{role}" for role in ("ocr", "markdown")}
    outputs = {role: WriteUrl(url=await objects.write_url(key, LIVES), key=key) for role, key in keys.items()}
    item = Item(id="a", inputs={"image": page}, outputs=outputs)
    handle, answer = await answered(provider, request(item, function="ocr.read"))
    assert (answer.engine, [one.error for one in answer.items]) == ("ppocr-onnx@1", [None])
    assert b'"blocks"' in await objects.get(keys["ocr"])
    assert platform.calls[handle].function_id == platform.functions["Reader.*"].id


# -- a call belongs to nobody ---------------------------------------------------------------


async def test_another_process_may_go_on_watching(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    handle = await submitted(provider, objects)
    await provider.close()
    async with connected() as other:
        answer = await ended(other, handle)
    assert answer.error is None
    assert (platform.calls[handle].started, platform.calls[handle].ended) == (1, 1)


async def test_a_batch_too_large_for_a_message_travels_all_the_same(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    items = [await styled(objects, picture(width=64)) for _ in range(12)]
    handle, answer = await answered(provider, request(*items))
    assert [one.error for one in answer.items] == [None] * 12
    assert platform.calls[handle].input.args_blob_id
    assert platform.counters.spawns["run"] >= 1


async def test_an_app_that_was_deployed_anew_is_found_again(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    await ended(provider, await submitted(provider, objects))
    spawns, calls = platform.counters.spawns["run"], len(platform.calls)
    platform.faults.stale = True
    await ended(provider, await submitted(provider, objects))
    assert (platform.counters.spawns["run"] - spawns, len(platform.calls) - calls) == (2, 1)


async def test_what_is_no_request_is_refused_as_data(platform: ModalPlatform, client: modal.Client) -> None:
    worker = modal.Cls.from_name(deployed.APP, "Worker", client=client)()
    call = await worker.run.spawn.aio({"a user's": "secret words"})
    answer = CallResponse.model_validate(await call.get.aio(timeout=60))
    assert answer.error
    assert answer.error.code == "MESSAGE_INVALID"
    assert not [name for name, kept in platform.stored() if b"secret words" in kept and not name.startswith("input")]


# -- what goes wrong when it is asked -------------------------------------------------------

REFUSALS = [
    #            fault            code of submit             of poll
    pytest.param("unauthorized", "PROVIDER_UNAUTHORIZED", "PROVIDER_UNAUTHORIZED", id="bad credentials"),
    pytest.param("forbidden", "PROVIDER_UNAUTHORIZED", "PROVIDER_UNAUTHORIZED", id="no permission"),
    pytest.param("throttled", "PROVIDER_RATE_LIMITED", "PROVIDER_RATE_LIMITED", id="throttled"),
    pytest.param("unavailable", "PROVIDER_UNAVAILABLE", "PROVIDER_UNAVAILABLE", id="unavailable"),
]


@pytest.mark.parametrize(("fault", "submits", "polls"), REFUSALS)
async def test_what_modal_refuses_has_a_code_and_starts_nothing(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, fault: str, submits: str, polls: str
) -> None:
    handle = await submitted(provider, objects)
    answer = await ended(provider, handle)
    calls = len(platform.calls)
    setattr(platform.faults, fault, True)
    assert await refusal(submitted(provider, objects)) == submits
    assert await refusal(provider.poll(handle, 0)) == polls
    platform.faults.clear()
    assert len(platform.calls) == calls
    assert await provider.poll(handle, 1) == Ended(answer)  # it said nothing about the call


async def test_advice_to_come_back_later_is_not_waited_for_beyond_our_patience(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    handle = await submitted(provider, objects)
    platform.faults.throttle_s = 60
    platform.faults.throttled = True
    began = monotonic()
    assert await refusal(submitted(provider, objects)) == "PROVIDER_RATE_LIMITED"
    assert await refusal(provider.poll(handle, 0)) == "PROVIDER_RATE_LIMITED"
    assert monotonic() - began < SLACK_S


async def test_without_the_app_a_call_is_rejected(platform: ModalPlatform, objects: Objects) -> None:
    platform.faults.no_app = True
    async with connected() as provider:
        assert await refusal(submitted(provider, objects)) == "PROVIDER_REJECTED"
    async with connected(app="no-such-app") as provider:
        assert await refusal(submitted(provider, objects)) == "PROVIDER_REJECTED"
        health = await provider.health()
    assert isinstance(health, Unavailable)
    assert health.code == "PROVIDER_UNAVAILABLE"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param("unauthorized", "PROVIDER_UNAUTHORIZED", id="bad credentials"),
        pytest.param("unavailable", "PROVIDER_UNAVAILABLE", id="unavailable"),
    ],
)
async def test_health_says_why_not_and_asks_no_more_often_than_it_must(
    platform: ModalPlatform, fault: str, code: str
) -> None:
    async with connected() as provider:
        assert await provider.health() == Available()
        lookups = platform.counters.lookups
        assert await provider.health() == Available()
        assert platform.counters.lookups == lookups
    setattr(platform.faults, fault, True)
    async with connected() as provider:
        health = await provider.health()
    assert isinstance(health, Unavailable)
    assert health.code == code


async def test_without_credentials_nothing_is_asked(platform: ModalPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODAL_TOKEN_ID")
    async with connected() as provider:
        assert await refusal(provider.submit(request())) == "PROVIDER_UNAUTHORIZED"


async def test_a_port_that_nobody_listens_on_is_given_up_in_time(
    platform: ModalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{once.getsockname()[1]}")
    async with connected() as provider:
        began = monotonic()
        assert await refusal(provider.poll("fc-any", 0)) in ("PROVIDER_UNAVAILABLE", "PROVIDER_TIMEOUT")
        assert monotonic() - began < ours.POLL_S + SLACK_S


# -- silence --------------------------------------------------------------------------------


async def test_a_silent_server_holds_up_each_question_for_its_bound_and_nothing_else(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = await submitted(provider, objects)
    await ended(provider, handle)
    with ModalPlatform(tmp_path) as silent:
        silent.faults.silent = True
        monkeypatch.setenv("MODAL_SERVER_URL", silent.url)
        async with connected() as mute:
            questions: dict[str, tuple[Callable[[], Awaitable[Any]], float]] = {
                "health": (mute.health, ours.HEALTH_S),
                "submit": (lambda: mute.submit(request()), ours.SUBMIT_S),
                "poll": (lambda: mute.poll("fc-any", 0), ours.POLL_S),
                "cancel": (lambda: mute.cancel("fc-any"), ours.CANCEL_S),
                "prewarm": (lambda: mute.prewarm("style.apply"), ours.SUBMIT_S),
            }

            async def timed(ask: Callable[[], Awaitable[Any]]) -> tuple[float, str]:
                began = monotonic()
                try:
                    said = await ask()
                    code = said.code if isinstance(said, Unavailable) else "-"
                except SafelightError as problem:
                    code = problem.code
                return monotonic() - began, code

            asked = {name: asyncio.create_task(timed(ask)) for name, (ask, _) in questions.items()}
            others = []
            while not all(task.done() for task in asked.values()):  # the bridge's other calls, meanwhile
                began = monotonic()
                await provider.poll(handle, 0)
                others.append(monotonic() - began)
                await asyncio.sleep(0)
            took = {name: task.result() for name, task in asked.items()}
            began = monotonic()
        assert monotonic() - began < ours.CLOSE_S + SLACK_S
    for name, (_, bound) in questions.items():
        assert bound - 0.1 < took[name][0] < bound + SLACK_S, name
    codes = {name: code for name, (_, code) in took.items()}
    assert codes == {
        "health": "PROVIDER_UNAVAILABLE",
        "submit": "PROVIDER_TIMEOUT",
        "poll": "PROVIDER_TIMEOUT",
        "cancel": "PROVIDER_TIMEOUT",
        "prewarm": "-",
    }
    assert max(others) < SLACK_S
    assert len(others) > 20


async def test_whoever_asks_may_leave_at_any_moment(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    platform.faults.silent = True
    polls = platform.counters.received["FunctionGetOutputs"]
    asking = asyncio.create_task(provider.poll("fc-any", 0))
    await until(lambda: platform.counters.received["FunctionGetOutputs"] > polls)
    asking.cancel()
    began = monotonic()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert monotonic() - began < SLACK_S
    platform.faults.silent = False
    await ended(provider, await submitted(provider, objects))


async def test_an_outage_is_said_and_a_call_that_ran_through_it_is_found_again(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    handle = await submitted(provider, objects)
    await provider.poll(handle, 0)
    platform.shut()
    try:
        asked = (provider.poll(handle, 0), submitted(provider, objects), provider.cancel(handle))
        codes = await asyncio.gather(*map(refusal, asked))
        assert set(codes) == {"PROVIDER_UNAVAILABLE"}
        await until(lambda: platform.calls[handle].ended)
    finally:
        platform.reopen()
    assert (await ended(provider, handle)).items[0].error is None
    await ended(provider, await submitted(provider, objects))


# -- an answer that is lost -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "code"),
    [
        pytest.param("reset", "PROVIDER_UNAVAILABLE", id="the connection breaks"),
        pytest.param("silence", "PROVIDER_TIMEOUT", id="nothing comes"),
    ],
)
async def test_a_spawn_whose_answer_is_lost_is_sent_once_and_found_by_its_claim(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, lost: Any, code: str
) -> None:
    await ended(provider, await submitted(provider, objects))  # the app is looked up
    item = await styled(objects, picture(width=64))
    spawns, calls = platform.counters.spawns["run"], set(platform.calls)
    platform.faults.lost = lost
    platform.faults.lose_after = 1
    assert await refusal(provider.submit(request(item))) == code
    [handle] = set(platform.calls) - calls
    assert platform.counters.spawns["run"] == spawns + 1

    async def claimed() -> bool:
        return await has(objects, item, "claim")

    await until(claimed)
    assert await owner_of(objects, item) == handle
    assert (await ended(provider, handle)).items[0].error is None
    assert (platform.calls[handle].started, platform.calls[handle].ended) == (1, 1)


async def test_a_spawn_that_never_arrived_started_nothing(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    await ended(provider, await submitted(provider, objects))
    spawns, calls = platform.counters.spawns["run"], len(platform.calls)
    platform.faults.lose_before = 1
    assert await refusal(submitted(provider, objects)) == "PROVIDER_UNAVAILABLE"
    assert (platform.counters.spawns["run"], len(platform.calls)) == (spawns + 1, calls)
    await ended(provider, await submitted(provider, objects))


# -- how a call ends without an answer ------------------------------------------------------

ENDS = [
    pytest.param("lose", "internal", "CALL_LOST", id="the platform loses it"),
    pytest.param("oom", "oom", "CALL_KILLED", id="it is out of memory"),
    pytest.param("time_out", "timeout", "CALL_RUN_DEADLINE", id="it runs into the function's timeout"),
]


@pytest.mark.parametrize(("how", "_end", "code"), ENDS)
async def test_a_call_that_breaks_in_mid_work_has_a_code(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, stall: Stall, how: str, _end: Any, code: str
) -> None:
    handle = await stuck(provider, objects, stall)
    assert isinstance(await provider.poll(handle, 0), Pending)
    getattr(platform, how)(handle)
    assert await over(provider, handle) == Broken(code)
    assert await provider.poll(handle, 0) == Broken(code)
    assert (platform.calls[handle].started, platform.calls[handle].ended) == (1, 0)


@pytest.mark.parametrize(("_how", "end", "code"), ENDS)
async def test_a_call_that_breaks_before_it_began_has_a_code(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, _how: str, end: Any, code: str
) -> None:
    platform.faults.ends = [end]
    handle = await submitted(provider, objects)
    assert await over(provider, handle) == Broken(code)
    assert platform.calls[handle].started == 0


async def test_a_result_that_is_forgotten_says_so(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    handle, _ = await answered(provider, request(await styled(objects, picture(width=64))))
    platform.expire(handle)
    assert await provider.poll(handle, 0) == Broken("CALL_EXPIRED")


async def test_a_preempted_call_goes_on_under_its_own_name(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, stall: Stall
) -> None:
    handle = await stuck(provider, objects, stall)
    stall.asked.clear()
    platform.preempt(handle)
    await asyncio.wait_for(stall.asked.wait(), 30)  # it is at the same item again: the claim is its own
    assert isinstance(await provider.poll(handle, 0), Pending)
    assert (platform.calls[handle].started, platform.calls[handle].restarts, stall.times) == (2, 1, 2)
    await provider.cancel(handle)
    assert await over(provider, handle) == Broken("CALL_KILLED")


async def test_a_call_that_stops_dead_stays_pending_until_it_is_cancelled(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    platform.faults.hang = 1
    handle = await submitted(provider, objects)
    await until(lambda: platform.calls[handle].started)
    assert isinstance(await provider.poll(handle, 0.3), Pending)
    await provider.cancel(handle)
    assert await over(provider, handle) == Broken("CALL_KILLED")
    await ended(provider, await submitted(provider, objects))
    assert platform.calls[handle].ended == 0


async def test_a_frozen_call_goes_on_where_it_was(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    platform.faults.hang = 1
    handle = await submitted(provider, objects)
    await until(lambda: platform.calls[handle].started)
    platform.thaw(handle)
    assert (await ended(provider, handle)).items[0].error is None


# -- starts ---------------------------------------------------------------------------------


async def test_a_container_that_crashes_at_its_start_looks_like_a_queue_without_end(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    platform.retire()
    crashes = platform.counters.crashes
    platform.faults.crash_loop = True
    handle = await submitted(provider, objects)
    await until(lambda: platform.counters.crashes >= crashes + 2, 60)
    assert isinstance(await provider.poll(handle, 0), Pending)
    assert platform.calls[handle].started == 0
    platform.faults.crash_loop = False
    assert (await ended(provider, handle)).items[0].error is None


async def test_a_cold_start_is_waited_out(platform: ModalPlatform, provider: ModalProvider, objects: Objects) -> None:
    platform.retire()
    platform.faults.held = True
    handle = await submitted(provider, objects)
    assert isinstance(await provider.poll(handle, 0.3), Pending)
    platform.faults.cold_s = 0.5
    platform.faults.held = False
    answer = await ended(provider, handle)
    assert answer.usage
    assert answer.usage.cold
    assert answer.usage.boot_s > 0


async def test_capacity_that_was_asked_for_is_what_the_next_call_uses(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    platform.retire()
    containers, warmed = platform.counters.containers, platform.counters.ended["warm"]
    await provider.prewarm("style.apply")
    await until(lambda: platform.counters.ended["warm"] == warmed + 1)
    await ended(provider, await submitted(provider, objects))
    assert platform.counters.containers == containers + 1


# -- stopping -------------------------------------------------------------------------------


async def test_a_cancel_that_is_not_honoured_leaves_the_call_pending(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, stall: Stall
) -> None:
    handle = await stuck(provider, objects, stall)
    platform.faults.cancel = "ignored"
    await provider.cancel(handle)
    assert isinstance(await provider.poll(handle, 0.2), Pending)


async def test_a_call_that_succeeds_while_it_is_cancelled_has_succeeded(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    platform.faults.cancel = "too late"
    handle = await submitted(provider, objects)
    await provider.cancel(handle)
    news = await provider.poll(handle, 0)
    assert isinstance(news, Ended)
    assert news.response.items[0].error is None


async def test_a_call_can_be_cancelled_before_it_starts(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects, stall: Stall
) -> None:
    busy = [await stuck(provider, objects, stall) for _ in range(2)]
    item = await styled(objects, picture(width=64))
    handle = await provider.submit(request(item))
    await provider.cancel(handle)
    assert await over(provider, handle) == Broken("CALL_KILLED")
    for one in busy:
        await provider.cancel(one)
    await ended(provider, await submitted(provider, objects))
    assert platform.calls[handle].started == 0
    assert not await has(objects, item, "claim")


# -- what must never happen -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "code"),
    [
        pytest.param("trap.timeout", "CALL_KILLED", id="a TimeoutError of the function is no answer that is to come"),
        pytest.param("trap.raise", "CALL_KILLED", id="an exception of the function is not raised here"),
        pytest.param("trap.other", "ANSWER_INVALID", id="an answer of another shape is refused"),
        pytest.param("trap.text", "ANSWER_INVALID", id="an answer that is no dict is refused"),
    ],
)
async def test_an_app_that_is_not_ours_is_survived(platform: ModalPlatform, function: str, code: str) -> None:
    if "tests.servers.modal.trap" not in {one.definition.module_name for one in platform.functions.values()}:
        platform.deploy("tests.servers.modal.trap")
    async with connected(app="trap") as provider:
        handle = await provider.submit(request(function=function))
        if code == "ANSWER_INVALID":
            assert await refusal(over(provider, handle)) == code
        else:
            assert await over(provider, handle) == Broken(code)


async def test_nothing_of_a_user_stays_with_modal(
    platform: ModalPlatform, provider: ModalProvider, objects: Objects
) -> None:
    photo, broken = picture(width=200), b"a user's private words, which are no picture"
    items = [await styled(objects, photo), await styled(objects, broken)]
    handle, answer = await answered(provider, request(*items))
    output = await objects.get(items[0].outputs["image"].key)
    assert answer.items[1].error
    kept = platform.stored()
    assert {name for name, _ in kept} >= {f"input {handle}", f"output {handle}"}
    assert any(name.startswith("log ") for name, _ in kept)
    for content in (photo, broken, output, INVERSE.encode()):
        middle = content[len(content) // 2 :][:24]
        for needle in (middle, content[:24], base64.b64encode(content[:24]), content[:24].hex().encode()):
            assert not [name for name, stored in kept if needle in stored]


@pytest.mark.parametrize(
    ("said", "wanted", "found"),
    [
        pytest.param("NVIDIA L4", ("L4", "A10"), "L4", id="the first of the list"),
        pytest.param("NVIDIA A10", ("L4", "A10"), "A10", id="the second of the list"),
        pytest.param("NVIDIA A100-SXM4-40GB", ("A100-80GB", "A100-40GB"), "A100-40GB", id="by its memory"),
        pytest.param("NVIDIA L40S", ("L4", "L40S"), "L40S", id="no part of a name"),
        pytest.param("Tesla Q9", ("L4", "A10"), "L4", id="none of the list"),
        pytest.param(None, ("L4",), "L4", id="no driver"),
    ],
)
def test_a_container_knows_which_gpu_is_paid_for(
    said: str | None, wanted: tuple[str, ...], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if said is not None:
        driver = tmp_path / "nvidia-smi"
        driver.write_text(f"#!/bin/sh\necho '{said}'\n")
        driver.chmod(0o755)
    assert deployed.gpu_type(wanted) == found
