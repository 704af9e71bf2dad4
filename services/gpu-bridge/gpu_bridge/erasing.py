"""Erasure in this room: the calls that only erased jobs followed, with their results, claims and checkpoints.

A call that another job follows too is kept, and goes with the last of them; one that makes a style stays with the
style. A call that is still out is waited for: its jobs are over, so it was asked to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.erasures import ERASURE_DONE, ErasureRequested, done
from contracts.errors import error
from gpu_bridge.call import State
from runtime import clock, logs
from runtime.objects import Objects
from runtime.outbox import outgoing, publish
from runtime.settle import Delivery

if TYPE_CHECKING:
    from nats.js import JetStreamContext

ROOM: Final = "gpu-bridge"
_KEPT: Final = ("style.train", "style.import")
_JOB: Final = "split_part(key, '.', 1)"  # of a command's key: job.phase[.item].attempt
_OVER: Final = ", ".join(f"'{state}'" for state in State if state.is_terminal)
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
        async with self.engine.connect() as conn:
            calls = await self._of(conn, request)
        if any(not call.is_over for call in calls):
            raise error("PROVIDER_UNAVAILABLE", "a call of these jobs is not over yet")
        gone = [call for call in calls if not call.others and call.function not in _KEPT]
        erased = {"objects": sum([await self.objects.remove_all(f"calls/{c.tenant}/{c.key}/") for c in gone])}
        async with self.engine.begin() as conn:
            erased |= await self._forget(conn, request, [call.key for call in gone])
        id_, answer = done(request, ROOM, erased, {"calls": len(calls) - len(gone)}, clock.now())
        told = outgoing(ERASURE_DONE, answer, message_id=id_, key=str(request.erasure_id), source=ROOM)
        await publish(self.js, [told])
        log.info("erasure.done", erasure=str(request.erasure_id), part=request.part)

    async def _of(self, conn: AsyncConnection, request: ErasureRequested) -> list[Any]:
        """The calls that these jobs' commands followed; `others`: commands of other jobs that did."""
        found = await conn.execute(
            text(
                f"SELECT key, tenant, function, state IN ({_OVER}) AS is_over, "
                f"(SELECT count(*) FROM gpu_bridge.commands AS other WHERE other.call = calls.key "
                f"AND NOT split_part(other.key, '.', 1) = ANY(:jobs)) AS others FROM gpu_bridge.calls "
                f"WHERE key IN (SELECT call FROM gpu_bridge.commands WHERE {_JOB} = ANY(:jobs))"
            ),
            {"jobs": [str(job) for job in request.jobs]},
        )
        return list(found)

    async def _forget(self, conn: AsyncConnection, request: ErasureRequested, calls: list[str]) -> dict[str, int]:
        jobs = {"jobs": [str(job) for job in request.jobs]}
        counts = {}
        for table, which, arguments in (
            ("commands", f"{_JOB} = ANY(:jobs)", jobs),
            ("epochs", "call = ANY(:calls)", {"calls": calls}),
            ("calls", "key = ANY(:calls)", {"calls": calls}),
            ("batches", "id = :batch", {"batch": request.batch}),
        ):
            deleted = await conn.execute(text(f"DELETE FROM gpu_bridge.{table} WHERE {which}"), arguments)
            counts[f"rows.{table}"] = deleted.rowcount
        return counts
