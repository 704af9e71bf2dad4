"""How much room there is, as this process knows it: the counts in the database, and its own changes since.

The picture may be a moment old where other replicas are at work. That is why it only proposes: the
counts that come back from the transaction decide (`overdrawn`), and one that took too much is done
again with a fresh picture. The limits hold exactly, whatever the number of replicas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.machine.decide import Room, Rooms
from orchestrator.machine.fairness import Limits, PhaseId, Waiting, admit, room
from orchestrator.machine.job import Job, Unit
from orchestrator.machine.pipeline import Pipeline
from orchestrator.store import Counted, Place

EVERYBODY = ""  # in place of a tenant: the sum of all


@dataclass
class Capacity:
    """Counts and limits. `running_max` replaces the limit of a phase (`pipeline.phase`); `weights` are by tenant.

    Commands of a phase share its room, whichever version of the pipeline their jobs pin: the limits of one definition,
    which `in_force` finds by pipeline and phase, hold for all. What is out is counted whether there is a limit or not,
    since one may be set while it is out.
    """

    running_max: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    in_force: Callable[[str, str], Pipeline | None] = lambda _pipeline, _phase: None

    def __post_init__(self) -> None:
        self.known = False  # whether the counts were read since the last mishap
        self._rows: set[Place] = set()  # the places that are known to have a row in the database
        self._running: dict[PhaseId, dict[str, int]] = defaultdict(dict)
        self._waiting: dict[PhaseId, dict[tuple[str, str], int]] = {}
        self._turns: dict[PhaseId, dict[str, int]] = defaultdict(dict)  # when each tenant last got room, by number
        self._turn = 0

    def learn(self, running: Counted, waiting: Mapping[tuple[str, str, str, str], int]) -> None:
        """Take over what the database says."""
        self._running.clear()
        self._waiting.clear()
        self.correct(running)
        self.opened(running)
        for (pipeline, phase, lane, tenant), count in waiting.items():
            self._waiting.setdefault((pipeline, phase), {})[lane, tenant] = count
        self.known = True

    def correct(self, running: Counted) -> None:
        """Take over counts that a transaction has just written."""
        for (pipeline, phase, tenant), count in running.items():
            self._running[pipeline, phase][tenant] = count

    def without_row(self, places: Iterable[Place]) -> list[Place]:
        """Those that are not known to have a row in the database."""
        return [place for place in places if place not in self._rows]

    def opened(self, places: Iterable[Place]) -> None:
        """These have a row that is committed."""
        self._rows.update(places)

    def forget_rows(self) -> None:
        """What was thought to have a row has none: somebody deleted it."""
        self._rows.clear()

    def rooms(self, tenant: str, pipeline: Pipeline, *, waited: bool = False, closed: bool = False) -> Rooms:
        """What a unit of this tenant finds, phase by phase, when asked.

        `waited`: its turn in the line has come. `closed`: none, wherever there is a limit.
        """
        return _Rooms(self, tenant, pipeline, waited, closed)

    def limits(self, name: str, phase: str, pinned: Pipeline | None = None) -> Limits | None:
        """The limits of a phase; None when it has none. The `pinned` definition speaks where none is in force."""
        pipeline = self.in_force(name, phase) or pinned
        if pipeline is None or not pipeline.has(phase):
            return None
        row = pipeline.phase(phase)
        everybody = self.running_max.get(f"{name}.{phase}", row.running_max)
        if everybody is None and row.running_max_per_tenant is None:
            return None
        tenant = row.running_max_per_tenant
        if tenant is not None and row.running_max and everybody is not None and everybody != row.running_max:
            tenant = max(1, tenant * everybody // row.running_max)  # a deployment's own limit keeps the proportion
        return Limits(everybody, tenant)

    def move(self, job: Job, before: Mapping[str, int], after: Mapping[str, int], changes: dict[Place, int]) -> None:
        """Count what a decision changed: commands out by phase, before and after it."""
        if before == after:
            return
        for phase in {*before, *after}:
            if by := after.get(phase, 0) - before.get(phase, 0):
                counts = self._running[job.pipeline, phase]
                if by > 0:
                    self._turn += 1
                    self._turns[job.pipeline, phase][job.tenant] = self._turn
                for tenant in (EVERYBODY, job.tenant):
                    place = (job.pipeline, phase, tenant)
                    changes[place] = changes.get(place, 0) + by
                    counts[tenant] = counts.get(tenant, 0) + by

    def queue(self, job: Job, before: Mapping[Unit, datetime], after: Mapping[Unit, datetime]) -> None:
        """Count the units that a decision let wait, or took out of their line."""
        if not before and not after:
            return
        for units, by in ((after, 1), (before, -1)):
            for phase, _ in units:
                line = self._waiting.setdefault((job.pipeline, phase), {})
                line[job.lane, job.tenant] = max(0, line.get((job.lane, job.tenant), 0) + by)

    def overdrawn(self, changes: Counted, counts: Counted) -> Place | None:
        """The first place that grew beyond its limit: another replica took the room first."""
        for place, by in changes.items():
            if by <= 0 or not (allowed := self.limits(place[0], place[1])):
                continue
            most = allowed.running_max if place[2] == EVERYBODY else allowed.running_max_per_tenant
            if most is not None and counts.get(place, 0) > most:
                return place
        return None

    def crowded(self) -> Iterator[PhaseId]:
        """The phases for which units wait."""
        for phase, lines in list(self._waiting.items()):
            if any(lines.values()):
                yield phase

    def next_turns(self, phase: PhaseId, most: int) -> list[tuple[str, str, int]]:
        """Whose units go next: (lane, tenant, how many)."""
        limits = self.limits(*phase) or Limits(None, None)
        running = {t: n for t, n in self._running.get(phase, {}).items() if t != EVERYBODY}
        return admit(limits, running, self._waiting.get(phase, {}), self.weights, self._turns[phase], most)

    def room(self, pipeline: Pipeline, phase: str, tenant: str, *, waited: bool, closed: bool = False) -> Room | None:
        """What a unit that becomes ready finds, or one whose turn has come; None: no limit."""
        limits = self.limits(pipeline.name, phase, pipeline)
        if limits is None:
            return None
        counts = self._running.get((pipeline.name, phase), {})
        waiting: Waiting = {} if waited else self._waiting.get((pipeline.name, phase), {})
        found = room(limits, counts.get(EVERYBODY, 0), counts.get(tenant, 0), waiting, tenant)
        return Room(0, found.ahead) if closed else found


class _Rooms(Mapping[str, Room]):
    """The machine's view: rooms by phase, read when asked."""

    def __init__(self, capacity: Capacity, tenant: str, pipeline: Pipeline, waited: bool, closed: bool) -> None:
        self._capacity = capacity
        self._tenant = tenant
        self._pipeline = pipeline
        self._waited = waited
        self._closed = closed

    def get(self, phase: str, default: Room | None = None) -> Room | None:  # type: ignore[override]
        found = self._capacity.room(self._pipeline, phase, self._tenant, waited=self._waited, closed=self._closed)
        return found or default

    def __getitem__(self, phase: str) -> Room:
        found = self.get(phase)
        if found is None:
            raise KeyError(phase)
        return found

    def __iter__(self) -> Iterator[str]:
        return (phase.name for phase in self._pipeline.phases if self.get(phase.name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)
