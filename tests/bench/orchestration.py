"""Jobs per second and the latency of one job, through a durable pipeline of six phases that do nothing.

What is measured is the orchestrator with its database and broker; the worker that answers the
commands runs in this process, as a raw batch consumer.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import nats
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from contracts import topology
from contracts.artifacts import ObjectRef
from contracts.jobs import JOB_SUCCEEDED, JobSucceeded
from contracts.phases import PHASE_SUCCEEDED, PhaseSucceeded, RunPhase
from contracts.uploads import UPLOAD_RECEIVED, UploadReceived
from runtime.outbox import outgoing, publish
from runtime.settle import Delivery, consume_batches

SOURCE = "bench"
ORIGINAL = ObjectRef(key="uploads/bench", sha256="0" * 64, size=1, media_type="image/jpeg")


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast `jobs` jobs went through six phases each."""

    jobs: int
    seconds: float

    @property
    def jobs_per_s(self) -> float:
        return self.jobs / self.seconds


async def _answer(nc: Client, deliveries: Sequence[Delivery]) -> None:
    answers = []
    for delivery in deliveries:
        command = RunPhase.model_validate_json(delivery.body)
        now = datetime.now(UTC)
        done = PhaseSucceeded(
            job_id=command.job_id,
            phase=command.phase,
            attempt=command.attempt,
            engine="noop@1",
            started_at=now,
            ended_at=now,
        )
        answers.append(
            outgoing(PHASE_SUCCEEDED, done, message_id=f"{command.key}.outcome", key=command.key, source=SOURCE)
        )
    await publish(nc.jetstream(), answers)


@contextlib.asynccontextmanager
async def _worker(nc: Client) -> AsyncIterator[None]:
    work = asyncio.create_task(consume_batches(nc, topology.consumer("bench-noop"), lambda d: _answer(nc, d)))
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@contextlib.asynccontextmanager
async def _endings(nc: Client) -> AsyncIterator[asyncio.Queue[UUID]]:
    ended: asyncio.Queue[UUID] = asyncio.Queue()
    config = ConsumerConfig(deliver_policy=DeliverPolicy.NEW, ack_policy=AckPolicy.NONE)
    sub = await nc.jetstream().subscribe(JOB_SUCCEEDED.subject, stream="EVENTS", config=config, ordered_consumer=False)

    async def read() -> None:
        async for message in sub.messages:
            ended.put_nowait(JobSucceeded.model_validate_json(message.data).job_id)

    reader = asyncio.create_task(read())
    try:
        yield ended
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        with contextlib.suppress(Exception):
            await sub.unsubscribe()


async def _submit(nc: Client, count: int) -> set[UUID]:
    uploads = [
        UploadReceived(
            upload_id=uuid4(),
            job_id=uuid4(),
            tenant="bench",
            pipeline="noop",
            original=ORIGINAL,
            received_at=datetime.now(UTC),
        )
        for _ in range(count)
    ]
    for start in range(0, count, 500):
        chunk = uploads[start : start + 500]
        await publish(
            nc.jetstream(),
            [
                outgoing(UPLOAD_RECEIVED, u, message_id=str(u.upload_id), key=str(u.job_id), source=SOURCE)
                for u in chunk
            ],
        )
    return {upload.job_id for upload in uploads}


async def throughput(nc: Client, jobs: int) -> Throughput:
    """Submit all at once and wait until the last has succeeded."""
    async with _worker(nc), _endings(nc) as ended:
        start = time.perf_counter()
        waiting = await _submit(nc, jobs)
        while waiting:
            waiting.discard(await asyncio.wait_for(ended.get(), 60))
        return Throughput(jobs, time.perf_counter() - start)


async def latency_ms(nc: Client, jobs: int) -> list[float]:
    """One job at a time on an idle system: from the upload's event to the job's end."""
    took = []
    async with _worker(nc), _endings(nc) as ended:
        for _ in range(jobs):
            start = time.perf_counter()
            waiting = await _submit(nc, 1)
            while waiting:
                waiting.discard(await asyncio.wait_for(ended.get(), 60))
            took.append((time.perf_counter() - start) * 1000)
    return took


async def run(nats_url: str, user: str | None, password: str | None, *, jobs: int = 2000, singles: int = 100) -> None:
    """Print both figures."""
    nc = await nats.connect(nats_url, user=user, password=password)
    try:
        await throughput(nc, 100)  # warms connections and code
        fast = await throughput(nc, jobs)
        alone = sorted(await latency_ms(nc, singles))
    finally:
        await nc.close()
    p50, p99 = statistics.median(alone), alone[int(len(alone) * 0.99) - 1]
    print(
        f"orchestration   {fast.jobs_per_s:8.0f} jobs/s   ({fast.jobs} jobs x 6 no-op phases in {fast.seconds:.1f} s)"
    )
    print(f"one job idle    p50 {p50:.0f} ms   p99 {p99:.0f} ms   (six phases, {singles} jobs)")
