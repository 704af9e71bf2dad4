"""Erasure in this room: the calls that only erased jobs followed, with their results, claims and checkpoints.

A call that another job follows too is kept, and goes with the last of them; one that makes a style stays with the
style. A call that is still out is waited for: its jobs are over, so it was asked to stop.

A provider that hangs may never be seen to be over, and write when we have long let go. So what lies in an erased call's
place is deleted once more when every link is dead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, literal_column, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.erasures import ERASURE_DONE, ErasureRequested, done
from contracts.errors import error
from gpu_bridge.call import State
from gpu_bridge.tables import BATCHES, CALLS, COMMANDS, EPOCHS, ERASED, LEFTOVERS
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
LINKS_LIVE_MAX: Final = timedelta(days=2)  # from the submission on: the longest work in the largest batch ends before
SWEPT_MAX: Final = 100
SWEEP_EVERY_S: Final = 60.0
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
        await erased.remember(self.engine, ERASED, request.ids)
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

    async def sweep(self) -> int:
        """Delete what was written of erased calls after all. Returns in how many places it looked."""
        due = select(LEFTOVERS.c.key).where(LEFTOVERS.c.after <= clock.now()).limit(SWEPT_MAX)
        async with self.engine.connect() as conn:
            keys = list((await conn.execute(due)).scalars())
        for key in keys:
            async with self.engine.begin() as conn:
                await erased.alone(conn, ERASED)  # no command makes this call anew meanwhile
                mine = delete(LEFTOVERS).where(LEFTOVERS.c.key == key).returning(LEFTOVERS.c.tenant)
                tenant = (await conn.execute(mine)).scalar_one_or_none()
                anew = (await conn.execute(select(CALLS.c.key).where(CALLS.c.key == key))).first()
                if tenant is None or anew:  # another replica was first; or the place is somebody else's now
                    continue
                if objects := await self.objects.remove_all(_place(tenant, key)):
                    log.warning("erasure.written_late", call=key, objects=objects)
        return len(keys)

    async def sweep_forever(self) -> None:
        """At a calm pace, until cancelled."""
        while True:
            try:
                while await self.sweep():
                    pass
            except Exception as problem:
                log.warning("erasure.sweep_failed", error=type(problem).__name__)
            await asyncio.sleep(SWEEP_EVERY_S)

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
        gone["objects"] += await self.objects.remove_all(_place(call.tenant, key))
        bought = (await conn.execute(select(func.max(EPOCHS.c.spawned_at)).where(EPOCHS.c.call == key))).scalar_one()
        if bought is not None:
            left = insert(LEFTOVERS).values(key=key, tenant=call.tenant, after=bought + LINKS_LIVE_MAX)
            await conn.execute(left.on_conflict_do_update(index_elements=["key"], set_={"after": left.excluded.after}))
        for table, of_it in ((COMMANDS, theirs), (EPOCHS, EPOCHS.c.call == key), (CALLS, CALLS.c.key == key)):
            gone[f"rows.{table.name}"] += (await conn.execute(delete(table).where(of_it))).rowcount
        return False


def _place(tenant: str, key: str) -> str:
    return f"calls/{tenant}/{key}/"


async def _followed(conn: AsyncConnection, jobs: Sequence[str]) -> list[str]:
    """The calls that these jobs' commands followed. Raises PROVIDER_UNAVAILABLE when one is not over."""
    theirs = select(COMMANDS.c.call).where(_JOB.in_(jobs))
    rows = await conn.execute(select(CALLS.c.key, CALLS.c.state).where(CALLS.c.key.in_(theirs)).order_by(CALLS.c.key))
    calls = list(rows)
    if any(not State(call.state).is_terminal for call in calls):
        raise error("PROVIDER_UNAVAILABLE", "a call of these jobs is not over yet")
    return [call.key for call in calls]
