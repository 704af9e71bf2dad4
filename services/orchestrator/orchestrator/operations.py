"""What people do: cancel, pause, resume and retry jobs and batches, replay and discard dead letters.

Each act is one input of the machine per job, and one line of the append-only audit, in the same
transaction: what is not in the audit was not done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
from pydantic import JsonValue

from contracts.errors import error
from orchestrator import letters
from orchestrator.audit import Actor, note
from orchestrator.machine.inputs import Cancel, Input, Pause, Resume, Retry
from orchestrator.machine.pipeline import Pipeline
from orchestrator.shell import Answer, Arrived, Shell
from orchestrator.store import Stored
from runtime import clock, telemetry

PAUSE_MAX: Final = timedelta(days=7)  # nothing waits for ever: after that a paused job goes on by itself
ACTED_MAX: Final = 200  # jobs of a batch in one transaction
PINNED, NEWEST = "pinned", "newest"

Guard = Callable[[asyncpg.Connection], Awaitable[None]]  # raises when an act must not happen, in its transaction


@dataclass(frozen=True, slots=True)
class Again:
    """How an ended job is to work again: from which phase, with which parameters, on which version.

    `force`: what is done again is bought again, though a result of the same work is there.
    """

    from_phase: str | None = None
    parameters: Mapping[str, JsonValue] | None = None
    version: str = PINNED
    force: bool = False

    def details(self) -> dict[str, Any]:
        """For the audit. Parameters by name only: their values may say something about a person."""
        told = {"from": self.from_phase, "version": self.version, "parameters": sorted(self.parameters or {})}
        return told | ({"force": True} if self.force else {})

    def retry(self, target: Pipeline) -> Retry:
        """As the machine takes it, now."""
        return Retry(self.from_phase, target, clock.now(), self.parameters or {}, self.force)

    def check(self, pipelines: Sequence[Pipeline]) -> None:
        """Raises REQUEST_INVALID for a phase or a parameter that none of the pipelines has."""
        phases = [phase for pipeline in pipelines for phase in pipeline.phases]
        names = list(dict.fromkeys(phase.name for phase in phases))
        if self.from_phase not in (None, Retry.START, Retry.DEGRADED, *names):
            raise error("REQUEST_INVALID", f"there is no such phase; there are {', '.join(names)}")
        known = sorted({parameter for phase in phases for parameter in phase.parameters})
        if not set(self.parameters or {}) <= set(known):
            raise error("REQUEST_INVALID", f"no phase takes such a parameter; there are {', '.join(known) or 'none'}")


class Operations:
    """The use cases of people, on one shell."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def cancel(self, actor: Actor, job_id: UUID) -> Stored:
        """End a job. Raises NOT_FOUND, STATE_CONFLICT."""
        await self.seen(actor, job_id)
        return await self._act(actor, "job.cancel", job_id, Cancel(clock.now()))

    async def pause(self, actor: Actor, job_id: UUID) -> Stored:
        """Let a job give no more commands. Raises NOT_FOUND, STATE_CONFLICT."""
        await self.seen(actor, job_id)
        now = clock.now()
        return await self._act(actor, "job.pause", job_id, Pause(actor.who, now + PAUSE_MAX, now))

    async def resume(self, actor: Actor, job_id: UUID) -> Stored:
        """Let a paused job go on. Raises NOT_FOUND, STATE_CONFLICT."""
        await self.seen(actor, job_id)
        return await self._act(actor, "job.resume", job_id, Resume(clock.now()))

    async def retry(self, actor: Actor, job_id: UUID, again: Again) -> Stored:
        """Let an ended job work again. Open dead letters about what it does again count as replayed.

        Raises NOT_FOUND, REQUEST_INVALID, STATE_CONFLICT.
        """
        stored = await self.seen(actor, job_id)
        target = await self.target(stored.job.pipeline, stored.job.pipeline_version, again.version)
        return await self.reopen(actor, "job.retry", job_id, again, target)

    async def reopen(
        self,
        actor: Actor,
        action: str,
        job_id: UUID,
        again: Again,
        target: Pipeline,
        letter: UUID | None = None,
        guard: Guard | None = None,
        **more: Any,
    ) -> Stored:
        """As `retry`, with a target that is known, because of a dead letter, which is closed; `more` is noted.

        Raises as that, also when the letter is closed already.
        """
        again.check([target])
        return await self._act(actor, action, job_id, again.retry(target), {**again.details(), **more}, letter, guard)

    async def target(self, name: str, version: int, wanted: str) -> Pipeline:
        """The definition that a job of this version goes on with. Raises STATE_CONFLICT when there is none."""
        pinned = wanted == PINNED
        found = await self._shell.definition(name, version) if pinned else self._shell.newest(name)
        if found is None:
            raise error("STATE_CONFLICT", "no definition of the job's pipeline is known")
        return found

    async def cancel_many(self, actor: Actor, subject: str, jobs: Sequence[UUID]) -> int:
        """Cancel jobs of a batch; those that have ended are passed over. Returns how many it cancelled."""
        now = clock.now()
        return await self._act_on_many(actor, "batch.cancel", subject, [(id_, Cancel(now)) for id_ in jobs])

    async def retry_many(self, actor: Actor, subject: str, jobs: Sequence[tuple[UUID, str, int]]) -> int:
        """Retry jobs (id, pipeline, version) from what went wrong; those that cannot are passed over.

        Returns how many work again.
        """
        now = clock.now()
        todo: list[tuple[UUID, Input]] = []
        for id_, name, version in jobs:
            if pinned := await self._shell.definition(name, version):
                todo.append((id_, Retry(None, pinned, now)))
        return await self._act_on_many(actor, "batch.retry-failed", subject, todo)

    async def _act_on_many(self, actor: Actor, action: str, subject: str, todo: Sequence[tuple[UUID, Input]]) -> int:
        async def then(conn: asyncpg.Connection, answers: Sequence[Answer]) -> None:
            done = [answer.stored.job for answer in answers if answer.stored and answer.ignored is None]
            if not done:
                return
            if isinstance(todo[0][1], Retry):
                await letters.resolve_of_jobs(conn, done, actor.who, actor.why)
            await note(conn, actor, action, subject, {"jobs": [str(job.id) for job in done]})

        acted = 0
        for start in range(0, len(todo), ACTED_MAX):
            arrived = [
                Arrived(id_, given, None, telemetry.traceparent()) for id_, given in todo[start : start + ACTED_MAX]
            ]
            acted += sum(1 for answer in await self._shell.take(arrived, then) if answer.ignored is None)
        return acted

    async def _act(
        self,
        actor: Actor,
        action: str,
        job_id: UUID,
        given: Input,
        details: Mapping[str, Any] | None = None,
        letter: UUID | None = None,
        guard: Guard | None = None,
    ) -> Stored:
        async def then(conn: asyncpg.Connection, answers: Sequence[Answer]) -> None:
            [answer] = answers
            if answer.ignored is not None or answer.stored is None:
                raise error("STATE_CONFLICT", answer.ignored or "")
            if guard is not None:
                await guard(conn)
            if isinstance(given, Retry):
                closed = await letters.resolve_of_jobs(conn, [answer.stored.job], actor.who, actor.why, letter)
                if letter is not None and letter not in closed:
                    raise error("STATE_CONFLICT", "the dead letter is not open any more")
            await note(conn, actor, action, str(job_id), details)

        [answer] = await self._shell.take([Arrived(job_id, given, None, telemetry.traceparent())], then)
        assert answer.stored is not None
        return answer.stored

    async def seen(self, actor: Actor, job_id: UUID) -> Stored:
        """The job, if they may touch it. Raises NOT_FOUND."""
        found = await self._shell.read(job_id)
        if found is None or actor.tenant not in (None, found[0].job.tenant):
            raise error("NOT_FOUND")
        return found[0]
