"""Erasure in this room: the calls that only erased jobs followed, with their results, claims and checkpoints.

A call that another job follows too is kept, and goes with the last of them; one that makes a style stays with the
style. A call that is still out is waited for: its jobs are over, so it was asked to stop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.erasures import ERASURE_DONE, ErasureRequested, done
from contracts.errors import error
from gpu_bridge.call import State
from gpu_bridge.tables import BATCHES, CALLS, COMMANDS, EPOCHS, ERASED
from runtime import clock, erased, logs
from runtime.objects import Objects
from runtime.outbox import outgoing, publish
from runtime.settle import Delivery

if TYPE_CHECKING:
    from nats.js import JetStreamContext

ROOM: Final = "gpu-bridge"
_STYLES: Final = ("style.train", "style.import")
# Of a command's key, job.phase[.item].attempt; no parameters in it, or its index is not used.
_JOB: Final = func.split_part(COMMANDS.c.key, literal_column("'.'"), literal_column("1"))
log = logs.get()


@dataclass(frozen=True, slots=True)
class Erasing:
    """Answers `evt.erasure.v1.requested`."""

    js: JetStreamContext
    engine: AsyncEngine
    objects: Objects

    async def heard(self, deliveries: Sequence[Delivery]) -> None:
        """Requests, one after the other. Raises ValidationError for a body that is none, and what `erase` raises."""
        for delivery in deliveries:
            await self.erase(ErasureRequested.model_validate_json(delivery.body))

    async def erase(self, request: ErasureRequested) -> None:
        """Erase, and tell. Doing it again erases nothing more and tells the same message.

        Raises PROVIDER_UNAVAILABLE while a provider still works for one of the jobs: it is tried again later.
        """
        await erased.remember(self.engine, ERASED, request.jobs)
        jobs = [str(job) for job in request.jobs]
        async with self.engine.connect() as conn:
            calls = await _followed(conn, jobs)
        gone: Counter[str] = Counter({"objects": 0, "rows.calls": 0, "rows.epochs": 0})
        kept = 0
        for call in calls:  # a transaction each: a lock on its row, and storage is asked meanwhile
            async with self.engine.begin() as conn:
                kept += await self._keep_or_forget(conn, call, jobs, gone)
        async with self.engine.begin() as conn:
            gone["rows.commands"] += (await conn.execute(delete(COMMANDS).where(_JOB.in_(jobs)))).rowcount
            gone["rows.batches"] = (await conn.execute(delete(BATCHES).where(BATCHES.c.id == request.batch))).rowcount
        id_, answer = done(request, ROOM, gone, {"calls": kept}, clock.now())
        told = outgoing(ERASURE_DONE, answer, message_id=id_, key=str(request.erasure_id), source=ROOM)
        await publish(self.js, [told])
        log.info("erasure.done", erasure=str(request.erasure_id), part=request.part)

    async def _keep_or_forget(self, conn: AsyncConnection, key: str, jobs: Sequence[str], gone: Counter[str]) -> bool:
        """Let a call go, objects first, and count what is gone; or take these jobs out of it. Whether it is kept."""
        locked = select(CALLS.c.tenant, CALLS.c.function).where(CALLS.c.key == key).with_for_update()
        call = (await conn.execute(locked)).one_or_none()
        if call is None:
            return False
        theirs, others = COMMANDS.c.call == key, _JOB.not_in(jobs)
        newest = select(COMMANDS.c.command, COMMANDS.c.traceparent).where(theirs, others)
        other = (await conn.execute(newest.order_by(COMMANDS.c.created_at.desc()).limit(1))).one_or_none()
        if other is not None:  # what is to be known of a call is what this one asks for
            asked_by = CALLS.c.command["job_id"].astext
            named = update(CALLS).where(CALLS.c.key == key, asked_by.in_(jobs))
            await conn.execute(named.values(command=other.command, traceparent=other.traceparent))
            return True
        if call.function in _STYLES:
            return True
        gone["objects"] += await self.objects.remove_all(f"calls/{call.tenant}/{key}/")
        for table, of_it in ((COMMANDS, theirs), (EPOCHS, EPOCHS.c.call == key), (CALLS, CALLS.c.key == key)):
            gone[f"rows.{table.name}"] += (await conn.execute(delete(table).where(of_it))).rowcount
        return False


async def _followed(conn: AsyncConnection, jobs: Sequence[str]) -> list[str]:
    """The calls that these jobs' commands followed. Raises PROVIDER_UNAVAILABLE when one is not over."""
    theirs = select(COMMANDS.c.call).where(_JOB.in_(jobs))
    rows = await conn.execute(select(CALLS.c.key, CALLS.c.state).where(CALLS.c.key.in_(theirs)).order_by(CALLS.c.key))
    calls = list(rows)
    if any(not State(call.state).is_terminal for call in calls):
        raise error("PROVIDER_UNAVAILABLE", "a call of these jobs is not over yet")
    return [call.key for call in calls]
