"""What holds for every job at every moment, whatever arrives in whatever order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from contracts.jobs import PhaseChange, Status
from orchestrator.machine.decide import Decision, Room
from orchestrator.machine.effects import Command, Event, Stop
from orchestrator.machine.inputs import Begin, Input, Retry
from orchestrator.machine.job import Job, PhaseState, Stand, Unit
from orchestrator.machine.pipeline import Pipeline
from orchestrator.machine.waiting import waiting_on, waits
from runtime.outbox import outgoing

ENDS = ("job.v1.succeeded", "job.v1.failed", "job.v1.dead", "job.v1.cancelled")
NEVER_TOLD = PhaseState()


class Witness:
    """Sees every decision about one job, remembers what may happen only once, and checks the rest."""

    def __init__(self) -> None:
        self.keys: set[str] = set()  # of commands, ever
        self.stopped: set[str] = set()
        self.picture: dict[Unit, PhaseChange] = {}  # what somebody knows who only hears the events
        self.told_status: Status | None = None

    def saw(
        self,
        before: Job | None,
        revision: int,
        pipeline: Pipeline | None,
        given: Input,
        rooms: Mapping[str, Room],
        decision: Decision,
    ) -> None:
        if decision.ignored:
            assert decision.job is before
            assert decision.effects == ()
            return
        job = decision.job
        assert job is not None
        self._commands_are_new_and_few(before, decision, rooms)
        if pipeline is not None:  # without a definition nobody knows whom to ask
            self._stops_are_of_what_was_out(before, decision)
        self._events_say_it_all(before, revision, job, decision)
        if isinstance(given, Begin | Retry):
            pipeline = given.pipeline
        owned(job, pipeline)
        in_order(job, pipeline)
        for _, _, state in job.units():
            consistent(state, job)

    def _commands_are_new_and_few(self, before: Job | None, decision: Decision, rooms: Mapping[str, Room]) -> None:
        job = decision.job
        assert job is not None
        given: Counter[str] = Counter()
        for effect in decision.effects:
            if isinstance(effect, Command):
                key = effect.message.key
                assert key not in self.keys, f"{key} is commanded twice"
                self.keys.add(key)
                given[effect.message.phase] += 1
                state = job.phases[effect.message.phase]
                state = state.items[effect.message.item] if effect.message.item else state
                assert (state.stand, state.attempt) == (Stand.OUT, effect.message.attempt)
                assert effect.message.deadline == state.deadline
        for name, count in given.items():
            if name in rooms:
                assert count <= rooms[name].free, f"{name} gives more commands than there is room"
        assert not given or before is None or before.paused_until is None or job.paused_until is None

    def _stops_are_of_what_was_out(self, before: Job | None, decision: Decision) -> None:
        stops = {effect.message.key for effect in decision.effects if isinstance(effect, Stop)}
        assert not stops & self.stopped, "an attempt is asked to stop once"
        assert stops <= self.keys
        self.stopped |= stops
        if decision.job and decision.job.is_over and before and not before.is_over:
            left = sum(before.standing.out.values()) - len(stops)
            assert left <= 1, "whatever ran is asked to stop, but for the one that has just ended"

    def _events_say_it_all(self, before: Job | None, revision: int, job: Job, decision: Decision) -> None:
        tellings = [effect for effect in decision.effects if isinstance(effect, Event)]
        events: list[Any] = [effect.message for effect in tellings]
        for effect, message in zip(tellings, events, strict=True):
            sent = outgoing(effect.channel, effect.told, message_id="id", key="key", source="test", traceparent="")
            assert sent.body == message.model_dump_json().encode(), "what is told is what its model says"
        kinds = [event.TYPE for event in events]
        opens = before is None or before.is_over
        assert all((event.job_id, event.revision, event.tenant) == (job.id, revision, job.tenant) for event in events)
        taken = before is None and any(state.made_by for state in job.phases.values())
        number = (2 if opens and job.is_over else 1) + taken
        enough = len(events) >= number if taken else len(events) == number
        assert enough or (not events and before and _but_leases(before, job))
        assert [kind in ENDS for kind in kinds] == [False] * (len(kinds) - job.is_over) + [True] * job.is_over
        if opens:
            assert kinds[0] == ("job.v1.started" if before is None else "job.v1.reopened")
            for change in events[0].changes:  # a phase of which nothing is over begins anew
                if change.item is None and not (change.items and change.items.ended):
                    self.picture = {key: old for key, old in self.picture.items() if key[0] != change.phase}
        for event in events:
            for change in event.changes:
                self.picture[change.phase, change.item] = change
            self.told_status = Status(event.TYPE.rsplit(".", 1)[1]) if event.TYPE in ENDS else None
            if event.TYPE in ("job.v1.changed", "job.v1.reopened"):
                assert event.status == job.status or job.is_over
        if events:
            assert events[-1].waiting_on == waiting_on(job)
        for name, item, state in job.units():
            known = self.picture.get((name, item))
            told = (known.status, known.attempt, known.code, known.retry_at, known.deadline) if known else None
            is_ = (state.status, state.attempt, state.code, state.retry_at, state.deadline)
            assert told == is_ or (known is None and _never_moved(state)), f"{name} {item} is told {told}, but is {is_}"
            if known:
                assert (tuple(known.artifacts), known.facts) == (state.artifacts, state.facts)
                assert (known.items.total if known.items else 0) == len(state.items)


def _never_moved(state: PhaseState) -> bool:
    return state.status is Status.QUEUED and state.attempt == 0 and not state.items


def _but_leases(before: Job, job: Job) -> bool:
    """Whether the two differ in leases only, of which nobody is told."""

    def bare(one: Job) -> list[Any]:
        units = [(n, i, s.stand, s.attempt, s.deadline, s.retry_at, s.code) for n, i, s in one.units()]
        return [units, one.deadline, one.paused_until, waiting_on(one)]

    return bare(before) == bare(job)


def owned(job: Job, pipeline: Pipeline | None) -> None:
    """Every job that is not over waits for something that somebody owns, with a time; it wakes in time for each."""
    rows = waits(job, pipeline)
    if job.is_over:
        assert (job.wake_at, rows, job.standing.out, job.standing.ready, waiting_on(job)) == (None, [], {}, {}, None)
        assert job.ended_at is not None
        assert job.paused_until is None
        return
    wake_at = job.wake_at
    assert wake_at is not None
    assert rows, "nobody owns it"
    assert all(row.owner and row.why and row.until for row in rows)
    paused = job.paused_until is not None
    for row in rows:
        ready = row.phase is not None and (job.standing.ready.get((row.phase, row.item)) is not None)
        assert wake_at <= row.until or (ready and wake_at <= job.expires_at)
    due: list[datetime | None] = [job.paused_until] if paused else [job.deadline, job.expires_at]
    for _, _, state in job.units():
        due += [state.deadline, state.lease_until, None if paused else state.retry_at]
    assert wake_at == min(moment for moment in due if moment is not None)
    out = sum(job.standing.out.values())
    assert (waiting_on(job) is None) == (out > 0), "it says why nothing runs"
    assert job.ended_at is None


def in_order(job: Job, pipeline: Pipeline | None) -> None:
    """Nothing begins before what it needs is over; an item only after its mates."""
    assert pipeline is None or list(job.phases) == [phase.name for phase in pipeline.phases] or job.is_over
    for name, item, state in job.units() if pipeline else ():
        if state.stand in (Stand.BLOCKED, Stand.CANCELLED):
            continue
        phase = pipeline.phase(name) if pipeline else None
        for need in phase.needs if phase and pipeline else ():
            before = job.phases[need]
            if pipeline and pipeline.follows(name, need):
                if item is not None and item in before.items:
                    assert before.items[item].is_done, f"{name} {item} goes before its mate in {need}"
            else:
                assert before.is_done, f"{name} goes before {need}"


def consistent(state: PhaseState, job: Job) -> None:
    """Each stand has its fields, and no other's."""
    stand = state.stand
    assert (state.deadline is not None) == (stand is Stand.OUT)
    assert (state.retry_at is not None) == (stand is Stand.BACKOFF)
    assert (state.ready_at is not None) == (stand is Stand.READY)
    assert state.lease_until is None or stand is Stand.OUT
    assert state.deferred_by is None or stand in (Stand.BACKOFF, Stand.READY, Stand.BLOCKED)
    assert (state.ended_at is not None) == state.is_over
    assert stand is not Stand.SPREAD or state.items
    assert stand is not Stand.READY or job.paused_until is None
    assert stand is not Stand.OUT or state.attempt > 0
    assert state.deadline is None or state.deadline <= max(job.deadline, job.expires_at)
    if state.items:
        assert state.attempt >= max(unit.attempt for unit in state.items.values())
        if state.is_done:
            assert all(unit.is_done for unit in state.items.values())
    if job.is_over:
        assert state.is_over, "nothing runs on in an ended job"
