"""Carries decisions out, in the only order allowed:

    begin -> inbox insert (duplicate? skip) -> load jobs for update -> decide -> update where
    revision = old -> history + outbox -> commit -> (settle acks) ; publish the outbox

A batch is one transaction. A crash before the commit leaves nothing; a crash after it leaves
outbox rows that the sweep publishes and inbox rows that refuse the redelivered messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from contracts.errors import SafelightError
from orchestrator import store
from orchestrator.machine.decide import decide
from orchestrator.machine.effects import Command, Effect
from orchestrator.machine.inputs import Begin, Failed, Input, Succeeded, TimeReached
from orchestrator.machine.pipeline import Pipeline
from orchestrator.pipelines import CHANNELS
from orchestrator.store import Step, Stored
from orchestrator.tables import INBOX
from runtime import clock, inbox, logs, telemetry
from runtime.outbox import Outbox, Outgoing, outgoing

SOURCE = "orchestrator"
DUE_MAX = 200
log = logs.get()


@dataclass(frozen=True, slots=True)
class Arrived:
    """An input on its way to its job. `message_id` is None for inputs that no message brought."""

    job_id: UUID
    given: Input
    message_id: str | None
    traceparent: str | None


class Shell:
    """The machine's hands: one database, one outbox, the pipelines that jobs pin."""

    def __init__(self, engine: AsyncEngine, outbox: Outbox, pipelines: Mapping[tuple[str, int], Pipeline]) -> None:
        self._engine = engine
        self._outbox = outbox
        self._pipelines = pipelines

    async def take(self, arrived: Sequence[Arrived]) -> None:
        """Decide a batch of inputs and commit what follows. All or nothing."""
        async with self._engine.begin() as conn:
            fresh = await inbox.insert_new(conn, INBOX, [a.message_id for a in arrived if a.message_id])
            todo = []
            for one in arrived:
                if one.message_id in fresh:
                    fresh.discard(one.message_id)  # twice in one batch is still once
                    todo.append(one)
            held = await store.load_for_update(conn, {one.job_id for one in todo})
            messages = await self._decide(conn, todo, held)
        await self._publish(messages)

    async def wake(self) -> int:
        """Let time reach every job whose moment has come. Returns how many jobs that were."""
        now = clock.now()
        async with self._engine.begin() as conn:
            held = await store.lock_due(conn, now, DUE_MAX)
            due = [Arrived(id_, TimeReached(now), None, stored.job.traceparent) for id_, stored in held.items()]
            messages = await self._decide(conn, due, held)
        await self._publish(messages)
        return len(due)

    async def _decide(self, conn: AsyncConnection, todo: Sequence[Arrived], held: dict[UUID, Stored]) -> list[Outgoing]:
        now_held = dict(held)
        messages: list[Outgoing] = []
        steps: list[Step] = []
        for one in todo:
            before = now_held.get(one.job_id)
            revision = before.revision + 1 if before else 1
            pipeline = self._pinned(before)
            with telemetry.span(
                f"decide {_kind(one.given)}",
                traceparent=one.traceparent,
                kind=SpanKind.CONSUMER,
                attributes={"safelight.job": str(one.job_id), "safelight.revision": revision},
            ) as span:
                decision = decide(before.job if before else None, revision, pipeline, one.given)
                if decision.ignored or decision.job is None:
                    span.set_attribute("safelight.ignored", decision.ignored or "")
                    log.info("job.input_ignored", job=str(one.job_id), input=_name(one.given), why=decision.ignored)
                    continue
                sent = _outgoing(one.job_id, revision, decision.effects)
            now_held[one.job_id] = Stored(decision.job, revision)
            messages += sent
            steps.append(Step(one.job_id, revision, one.given.at, _name(one.given), [m.message_id for m in sent]))
        changed = [stored for id_, stored in now_held.items() if held.get(id_) is not stored]
        await store.insert_jobs(conn, [s for s in changed if s.job.id not in held])
        old = [s for s in changed if s.job.id in held]
        await store.save_if_revision(conn, old, [held[s.job.id].revision for s in old])
        await store.append_history(conn, steps)
        await self._outbox.add(conn, messages)
        return messages

    def _pinned(self, stored: Stored | None) -> Pipeline | None:
        return self._pipelines.get((stored.job.pipeline, stored.job.pipeline_version)) if stored else None

    async def _publish(self, messages: Sequence[Outgoing]) -> None:
        try:
            await self._outbox.flush(messages)
        except SafelightError as problem:  # committed already: the sweep will publish
            log.warning("outbox.left_to_sweep", code=problem.code, messages=len(messages))


def _outgoing(job_id: UUID, revision: int, effects: Sequence[Effect]) -> list[Outgoing]:
    sent = []
    for n, effect in enumerate(effects):
        if isinstance(effect, Command):
            key = effect.message.key
            sent.append(outgoing(CHANNELS[effect.subject], effect.message, message_id=key, key=key, source=SOURCE))
        else:
            event_id = f"{job_id}.{revision}.{n}"
            sent.append(outgoing(effect.channel, effect.message, message_id=event_id, key=str(job_id), source=SOURCE))
    return sent


def _kind(given: Input) -> str:
    return type(given).__name__


def _name(given: Input) -> str:
    match given:
        case Succeeded(outcome=outcome) | Failed(outcome=outcome):
            return f"{_kind(given)} {outcome.phase}.{outcome.attempt}"
        case Begin() | TimeReached():
            return _kind(given)
