"""Carries decisions out, in the only order allowed:

    begin -> inbox insert (duplicate? skip) -> load jobs for update -> decide -> update where
    revision = old -> history + outbox -> commit -> (settle acks) ; publish the outbox

A batch is one transaction. A crash before the commit leaves nothing; a crash after it leaves
outbox rows that the sweep publishes and inbox rows that refuse the redelivered messages.

Three things move jobs, all through `_carry`: what arrives (`take`), time (`wake`), and room for
units that waited for it (`admit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import asyncpg
from msgspec import Struct
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncEngine

from contracts.errors import SafelightError
from contracts.phases import phase_key
from orchestrator import letters, store
from orchestrator.capacity import Capacity
from orchestrator.machine.decide import NO_LIMITS, Decision, decide
from orchestrator.machine.effects import Bury, Command, Effect, Event, Stop
from orchestrator.machine.inputs import (
    Admitted,
    Begin,
    Deferred,
    Failed,
    Input,
    Progressed,
    Retry,
    Succeeded,
    TimeReached,
)
from orchestrator.machine.job import NOTHING, Job, Unit
from orchestrator.machine.pipeline import Pipeline
from orchestrator.pipelines import COMMANDS
from orchestrator.store import Changes, Place, Step, Stored, Turn
from runtime import clock, logs, postgres, telemetry
from runtime.outbox import Outbox, Outgoing, outgoing

SOURCE: Final = "orchestrator"
DUE_MAX: Final = 200
ADMITTED_MAX: Final = 200
TRIES: Final = 5  # against other replicas that take the same room; each is a fresh look
log = logs.get()


class Arrived(Struct, frozen=True):
    """An input on its way to its job. `message_id` is None for inputs that no message brought."""

    job_id: UUID
    given: Input
    message_id: str | None
    traceparent: str | None


class Answer(Struct, frozen=True):
    """What an input did: the job after it (None: there is none), and why nothing changed, if so."""

    stored: Stored | None
    ignored: str | None


_T = TypeVar("_T")
Then = Callable[[asyncpg.Connection, Sequence[Answer]], Awaitable[None]]


class _RoomTaken(Exception):
    """Another replica has taken the room that this transaction counted on, or its picture is otherwise a wrong one."""


@dataclass(slots=True)
class _Transaction:
    """One try at a transaction. A `modest` one counts on no room: what it makes ready waits, so it cannot fail."""

    conn: asyncpg.Connection
    modest: bool
    stirred: bool = False  # room was freed or units came to wait: admission has something to look at
    opened: list[Place] = field(default_factory=list)  # what is counted for the first time


class Shell:
    """The machine's hands: one database, one outbox, the pipelines that jobs pin."""

    def __init__(
        self,
        engine: AsyncEngine,
        outbox: Outbox,
        pipelines: Mapping[tuple[str, int], Pipeline],
        declared: Sequence[Pipeline],
        capacity: Capacity | None = None,
    ) -> None:
        """`pipelines` are all that jobs may pin; of the `declared` ones new jobs use the newest version."""
        self._engine = engine
        self._outbox = outbox
        self._pipelines = dict(pipelines)
        self._newest = {p.name: p for p in sorted(declared, key=lambda p: p.version)}
        self._capacity = capacity or Capacity()
        self._capacity.in_force = self._in_force
        self.freed = asyncio.Event()  # there may be room for units that wait

    async def take(self, arrived: Sequence[Arrived], then: Then | None = None) -> list[Answer]:
        """Decide a batch of inputs, commit what follows and publish it. All or nothing; answers are in their order.

        `then` runs in the same transaction, when everything is written.
        """
        answers, messages = await self.commit(arrived, then)
        await self.publish(messages)
        return answers

    async def commit(self, arrived: Sequence[Arrived], then: Then | None = None) -> tuple[list[Answer], list[Outgoing]]:
        """As `take`, but the caller publishes."""
        ids = [one.message_id for one in arrived if one.message_id]

        async def work(this: _Transaction) -> tuple[list[Answer], list[Outgoing]]:
            edited = {upload for one in arrived if (upload := _edited(one.given))}
            erased = await store.erased(this.conn, edited) if edited else set()
            fresh, held = await store.take(this.conn, ids, {one.job_id for one in arrived})
            todo: list[Arrived | str] = []
            for one in arrived:
                if one.message_id is not None and one.message_id not in fresh:
                    todo.append("the message was taken before")
                elif erased and _edited(one.given) in erased:
                    todo.append("its upload was erased")
                else:
                    todo.append(one)
                fresh.discard(one.message_id or "")  # twice in one batch is still once
            answers, messages = await self._carry(this, todo, held)
            if then is not None:
                await then(this.conn, answers)
            return answers, messages

        return await self._transact(work)

    async def wake(self) -> int:
        """Let time reach every job whose moment has come. Returns at how many jobs it looked."""
        now = clock.now()
        early: list[Stored] = []
        due: list[Arrived] = []

        async def work(this: _Transaction) -> list[Outgoing]:
            held = await store.lock_due(this.conn, now, DUE_MAX)
            early[:] = [stored for stored in held.values() if (stored.job.wake_at or now) > now]
            await store.sleep_on(this.conn, early)
            for stored in early:
                del held[stored.job.id]
            due[:] = [Arrived(id_, TimeReached(now), None, stored.job.traceparent) for id_, stored in held.items()]
            _, messages = await self._carry(this, due, held)
            return messages

        try:
            await self.publish(await self._transact(work))
        except SafelightError:
            raise
        except Exception:
            if not due:
                raise
            async with postgres.transaction(self._engine) as conn:
                await store.sleep_on(conn, early)
            return await self._each_alone(due)
        return len(early) + len(due)

    async def _each_alone(self, due: Sequence[Arrived]) -> int:
        """One job that nobody can decide must not hold up the clocks of all others."""
        reached = 0
        for one in due:
            try:
                await self.take([one])
                reached += 1
            except SafelightError:
                raise
            except Exception as problem:
                log.error("job.undecidable", job=str(one.job_id), exc_info=problem)
        return reached

    async def admit(self) -> int:
        """Give the room that there is to units that wait for it, fairly. Returns how many got some."""
        admitted = 0
        if not self._capacity.known:
            await self.look()
        for name, phase in list(self._capacity.crowded()):
            if self._in_force(name, phase) is None:
                await self._learn_pipelines()  # a newer replica has declared it, and may be gone
            turns = self._capacity.next_turns((name, phase), ADMITTED_MAX)
            for lane, tenant, count in turns:

                async def work(
                    this: _Transaction,
                    line: tuple[str, str, str, str] = (name, phase, lane, tenant),
                    most: int = count,
                ) -> tuple[int, list[Outgoing]]:
                    held, items = await store.lock_next(this.conn, *line, most)
                    if not items:  # others are at these jobs, or some were deleted by hand: then the count is wrong
                        await store.recount_line(this.conn, *line)
                        self._capacity.known = False
                    now = clock.now()
                    phase_, todo = line[1], []
                    for id_, waiting in items.items():
                        units: tuple[Unit, ...] = tuple((phase_, item or None) for item in waiting)
                        todo.append(Arrived(id_, Admitted(units, now), None, held[id_].job.traceparent))
                    answers, messages = await self._carry(this, todo, held)
                    return sum(1 for answer in answers if not answer.ignored), messages

                got, messages = await self._transact(work)
                admitted += got
                await self.publish(messages)
        if admitted:
            self.freed.set()  # there may have been room for more than one round takes
        return admitted

    async def read(self, job_id: UUID) -> tuple[Stored, Pipeline | None] | None:
        """A job as it is now, and the pipeline that it pins."""
        async with postgres.transaction(self._engine) as conn:
            stored = await store.read(conn, job_id)
        return (stored, await self.pinned(stored.job)) if stored else None

    def newest(self, name: str) -> Pipeline | None:
        """The version of a pipeline that new jobs pin."""
        return self._newest.get(name)

    def newest_of_all(self) -> list[Pipeline]:
        """The newest version of each pipeline."""
        return list(self._newest.values())

    async def pinned(self, job: Job) -> Pipeline | None:
        """The definition that a job pins."""
        return await self.definition(job.pipeline, job.pipeline_version)

    async def definition(self, name: str, version: int) -> Pipeline | None:
        """A version of a pipeline; one that a newer replica declared is read from the table."""
        key = (name, version)
        if key not in self._pipelines and version:
            await self._learn_pipelines()
        return self._pipelines.get(key)

    async def _learn_pipelines(self) -> None:
        async with self._engine.connect() as conn:
            known = await store.known_pipelines(conn)
        self._pipelines |= {(p.name, p.version): p for p in known if (p.name, p.version) not in self._pipelines}

    def _in_force(self, name: str, phase: str) -> Pipeline | None:
        """The definition whose limits hold for a phase: the newest that new jobs may pin, else that has the phase."""
        newest = self._newest.get(name)
        if newest is not None and newest.has(phase):
            return newest
        others = [p for p in self._pipelines.values() if p.name == name and p.has(phase)]
        return max(others, key=lambda p: p.version, default=None)

    async def look(self) -> None:
        """Learn how much room there is from the database."""
        async with postgres.transaction(self._engine) as conn:
            self._capacity.learn(*await store.counts(conn))

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Publish what was committed; what the broker does not confirm is left to the sweep."""
        await self._outbox.flush_or_leave(messages)

    # -- one transaction ----------------------------------------------------------------------

    async def _transact(self, work: Callable[[_Transaction], Awaitable[_T]]) -> _T:
        for left in reversed(range(TRIES)):
            if not self._capacity.known:
                await self.look()
            try:
                async with postgres.transaction(self._engine) as conn:
                    this = _Transaction(conn, modest=not left)
                    done = await work(this)
            except _RoomTaken:
                self._capacity.known = False
            except BaseException:
                self._capacity.known = False  # it has counted what never happened
                raise
            else:
                self._capacity.opened(this.opened)
                if this.stirred:
                    self.freed.set()  # not before the commit: admission would not see it
                return done
        raise AssertionError("a modest transaction takes no room")

    async def _carry(
        self, this: _Transaction, todo: Sequence[Arrived | str], held: Mapping[UUID, Stored]
    ) -> tuple[list[Answer], list[Outgoing]]:
        """Decide each input in turn (a text: why it is none) and write everything down."""
        held_now = dict(held)
        answers: list[Answer] = []
        messages: list[Outgoing] = []
        steps: list[Step] = []
        buried: list[letters.Letter] = []
        running: dict[Place, int] = {}
        for one in todo:
            if isinstance(one, str):
                answers.append(Answer(None, one))
                continue
            before = held_now.get(one.job_id)
            pipeline = await self._pipeline_for(one.given, before)
            revision = before.revision + 1 if before else 1
            decision, parent = self._decided(one, before, revision, pipeline, modest=this.modest)
            if decision.ignored or decision.job is None:
                log.info("job.input_ignored", job=str(one.job_id), input=_name(one.given), why=decision.ignored)
                answers.append(Answer(before, decision.ignored or ""))
                continue
            job = decision.job
            after = Stored(job, revision)
            was, now = before.job.standing if before else NOTHING, job.standing
            self._capacity.move(job, was.out, now.out, running)
            self._capacity.queue(job, was.ready, now.ready)
            held_now[job.id] = after
            sent = _outgoing(job, revision, decision.effects, parent)
            messages += sent
            buried += [letters.letter(job, revision, e, one.given.at) for e in decision.effects if isinstance(e, Bury)]
            steps.append(Step(job.id, revision, one.given.at, _name(one.given), [m.message_id for m in sent]))
            answers.append(Answer(after, None))
        if not steps:
            return answers, messages
        changed = [stored for id_, stored in held_now.items() if held.get(id_) is not stored]
        if batches := {(s.job.tenant, s.job.batch_id) for s in changed if s.job.batch_id and s.job.id not in held}:
            await store.know_batches(this.conn, batches)
        running = {place: by for place, by in running.items() if by}
        if new := self._capacity.without_row(running):
            await store.open_places(this.conn, new)
            this.opened += new
        jobs = [(held[s.job.id].revision if s.job.id in held else 0, s) for s in changed]
        counts = await store.write(this.conn, Changes(jobs, steps, messages, running))
        if len(counts) < len(running):
            self._capacity.forget_rows()
            raise _RoomTaken
        if self._capacity.overdrawn(running, counts):
            raise _RoomTaken
        self._capacity.correct(counts)
        come, gone = _turns(changed, held)
        await store.change_waiting(this.conn, come, gone)
        if buried:
            await letters.bury(this.conn, buried)
        this.stirred |= bool(come) or any(by < 0 for by in running.values())
        return answers, messages

    async def _pipeline_for(self, given: Input, before: Stored | None) -> Pipeline | None:
        if before is not None:
            return self._pipelines.get((before.job.pipeline, before.job.pipeline_version)) or await self.pinned(
                before.job
            )
        return given.pipeline if isinstance(given, Begin) else None

    def _decided(
        self, one: Arrived, before: Stored | None, revision: int, pipeline: Pipeline | None, *, modest: bool
    ) -> tuple[Decision, str]:
        """The decision, and the trace that what follows belongs to."""
        job = before.job if before else None
        target = one.given.pipeline if isinstance(one.given, Begin | Retry) else pipeline
        tenant = one.given.upload.tenant if isinstance(one.given, Begin) else job.tenant if job else ""
        waited = isinstance(one.given, Admitted)
        rooms = self._capacity.rooms(tenant, target, waited=waited, closed=modest) if target else NO_LIMITS
        parent = one.traceparent or (job.traceparent if job else None)
        if not telemetry.exports():
            return decide(job, revision, pipeline, one.given, rooms), parent or ""
        with telemetry.span(
            f"decide {type(one.given).__name__}",
            traceparent=parent,
            kind=SpanKind.CONSUMER,
            attributes={"safelight.job": str(one.job_id), "safelight.revision": revision},
        ) as span:
            decision = decide(job, revision, pipeline, one.given, rooms)
            if decision.ignored:
                span.set_attribute("safelight.ignored", decision.ignored)
            return decision, telemetry.traceparent() or ""


def _edited(given: Input) -> UUID | None:
    """The upload of which this is to begin another version."""
    return given.upload.upload_id if isinstance(given, Begin) and given.upload.edit_of else None


def _turns(changed: Sequence[Stored], before: Mapping[UUID, Stored]) -> tuple[list[Turn], list[Turn]]:
    """The rows of `waiting` that come and go with these jobs."""
    come: list[Turn] = []
    gone: list[Turn] = []
    for stored in changed:
        old = before.get(stored.job.id)
        was, now = old.job.standing.ready if old else {}, stored.job.standing.ready
        if was or now:
            come += [_turn(stored.job, unit, at) for unit, at in now.items() if was.get(unit) != at]
            gone += [_turn(stored.job, unit, at) for unit, at in was.items() if now.get(unit) != at]
    return come, gone


def _turn(job: Job, unit: Unit, ready_at: datetime) -> Turn:
    phase, item = unit
    return (job.id, phase, item or "", job.pipeline, job.tenant, job.lane, ready_at)


def _outgoing(job: Job, revision: int, effects: Sequence[Effect], parent: str) -> list[Outgoing]:
    sent = []
    events = 0
    id_of_job = str(job.id)
    for effect in effects:
        match effect:
            case Command(name, message):
                key = phase_key(id_of_job, message.phase, message.attempt, message.item)
                channel = COMMANDS[name].channel
                sent.append(outgoing(channel, message, message_id=key, key=key, source=SOURCE, traceparent=parent))
            case Stop(name, message):
                stop = COMMANDS[name].stop
                if stop is not None:
                    key, id_ = message.key, f"{message.key}.stop"
                    sent.append(outgoing(stop, message, message_id=id_, key=key, source=SOURCE, traceparent=parent))
            case Event(channel, told):
                id_ = f"{id_of_job}.{revision}.{events}"
                events += 1
                sent.append(outgoing(channel, told, message_id=id_, key=id_of_job, source=SOURCE, traceparent=parent))
            case Bury():
                pass
    return sent


def _name(given: Input) -> str:
    """An input as history tells it, e.g. "Succeeded analyze.1"."""
    kind = type(given).__name__
    match given:
        case Succeeded(outcome) | Failed(outcome) | Deferred(outcome) | Progressed(outcome):
            unit = f"{outcome.phase}.{outcome.item}" if outcome.item else outcome.phase
            return f"{kind} {unit}.{outcome.attempt}"
        case Admitted(units):
            return f"{kind} {' '.join(f'{phase}.{item}' if item else phase for phase, item in units)}"
        case _:
            return kind
