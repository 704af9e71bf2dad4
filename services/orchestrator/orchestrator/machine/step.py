"""A decision in the making: the job so far, the effects so far, and the few ways in which they change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from contracts.errors import ERRORS, ErrorCode, Fixer
from contracts.jobs import Status
from contracts.phases import StopPhase
from orchestrator.machine.effects import Bury, Command, Effect, Stop
from orchestrator.machine.job import JOB_TRANSITIONS, TRANSITIONS, Job, PhaseState, Unit
from orchestrator.machine.pipeline import Phase, Pipeline
from orchestrator.machine.reading import Reading

TRIES_KEPT: Final = 50  # of one unit, and in one dead letter
ARTIFACTS_KEPT: Final = 1000  # in one dead letter


@dataclass(frozen=True, slots=True)
class Room:
    """How many more commands of a phase may go out for this tenant; `ahead` of its units wait already."""

    free: int
    ahead: int = 0


Rooms = Mapping[str, Room]  # by phase; one that is not named has no limit
NO_LIMITS: Final[Rooms] = {}


class Step:
    """`before` is the job that the decision found (None: it begins), `job` and `phases` what becomes of it."""

    __slots__ = (
        "_copied",
        "_given",
        "_queued",
        "_rooms",
        "_withdrawn",
        "at",
        "before",
        "effects",
        "job",
        "moved",
        "over",
        "phases",
        "pipeline",
        "reading",
        "revision",
        "why",
    )

    def __init__(
        self, before: Job | None, job: Job, revision: int, pipeline: Pipeline, at: datetime, rooms: Rooms
    ) -> None:
        self.before = before
        self.job = job  # all but its phases, which move here:
        self.phases: dict[str, PhaseState] = dict(job.phases)
        self.revision = revision
        self.pipeline = pipeline
        self.at = at
        self.reading = Reading(job, self.phases, pipeline)
        self.moved: dict[Unit, None] = {}
        self.effects: list[Effect] = []
        self.over = False  # the job has ended here
        self.why: tuple[str | None, str, str] = (None, "", "")  # phase, code and detail of a bad end
        self._rooms = rooms
        self._given: dict[str, int] = {}  # commands of this decision, by phase
        self._queued: dict[str, int] = {}  # units that it made ready, by phase
        self._copied: dict[str, dict[str, PhaseState]] = {}  # the items of phases that have moved here
        self._withdrawn: set[str] = set()  # commands that this decision would have given, had it not ended the job

    def finished(self) -> Job:
        """The job as the decision leaves it."""
        status = self.job.status
        if status is Status.QUEUED and any(state.attempt for state in self.phases.values()):
            status = Status.RUNNING
        assert self._is_lawful(status), f"{self.before.status if self.before else None} to {status}"
        return replace(self.job, status=status, phases=self.phases)

    def _is_lawful(self, status: Status) -> bool:
        before = self.before.status if self.before is not None else Status.QUEUED
        if self.before is not None and self.before.is_over and self.over:  # it begins again and ends at once
            return (before, Status.RUNNING) in JOB_TRANSITIONS and (Status.RUNNING, status) in JOB_TRANSITIONS
        return status is before or (before, status) in JOB_TRANSITIONS

    # -- units --------------------------------------------------------------------------------

    def unit(self, phase: str, item: str | None) -> PhaseState:
        """How a phase, or an item of it, stands now."""
        state = self.phases[phase]
        return state if item is None else state.items[item]

    def put(self, phase: str, item: str | None, state: PhaseState) -> None:
        """Move a unit, by the law."""
        before = self.unit(phase, item).stand
        assert (before, state.stand) in TRANSITIONS, f"{phase} {item} may not go from {before} to {state.stand}"
        self.keep(phase, item, state)
        self.moved[phase, item] = None
        if item is not None:
            self.moved[phase, None] = None  # it counts its items

    def keep(self, phase: str, item: str | None, state: PhaseState) -> None:
        """Remember something about a unit that nobody needs to be told."""
        if item is None:
            self.phases[phase] = state
            return
        items = self._copied.get(phase)
        if items is None:
            whole = self.phases[phase]
            items = self._copied[phase] = dict(whole.items)
            self.phases[phase] = replace(whole, items=items)
        items[item] = state

    # -- commands -----------------------------------------------------------------------------

    def command(self, phase: Phase, item: str | None, state: PhaseState) -> None:
        """Give the next command for a unit, or let it wait for room, or for its job to be resumed."""
        name, at = phase.name, self.at
        if self.job.paused_until is not None:
            if state.status is not Status.QUEUED:
                idle = replace(state, status=Status.QUEUED, deadline=None, lease_until=None, retry_at=None)
                self.put(name, item, idle)
            return
        room = self._rooms.get(name)
        if room is not None:
            given = self._given.get(name, 0)
            if room.free <= given:
                self._wait_for_room(name, item, state, room)
                return
            self._given[name] = given + 1
        out = replace(
            state,
            status=Status.RUNNING,
            attempt=state.attempt + 1,
            deadline=self._deadline(phase, state),
            lease_until=None,
            retry_at=None,
            ready_at=None,
            ahead=0,
            deferred_by=None,
            engine=None,
            started_at=at,
            ended_at=None,
        )
        self.put(name, item, out)
        if item is not None and out.attempt > (whole := self.phases[name]).attempt:
            self.keep(name, None, replace(whole, attempt=out.attempt))
        self.effects.append(self._command_of(phase, item, out))

    def _wait_for_room(self, phase: str, item: str | None, state: PhaseState, room: Room) -> None:
        if state.ready_at is not None:
            return
        queued = self._queued.get(phase, 0)
        self._queued[phase] = queued + 1
        ready = replace(
            state,
            status=Status.QUEUED,
            deadline=None,
            lease_until=None,
            retry_at=None,
            ready_at=self.at,
            ahead=room.ahead + queued,
        )
        self.put(phase, item, ready)

    def _deadline(self, phase: Phase, state: PhaseState) -> datetime:
        """No attempt gets more time than its job has left. What the job has waited is not taken from its work."""
        deadline = self.at + timedelta(seconds=phase.deadline_s)
        if deadline <= self.job.deadline and deadline <= self.job.expires_at:
            return deadline
        if state.waits or self.waits():
            self.renew()
        return min(deadline, self.job.deadline, self.job.expires_at)

    def waits(self) -> bool:
        """Whether anything of the job waits for room or for a provider."""
        return any(state.waits or any(unit.waits for unit in state.items.values()) for state in self.phases.values())

    def renew(self) -> None:
        """Give the job the whole of its time again."""
        self.job = replace(self.job, deadline=self.at + timedelta(seconds=self.pipeline.deadline_s))

    def _command_of(self, phase: Phase, item: str | None, state: PhaseState) -> Command:
        deadline = state.deadline or self.job.deadline
        return Command(phase.command, self.reading.command(phase, item, state.attempt, state, deadline))

    def stop(self, phase: str, item: str | None, state: PhaseState) -> None:
        """Ask whoever runs the unit to stop, if anybody does."""
        if state.deadline is not None and self.pipeline.has(phase):
            message = StopPhase(job_id=self.job.id, phase=phase, item=item, attempt=state.attempt)
            if message.key not in self._withdrawn:
                self.effects.append(Stop(self.pipeline.phase(phase).command, message))

    # -- ending -------------------------------------------------------------------------------

    def fail(self, phase: str | None, item: str | None, code: str, detail: str = "") -> None:
        """End the job badly, and keep what could not be done as a dead letter."""
        row = ERRORS[code]
        detail = detail or row.title
        self.why = (phase, code, detail)
        self.bury(phase, item, code, detail)
        self.end(ending(row))

    def end(self, status: Status) -> None:
        """Phases that are not over lose their claim: what runs is asked to stop, and its outcome will be ignored."""
        self.over = True
        self._withdrawn = {effect.message.key for effect in self.effects if isinstance(effect, Command)}
        self.effects = [effect for effect in self.effects if not isinstance(effect, Command)]
        self.job = replace(self.job, status=status, ended_at=self.at, paused_at=None, paused_until=None, paused_by=None)
        for name, seen in list(self.phases.items()):
            for item, unit in seen.items.items():
                self._cancel(name, item, unit)
            self._cancel(name, None, self.phases[name])

    def _cancel(self, phase: str, item: str | None, state: PhaseState) -> None:
        if state.is_over:
            return
        self.stop(phase, item, state)
        over = replace(
            state,
            status=Status.CANCELLED,
            deadline=None,
            lease_until=None,
            retry_at=None,
            ready_at=None,
            deferred_by=None,
            ended_at=self.at,
        )
        self.put(phase, item, over)

    def bury(self, phase: str | None, item: str | None, code: str, detail: str) -> None:
        """Keep what could not be done as a dead letter."""
        command: Command | None = None
        if phase is not None:
            state = self.unit(phase, item)
            if state.attempt and not state.items:
                command = self._command_of(self.pipeline.phase(phase), item, state)
        tries, made = [], []
        for name, whole in self.phases.items():
            for id_, unit in ((None, whole), *whole.items.items()):
                made += [(name, artifact) for artifact in unit.artifacts]
                if phase is None or (name, id_) == (phase, item):
                    tries += [(name, id_, one) for one in unit.tries]
        self.effects.append(
            Bury(phase, item, code, detail, command, tuple(tries[-TRIES_KEPT:]), tuple(made[:ARTIFACTS_KEPT]))
        )


def ending(row: ErrorCode) -> Status:
    """How a unit ends that fails for good with this code."""
    return Status.FAILED if not row.transient and row.fixer is Fixer.CALLER else Status.DEAD
