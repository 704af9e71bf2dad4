"""Erasure in this room: the objects of a job's phases, whichever room wrote them, and every row about the job.

Objects go before rows: a crash in between finds them gone, and goes on with the rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.erasures import ERASURE_DONE, ErasureRequested, done
from output.tables import ATTEMPTS, COSTS, DELIVERIES, ERASED, EVENTS, JOBS, LINKS, PHASES
from runtime import clock, erased, logs
from runtime.objects import Objects
from runtime.outbox import outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

ROOM: Final = "output"
log = logs.get()


@dataclass(frozen=True, slots=True)
class Erasing:
    """Answers `evt.erasure.v1.requested`."""

    js: JetStreamContext
    engine: AsyncEngine
    objects: Objects

    async def erase(self, request: ErasureRequested) -> None:
        """Erase, and tell. Doing it again erases nothing more and tells the same message."""
        await erased.remember(self.engine, ERASED, request.ids)
        gone = {"objects": sum([await self.objects.remove_all(f"jobs/{job}/") for job in request.jobs])}
        async with self.engine.begin() as conn:
            for table, column in (
                (EVENTS, EVENTS.c.job_id),
                (LINKS, LINKS.c.job_id),
                (PHASES, PHASES.c.job_id),
                (JOBS, JOBS.c.id),
                (COSTS, COSTS.c.job_id),
            ):
                gone[f"rows.{table.name}"] = (
                    await conn.execute(delete(table).where(column.in_(request.jobs)))
                ).rowcount
            bodies = [f"%{id_}%" for id_ in request.ids]
            about = DELIVERIES.c.body.like(func.any(bodies))
            tried = (ATTEMPTS.c.webhook_id, ATTEMPTS.c.message_id)
            of_them = select(DELIVERIES.c.webhook_id, DELIVERIES.c.message_id).where(about)
            await conn.execute(delete(ATTEMPTS).where(tuple_(*tried).in_(of_them)))
            gone["rows.deliveries"] = (await conn.execute(delete(DELIVERIES).where(about))).rowcount
            if request.batch:
                of_it = (EVENTS.c.batch_id == request.batch) & (EVENTS.c.tenant == request.tenant)
                gone["rows.events"] += (await conn.execute(delete(EVENTS).where(of_it))).rowcount
                to_it = (LINKS.c.batch_id == request.batch) & (LINKS.c.tenant == request.tenant)
                gone["rows.links"] += (await conn.execute(delete(LINKS).where(to_it))).rowcount
        id_, answer = done(request, ROOM, gone, {}, clock.now())
        told = outgoing(ERASURE_DONE, answer, message_id=id_, key=str(request.erasure_id), source=ROOM)
        await publish(self.js, [told])
        log.info("erasure.done", erasure=str(request.erasure_id), part=request.part)
