"""A worker for the no-op command: answers as soon as it is asked. `python -m tests.bench.noop_worker`.

It takes commands and publishes outcomes as every worker of Safelight does; there is no work between.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import nats
import uvloop
from nats.aio.client import Client

from contracts import topology
from contracts.phases import PHASE_SUCCEEDED, PhaseSucceeded, RunPhase
from runtime.outbox import outgoing, publish
from runtime.settle import Delivery, consume_batches

SOURCE = "bench"


async def answer(nc: Client, deliveries: Sequence[Delivery]) -> None:
    """Each command succeeds at once."""
    answers = []
    for delivery in deliveries:
        command = RunPhase.model_validate_json(delivery.body)
        now = datetime.now(UTC)
        done = PhaseSucceeded(
            job_id=command.job_id,
            phase=command.phase,
            item=command.item,
            attempt=command.attempt,
            engine="noop@1",
            started_at=now,
            ended_at=now,
        )
        message_id, trace = f"{command.key}.outcome", delivery.traceparent or ""
        answers.append(
            outgoing(PHASE_SUCCEEDED, done, message_id=message_id, key=command.key, source=SOURCE, traceparent=trace)
        )
    await publish(nc.jetstream(), answers)


async def work(url: str, user: str | None, password: str | None) -> None:
    """Answer until cancelled."""
    nc = await nats.connect(url, user=user, password=password, max_reconnect_attempts=-1, reconnect_time_wait=1)
    try:
        await consume_batches(nc, topology.consumer("bench-noop"), partial(answer, nc), batch_max=200)
    finally:
        await nc.close()


if __name__ == "__main__":
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as every service does
    given = (os.environ.get(f"SAFELIGHT_NATS_{name}") for name in ("URL", "USER", "PASSWORD"))
    uvloop.run(work(*given))  # type: ignore[arg-type]  # the URL is always there
