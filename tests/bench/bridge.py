"""What the bridge adds to a call on Modal, and how much one process of it carries: the real SDK on the local platform.

Everything is measured in one run on one platform (`tests/servers/modal`), which is a process's
thread in Python: its own share is in every figure, and the difference is what counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import quantiles
from uuid import uuid4

import asyncpg
import nats
import psutil
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from pydantic import SecretStr

from contracts.artifacts import ObjectRef
from contracts.envelope import CallRequest, Item, ReadUrl, WriteUrl
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, RUN_STYLE, RunPhase
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from gpu_bridge.providers.modal import ModalProvider
from gpu_bridge.providers.port import Pending
from gpu_bridge.settings import Settings
from gpu_bridge.smoke import LUT, PICTURE
from runtime.objects import Objects
from runtime.outbox import outgoing, publish
from stack import control, services
from stack.home import Home
from stack.ports import anywhere
from tests.bench.orchestration import _wait_until_ready, held
from tests.servers.modal import ModalPlatform

SINGLES = 40
MANY = 200
WATCHED = 5000
PROBES = 60
COLD_S = 4.0  # that the platform takes to start a container, beside what the container itself takes
OTHERS = ("ingest", "orchestrator", "output", "console")
MIB = 1024 * 1024
LIVES = timedelta(minutes=30)
PATIENCE_S = 300.0
START_S = 100.0  # a call that has not started after 120 is given up, and after three the provider
TERMS = """
currency = "USD"
prices = []
[limits.modal]
in_flight = {in_flight}
per_s = 1000
batch = {batch}
batch_wait_s = {wait}
bills_cold_start = true
[limits.local]
in_flight = 0
per_s = 1000
batch = 1
batch_wait_s = 0
bills_cold_start = false
"""


@dataclass
class _Bench:
    home: Home
    modal: ModalPlatform
    nc: Client
    objects: Objects
    inputs: dict[str, ObjectRef]
    ended: asyncio.Queue[str]

    def command(self) -> RunPhase:
        """Work of its own: no two are the same call."""
        return RunPhase(
            job_id=uuid4(),
            phase="style",
            attempt=1,
            tenant="bench",
            inputs=self.inputs,
            parameters={"strength": uuid4().int % 10**12 / 10**12},
            deadline=datetime.now(UTC) + timedelta(minutes=20),
        )

    async def send(self, commands: Sequence[RunPhase]) -> None:
        """Put commands on their stream."""
        for start in range(0, len(commands), 200):
            chunk = commands[start : start + 200]
            js = self.nc.jetstream()
            await publish(
                js, [outgoing(RUN_STYLE, c, message_id=c.key, key=c.key, source="bench", traceparent="") for c in chunk]
            )

    async def through(self, commands: Sequence[RunPhase]) -> float:
        """Seconds until all have an outcome."""
        start = time.perf_counter()
        await self.send(commands)
        left = {command.key for command in commands}
        while left:
            left.discard(await asyncio.wait_for(self.ended.get(), PATIENCE_S))
        return time.perf_counter() - start

    async def expects_a_batch(self) -> None:
        """The first upload of a batch."""
        upload = UploadReceived(
            upload_id=uuid4(),
            job_id=uuid4(),
            tenant="bench",
            pipeline="photo",
            original=self.inputs["image"],
            received_at=datetime.now(UTC),
            batch_id=uuid4(),
        )
        id_, key = str(upload.upload_id), str(upload.job_id)
        message = outgoing(UPLOAD_RECEIVED, upload, message_id=id_, key=key, source="bench", traceparent="")
        await publish(self.nc.jetstream(), [message])

    async def request(self) -> CallRequest:
        """The same work without the bridge: links, and no marks."""
        inputs = {
            role: ReadUrl(url=await self.objects.read_url(ref.key, LIVES), sha256=ref.sha256, size=ref.size)
            for role, ref in self.inputs.items()
        }
        key = f"bench/{uuid4()}.png"
        outputs = {"image": WriteUrl(url=await self.objects.write_url(key, LIVES), key=key)}
        item = Item(id=uuid4().hex, inputs=inputs, outputs=outputs)
        deadline = datetime.now(UTC) + LIVES
        return CallRequest(call_id=item.id, function="style.apply", items=[item], deadline=deadline)

    async def running(self) -> int:
        """Calls that a provider has."""
        url = services.environment(_row(), self.home.read_state()["ports"], self.home.secrets())
        conn = await asyncpg.connect(url["SAFELIGHT_POSTGRES_URL"])
        try:
            return int(await conn.fetchval("SELECT count(*) FROM gpu_bridge.calls WHERE state = 'running'"))
        finally:
            await conn.close()


def _row() -> services.Service:
    return next(one for one in services.SERVICES if one.name == "gpu-bridge")


@contextlib.contextmanager
def _bridge(bench: _Bench, folder: Path, **terms: float) -> Iterator[psutil.Process]:
    """A bridge of its own, on these terms."""
    file = folder / f"terms-{uuid4().hex}.toml"
    file.write_text(TERMS.format(**terms))
    ports, port = bench.home.read_state()["ports"], anywhere()["gpu-bridge"]
    environment = services.environment(_row(), ports, bench.home.secrets()) | bench.modal.environment()
    environment |= {"SAFELIGHT_HTTP_PORT": str(port), "SAFELIGHT_MODAL_APP": "safelight-gpu"}
    environment |= {"SAFELIGHT_GPU_TERMS": str(file), "SAFELIGHT_CALLS_IN_FLIGHT_MAX": str(WATCHED + PROBES)}
    with (folder / f"bridge-{port}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gpu_bridge"], env=os.environ | environment, stdout=log, stderr=log
        )
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/ready")
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _alone(home: Home) -> Iterator[None]:
    """The stack without its own bridge, and without who would start it again."""
    state = home.read_state()
    supervisor, bridge = psutil.Process(state["supervisor"]["pid"]), state["processes"]["gpu-bridge"]["pid"]
    supervisor.send_signal(signal.SIGSTOP)
    try:
        os.kill(bridge, signal.SIGKILL)
        with held(home, OTHERS):
            yield
    finally:
        supervisor.send_signal(signal.SIGCONT)


def _admin(settings: Settings, known: Mapping[str, str]) -> Settings:
    """The bridge's settings with the keys of set-up: the bench puts its inputs where the bridge may not."""
    keys = {name: SecretStr(known[f"SAFELIGHT_{name.upper()}"]) for name in ("s3_access_key", "s3_secret_key")}
    return settings.model_copy(update=keys)


