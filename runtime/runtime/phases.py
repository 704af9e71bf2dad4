"""A phase's command in a room that does it itself: the work is done, and how it ended is told, whatever happens.

    its deadline has passed    PHASE_DEADLINE
    the work raises            the error's code; one that nobody foresaw is INTERNAL, and its words go nowhere
    its job was erased         nothing is told, and what was made of it is deleted again

The outcome's id and the objects' keys are the attempt's: a command that is delivered again changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.artifacts import Artifact
from contracts.errors import SafelightError, error
from contracts.phases import PHASE_FAILED, PHASE_SUCCEEDED, Facts, PhaseFailed, PhaseSucceeded, RunPhase
from runtime import clock, erased, logs
from runtime.objects import Objects
from runtime.outbox import Outgoing, outgoing, publish

if TYPE_CHECKING:
    from nats.js import JetStreamContext

Result = tuple[list[Artifact], Facts]
Work = Callable[[RunPhase], Awaitable[Result]]
log = logs.get()


def left_s(command: RunPhase) -> float:
    """Seconds until its deadline. Raises PHASE_DEADLINE when there are none."""
    left = (command.deadline - clock.now()).total_seconds()
    if left <= 0:
        raise error("PHASE_DEADLINE")
    return left


@dataclass(frozen=True, slots=True)
class Phases:
    """Answers the commands that a service, `source`, gets. `erased` is its table of erased jobs."""

    source: str
    js: JetStreamContext
    engine: AsyncEngine
    erased: Table
    objects: Objects

    async def answer(self, command: RunPhase, engine: str, work: Work) -> None:
        """Do the work and tell how it ended, whatever the work raises; `engine` names what does it.

        Raises:
            Transient: DATABASE_UNAVAILABLE, STORAGE_UNAVAILABLE, BROKER_UNAVAILABLE; then settle delivers it again.
        """
        if await self._gone(command):
            return
        told = await self._outcome(command, engine, work)
        if not await self._gone(command):
            await publish(self.js, [told])

    async def _gone(self, command: RunPhase) -> bool:
        """Whether the job was erased. Then so is what this attempt, or one that a crash cut short, has made of it."""
        if not await erased.has(self.engine, self.erased, command.job_id):
            return False
        left = await self.objects.remove_all(f"jobs/{command.job_id}/")
        log.info("phase.of_an_erased_job", objects=left)
        return True

    async def _outcome(self, command: RunPhase, engine: str, work: Work) -> Outgoing:
        started_at = clock.now()
        about = command.model_dump(include={"job_id", "phase", "item", "attempt"})
        outcome_id = f"{command.key}.outcome"
        try:
            left_s(command)
            artifacts, facts = await work(command)
        except Exception as problem:
            known = problem if isinstance(problem, SafelightError) else error("INTERNAL", type(problem).__name__)
            log.warning("phase.failed", code=known.code, exc_info=None if known is problem else problem)
            ended = {"code": known.code, "detail": known.detail, "started_at": started_at, "ended_at": clock.now()}
            failed = PhaseFailed(**about, **ended)
            return outgoing(PHASE_FAILED, failed, message_id=outcome_id, key=command.key, source=self.source)
        made = {"artifacts": artifacts, "facts": facts, "engine": engine}
        done = PhaseSucceeded(**about, **made, started_at=started_at, ended_at=clock.now())
        return outgoing(PHASE_SUCCEEDED, done, message_id=outcome_id, key=command.key, source=self.source)
