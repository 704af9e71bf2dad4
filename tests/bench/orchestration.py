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
from uuid import uuid4

import httpx
import nats
import psutil
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts.artifacts import ObjectRef
from contracts.jobs import JOB_SUCCEEDED
from contracts.message import HEADER_SUBJECT
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from runtime import wire
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


class _Endings:
    """Which of the jobs that were submitted are still on their way. Heard in bulk: the driver shares the cores."""

    def __init__(self) -> None:
        self.waiting: set[str] = set()
        self.came = asyncio.Event()

    def heard(self, _subject: bytes, _reply: bytes, head: bytes, _body: bytes) -> None:
        self.waiting.discard(wire.value_of(head, HEADER_SUBJECT.encode()) or "")
        self.came.set()

    async def until(self, most: int) -> None:
        """Wait until no more than so many are left. Raises TimeoutError when none ends for PATIENCE_S."""
        while len(self.waiting) > most:
            self.came.clear()
            async with asyncio.timeout(PATIENCE_S):
                await self.came.wait()


@contextlib.asynccontextmanager
async def _endings(nc: Client) -> AsyncIterator[_Endings]:
    endings, to = _Endings(), nc.new_inbox()
    listening = await wire.listen(nc, to, endings.heard)
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.NEW,
        ack_policy=AckPolicy.NONE,
        deliver_subject=to,
        filter_subject=JOB_SUCCEEDED.subject,
        inactive_threshold=PATIENCE_S,
    )
    consumer = await nc.jetstream().add_consumer("EVENTS", config)
    try:
        yield endings
    finally:
        with contextlib.suppress(Exception):
            await wire.unlisten(nc, listening)
            await nc.jetstream().delete_consumer("EVENTS", consumer.name)


async def _submit(nc: Client, count: int, endings: _Endings) -> None:
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
            message_id, key = str(upload.upload_id), str(upload.job_id)
            endings.waiting.add(key)
            chunk.append(
                outgoing(UPLOAD_RECEIVED, upload, message_id=message_id, key=key, source=SOURCE, traceparent="")
            )
        await publish(nc.jetstream(), chunk)


async def throughput(nc: Client, jobs: int) -> float:
    """Submit all, OPEN_MAX at once; seconds until the last has succeeded."""
    async with _endings(nc) as endings:
        start = time.perf_counter()
        left = jobs
        while left:
            count = min(left, OPEN_MAX - len(endings.waiting))
            await _submit(nc, count, endings)
            left -= count
            await endings.until(OPEN_MAX - SUBMITTED_AT_ONCE if left else 0)
        return time.perf_counter() - start


async def latencies_ms(nc: Client, jobs: int) -> list[float]:
    """One job at a time on an idle system: from the upload's event to the job's end."""
    took = []
    async with _endings(nc) as endings:
        for _ in range(jobs):
            start = time.perf_counter()
            await _submit(nc, 1, endings)
            await endings.until(0)
            took.append((time.perf_counter() - start) * 1000)
    return took


@contextlib.contextmanager
def held(home: Home, names: Sequence[str]) -> Iterator[None]:
    """Processes of the stack that get no CPU meanwhile."""
    pids = [home.read_state()["processes"][name]["pid"] for name in names]
    families = [p for pid in pids for p in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
    for process in families:
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's helpers come and go
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