@contextlib.asynccontextmanager
async def _set_up(home: Home, modal: ModalPlatform) -> AsyncIterator[_Bench]:
    known = control.setup_environment(home)
    url, user, password = (known[f"SAFELIGHT_NATS_{name}"] for name in ("URL", "USER", "PASSWORD"))
    given = services.environment(_row(), home.read_state()["ports"], home.secrets())
    fields = {name.removeprefix("SAFELIGHT_").lower(): value for name, value in given.items()}
    settings = Settings(**{name: value for name, value in fields.items() if name in Settings.model_fields})  # type: ignore[arg-type]
    objects, nc = Objects(_admin(settings, known)), await nats.connect(url, user=user, password=password)
    inputs = {}
    for role, (data, kind) in {"image": (PICTURE, "image/png"), "lut": (LUT, "application/x-cube-lut")}.items():
        key = f"bench/{uuid4()}"
        await objects.put(key, data, kind)
        digest = hashlib.sha256(data).hexdigest()
        inputs[role] = ObjectRef(key=key, sha256=digest, size=len(data), media_type=kind)
    ended: asyncio.Queue[str] = asyncio.Queue()

    async def came(message: Msg) -> None:
        ended.put_nowait((message.headers or {})["ce-subject"])

    config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, ack_policy=AckPolicy.NONE)
    for channel in (PHASE_SUCCEEDED, PHASE_FAILED):
        await nc.jetstream().subscribe(channel.subject, cb=came, stream="EVENTS", config=config)
    try:
        yield _Bench(home, modal, nc, objects, inputs, ended)
    finally:
        await nc.close()
        objects.close()


async def _direct(bench: _Bench, provider: ModalProvider) -> float:
    """Milliseconds of one call by the SDK alone."""
    request = await bench.request()
    start = time.perf_counter()
    handle = await provider.submit(request)
    while isinstance(await provider.poll(handle, 30.0), Pending):
        pass
    return (time.perf_counter() - start) * 1000


