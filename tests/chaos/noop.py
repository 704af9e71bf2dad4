"""The worker of phases that do nothing, as a process that may be killed: `python -m tests.chaos.noop`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import nats

from contracts import topology
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, PhaseFailed, PhaseSucceeded, RunPhase
from runtime.outbox import Outgoing, outgoing, publish
from runtime.settle import Delivery, consume_batches
from tests.chaos.victim import die_with_parent

SOURCE: Final = "bench"


def answer(command: RunPhase, *, fails: bool = False) -> Outgoing:
    """The outcome of a command, at once. Its id is the attempt's, as every worker's is."""
    about = command.model_dump(include={"job_id", "phase", "item", "attempt"})
    now = datetime.now(UTC)
    id_, key = f"{command.key}.outcome", command.key
    if fails:
        bad = PhaseFailed(**about, code="INTERNAL", detail="stumbled", started_at=now, ended_at=now)
        return outgoing(PHASE_FAILED, bad, message_id=id_, key=key, source=SOURCE)
    good = PhaseSucceeded(**about, engine="noop@1", started_at=now, ended_at=now)
    return outgoing(PHASE_SUCCEEDED, good, message_id=id_, key=key, source=SOURCE)


async def work() -> None:
    """Answer commands until killed."""
    known = {name: os.environ[f"SAFELIGHT_NATS_{name.upper()}"] for name in ("url", "user", "password")}
    nc = await nats.connect(
        known["url"], user=known["user"], password=known["password"], max_reconnect_attempts=-1, reconnect_time_wait=1
    )

    async def answered(deliveries: Sequence[Delivery]) -> None:
        commands = [RunPhase.model_validate_json(delivery.body) for delivery in deliveries]
        await publish(nc.jetstream(), [answer(command) for command in commands])

    await consume_batches(nc, topology.consumer("bench-noop"), answered)


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(work())
