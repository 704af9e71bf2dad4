"""Jobs per second and the latency of one job, through a durable pipeline of six phases that do nothing.

What is measured is the orchestrator with its database and broker, one process or two, and one
process that answers the commands. The other services are held (SIGSTOP), so that the figure is
orchestration and nothing else; `projected` is the same with output showing every job's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import nats
import psutil
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts.artifacts import ObjectRef
from contracts.jobs import JOB_SUCCEEDED, JobSucceeded
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from runtime.outbox import outgoing, publish
from stack import control, services
from stack.home import Home
from stack.ports import anywhere
from tests.bench.peers import Figures

SOURCE = "bench"
ORIGINAL = ObjectRef(key="uploads/bench", sha256="0" * 64, size=1, media_type="image/jpeg")
HELD = ("ingest", "gpu-bridge", "console", "s3")
SUBMITTED_AT_ONCE = 500
OPEN_MAX = 5_000  # jobs take turns: of 100,000 at once none would end before six sevenths of the work is done
READY_S = 30.0
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of the table, and what it cost: CPU seconds by process while the many jobs went through."""

    figures: Figures
    cpu: Mapping[str, float]


@contextlib.asynccontextmanager
async def _endings(nc: Client) -> AsyncIterator[asyncio.Queue[UUID]]:
    ended: asyncio.Queue[UUID] = asyncio.Queue()

    async def came(message: Msg) -> None:
        ended.put_nowait(JobSucceeded.model_validate_json(message.data).job_id)

    config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, ack_policy=AckPolicy.NONE)
    sub = await nc.jetstream().subscribe(JOB_SUCCEEDED.subject, cb=came, stream="EVENTS", config=config)
    try:
        yield ended
    finally:
        with contextlib.suppress(Exception):
            await sub.unsubscribe()


async def _submit(nc: Client, count: int) -> set[UUID]:
    ids: set[UUID] = set()
    for start in range(0, count, SUBMITTED_AT_ONCE):
        chunk = []
        for _ in range(min(SUBMITTED_AT_ONCE, count - start)):
            upload = UploadReceived(
                upload_id=uuid4(),
                job_id=uuid4(),
                tenant="bench",
                pipeline="noop",
                original=ORIGINAL,
                received_at=datetime.now(UTC),
            )
            ids.add(upload.job_id)
            message_id, key = str(upload.upload_id), str(upload.job_id)
            chunk.append(
                outgoing(UPLOAD_RECEIVED, upload, message_id=message_id, key=key, source=SOURCE, traceparent="")
            )
        await publish(nc.jetstream(), chunk)
    return ids


async def throughput(nc: Client, jobs: int) -> float:
    """Submit all, OPEN_MAX at once; seconds until the last has succeeded."""
    async with _endings(nc) as ended:
        start = time.perf_counter()
        waiting: set[UUID] = set()
        left = jobs
        while left or waiting:
            if left and len(waiting) <= OPEN_MAX - SUBMITTED_AT_ONCE:
                count = min(left, OPEN_MAX - len(waiting))
                waiting |= await _submit(nc, count)
                left -= count
            waiting.discard(await asyncio.wait_for(ended.get(), PATIENCE_S))
        return time.perf_counter() - start


async def latencies_ms(nc: Client, jobs: int) -> list[float]:
    """One job at a time on an idle system: from the upload's event to the job's end."""
    took = []
    async with _endings(nc) as ended:
        for _ in range(jobs):
            start = time.perf_counter()
            waiting = await _submit(nc, 1)
            while waiting:
                waiting.discard(await asyncio.wait_for(ended.get(), PATIENCE_S))
            took.append((time.perf_counter() - start) * 1000)
    return took


@contextlib.contextmanager
def held(home: Home, names: Sequence[str]) -> Iterator[None]:
    """Processes of the stack that get no CPU meanwhile."""
    pids = [home.read_state()["processes"][name]["pid"] for name in names]
    families = [p for pid in pids for p in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    for process in families:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in families:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def more_orchestrators(home: Home, count: int) -> Iterator[list[int]]:
    """So many orchestrator processes beside the stack's own; gives their pids."""
    ports = home.read_state()["ports"]
    row = next(one for one in services.SERVICES if one.name == "orchestrator")
    started = []
    try:
        for _ in range(count):
            port = anywhere()["orchestrator"]
            environment = services.environment(row, ports, home.secrets()) | {"SAFELIGHT_HTTP_PORT": str(port)}
            log = (home.path / f"orchestrator-{port}.log").open("wb")
            command = [sys.executable, "-P", "-m", "orchestrator"]
            started.append(subprocess.Popen(command, env=os.environ | environment, stderr=log, stdout=log))
            _wait_until_ready(f"http://127.0.0.1:{port}/ready")
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def noop_worker(url: str, user: str, password: str) -> Iterator[int]:
    """One process that answers the commands; gives its pid."""
    given = {"SAFELIGHT_NATS_URL": url, "SAFELIGHT_NATS_USER": user, "SAFELIGHT_NATS_PASSWORD": password}
    command = [sys.executable, "-m", "tests.bench.noop_worker"]
    process = subprocess.Popen(command, env=os.environ | given, cwd=Path(__file__).parents[2])
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} did not become ready")
        time.sleep(0.05)


def _cpu(processes: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far, of each process and those below it, ended ones included."""
    used = {}
    for name, pid in processes.items():
        family = (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        used[name] = sum(sum(process.cpu_times()[:4]) for process in family)  # with children that have ended
    return used


async def measure(home: Home, *, orchestrators: int, projected: bool, jobs: int, singles: int) -> Measured:
    """One row of the table, on a stack that is up with the no-op pipeline."""
    broker = control.setup_environment(home)
    url, user, password = (broker[f"SAFELIGHT_NATS_{name}"] for name in ("URL", "USER", "PASSWORD"))
    nc = await nats.connect(url, user=user, password=password)
    stopped = HELD if projected else (*HELD, "output")
    try:
        with (
            more_orchestrators(home, orchestrators - 1) as others,
            noop_worker(url, user, password) as worker,
            held(home, stopped),
        ):
            rows = home.read_state()["processes"]
            watched = {name: rows[name]["pid"] for name in ("orchestrator", "nats", "postgres", "output")}
            watched |= {f"orchestrator-{n}": pid for n, pid in enumerate(others, 2)} | {"worker": worker}
            await throughput(nc, 200)  # warms connections and code
            before = _cpu(watched)
            seconds = await throughput(nc, jobs)
            used = {name: after - before[name] for name, after in _cpu(watched).items()}
            alone = await latencies_ms(nc, singles)
    finally:
        await nc.close()
    name = "safelight + output" if projected else "safelight"
    return Measured(Figures(name, orchestrators, jobs, seconds, alone), used)