async def _spawns(bench: _Bench) -> list[float]:
    """Milliseconds from a command on its stream to the platform's having the call, one at a time."""
    took = []
    for _ in range(PROBES):
        before, start = bench.modal.counters.created["run"], time.perf_counter()
        await bench.send([bench.command()])
        while bench.modal.counters.created["run"] == before:  # noqa: ASYNC110  # the platform is another thread's
            await asyncio.sleep(0.002)  # the measurement's grain
        took.append((time.perf_counter() - start) * 1000)
    return took


def _told(name: str, took: Sequence[float]) -> None:
    cuts = quantiles(took, n=100)
    print(f"{name:<44} p50 {cuts[49]:8.1f} ms   p99 {cuts[98]:8.1f} ms   ({len(took)})", flush=True)


def _rate(name: str, seconds: float, more: str = "") -> None:
    print(f"{MANY} {name:<32} {MANY / seconds:6.1f} calls/s{more}", flush=True)


async def measure(home: Home, folder: Path) -> None:
    """Print the table, on a stack that is up."""
    with ModalPlatform(folder) as modal, _alone(home):
        os.environ.update(modal.environment())
        modal.deploy("deploy.modal.app", SAFELIGHT_MODAL_GPUS="")
        async with _set_up(home, modal) as bench:
            provider = ModalProvider(device="cpu", gpus=())
            await _direct(bench, provider)  # boots a container
            with _bridge(bench, folder, in_flight=100, batch=1, wait=0):
                await bench.through([bench.command()])
                _told("a call by the SDK alone", [await _direct(bench, provider) for _ in range(SINGLES)])
                _told(
                    "the same through the bridge",
                    [1000 * await bench.through([bench.command()]) for _ in range(SINGLES)],
                )
                start = time.perf_counter()
                await asyncio.gather(*(_direct(bench, provider) for _ in range(MANY)))
                print(
                    f"{MANY} calls by the SDK alone      {MANY / (time.perf_counter() - start):6.1f} calls/s",
                    flush=True,
                )
                took = await bench.through([bench.command() for _ in range(MANY)])
                print(f"{MANY} calls through the bridge    {MANY / took:6.1f} calls/s", flush=True)
            await provider.close()
            before = modal.counters.created["run"]
            with _bridge(bench, folder, in_flight=100, batch=4, wait=0.25):
                took = await bench.through([bench.command() for _ in range(MANY)])
                each = MANY / (modal.counters.created["run"] - before)
                _rate("calls in batches of up to 4", took, f"   {each:.2f} calls in each")
                _told("a spawn with nothing else in flight", await _spawns(bench))
            modal.faults.cold_s = COLD_S
            with _bridge(bench, folder, in_flight=100, batch=1, wait=0):
                for warned in (False, True):
                    modal.retire()
                    if warned:
                        boots = modal.counters.ended["warm"]
                        await bench.expects_a_batch()
                        while modal.counters.ended["warm"] == boots:  # noqa: ASYNC110
                            await asyncio.sleep(0.01)  # until the first photo has been analysed
                    took = await bench.through([bench.command()])
                    print(f"a first call, {'after' if warned else 'without'} a warning: {took:.2f} s", flush=True)
            modal.faults.cold_s = 0.0
            modal.faults.held = True
            modal.retire()
            with _bridge(bench, folder, in_flight=WATCHED + PROBES, batch=4, wait=0.25) as process:
                empty = process.memory_info().rss / MIB
                start = time.perf_counter()
                await bench.send([bench.command() for _ in range(WATCHED)])
                while (count := await bench.running()) < WATCHED:
                    if time.perf_counter() - start > START_S:
                        break
                    await asyncio.sleep(0.5)
                took = time.perf_counter() - start
                print(
                    f"{count:,} calls watched by one process: {process.memory_info().rss / MIB:.0f} MiB "
                    f"({empty:.0f} without any), submitted at {count / took:.0f}/s, "
                    f"{process.cpu_percent(5.0):.0f}% of one core",
                    flush=True,
                )
                _told(f"a spawn with {count:,} in flight", await _spawns(bench))
