"""A job as the machine sees it: frozen, with its pipeline pinned beside it.

`TRANSITIONS` is the law of movement: a phase, or an item of one that fans out, goes from one
stand to another only as the table says, and `docs/lifecycle.md` is drawn from it.

These are msgspec's frozen structs, not dataclasses: copying one with a change and writing one down
are the most frequent things that happen here, and they cost a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, NamedTuple
from uuid import UUID

from msgspec import Struct, field

from contracts.artifacts import Artifact, ObjectRef
from contracts.jobs import Status
from contracts.uploads import Lane

Unit = tuple[str, str | None]  # a phase, or an item of it: what one command is about


class Stand(StrEnum):
    """Where a phase or an item stands: finer than its status."""

    BLOCKED = "blocked"  # phases that it needs are not over, or the job is paused
    READY = "ready"  # it could run, and waits for room
    OUT = "out"  # its command is out
    BACKOFF = "backoff"  # it waits for the time of its next attempt
    SPREAD = "spread"  # it fans out, and its items are at work
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"


# fmt: off
TRANSITIONS: Final[dict[tuple[Stand, Stand], str]] = {
    (Stand.BLOCKED, Stand.OUT):       "what it needs is over, and there is room",
    (Stand.BLOCKED, Stand.READY):     "what it needs is over, but there is no room",
    (Stand.BLOCKED, Stand.SPREAD):    "the list of its items is known",
    (Stand.BLOCKED, Stand.SKIPPED):   "its condition does not hold, it has no items, or it can be done without",
    (Stand.BLOCKED, Stand.CANCELLED): "its job ends",
    (Stand.BLOCKED, Stand.FAILED):    "it has too many items, or reads of too many",
    (Stand.BLOCKED, Stand.DEAD):      "its list of items cannot be used",
    (Stand.READY, Stand.OUT):         "there is room",
    (Stand.READY, Stand.BLOCKED):     "its job is paused",
    (Stand.READY, Stand.CANCELLED):   "its job ends",
    (Stand.OUT, Stand.SUCCEEDED):     "its attempt succeeded",
    (Stand.OUT, Stand.BACKOFF):       "its attempt failed, was deferred, stalled or ran out of time; another follows",
    (Stand.OUT, Stand.OUT):           "the fallback engine takes over",
    (Stand.OUT, Stand.READY):         "the fallback engine takes over, but there is no room",
    (Stand.OUT, Stand.BLOCKED):       "the fallback engine takes over, but its job is paused",
    (Stand.OUT, Stand.SKIPPED):       "its last attempt failed, and the job can do without it",
    (Stand.OUT, Stand.FAILED):        "its attempt failed for good, and the caller can fix it",
    (Stand.OUT, Stand.DEAD):          "its last attempt failed",
    (Stand.OUT, Stand.CANCELLED):     "its job ends; what runs is asked to stop",
    (Stand.BACKOFF, Stand.OUT):       "the time has come, and there is room",
    (Stand.BACKOFF, Stand.READY):     "the time has come, but there is no room",
    (Stand.BACKOFF, Stand.CANCELLED): "its job ends",
    (Stand.SPREAD, Stand.SUCCEEDED):  "its items are over, and at least one succeeded",
    (Stand.SPREAD, Stand.SKIPPED):    "its items are over, and none succeeded",
    (Stand.SPREAD, Stand.FAILED):     "an item failed for good, and the caller can fix it",
    (Stand.SPREAD, Stand.DEAD):       "an item's last attempt failed",
    (Stand.SPREAD, Stand.CANCELLED):  "its job ends",
    **{(ended, Stand.BLOCKED): "its job is retried or replayed from here or from before"
       for ended in (Stand.SUCCEEDED, Stand.SKIPPED, Stand.FAILED, Stand.CANCELLED, Stand.DEAD)},
    **{(ended, Stand.SPREAD): "its job is retried or replayed for some of its items"
       for ended in (Stand.SUCCEEDED, Stand.FAILED, Stand.CANCELLED, Stand.DEAD)},
}

JOB_TRANSITIONS: Final[dict[tuple[Status, Status], str]] = {
    (Status.QUEUED, Status.RUNNING):    "the first command goes out",
    (Status.QUEUED, Status.SUCCEEDED):  "no phase had anything to do",
    (Status.QUEUED, Status.FAILED):     "no pipeline takes the upload",
    (Status.QUEUED, Status.CANCELLED):  "somebody asked for it",
    (Status.QUEUED, Status.DEAD):       "it waited until it expired",
    (Status.RUNNING, Status.SUCCEEDED): "every phase succeeded or was skipped",
    (Status.RUNNING, Status.FAILED):    "a phase failed for good, and the caller can fix it",
    (Status.RUNNING, Status.CANCELLED): "somebody asked for it",
    (Status.RUNNING, Status.DEAD):      "a phase's last attempt failed, or a deadline passed",
    **{(ended, again): "it is retried or replayed"
       for ended in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.DEAD)
       for again in (Status.QUEUED, Status.RUNNING)},
}
# fmt: on

# Finding a member in its enum takes ten times as long as finding a name, and these are asked for at every step.
_QUEUED, _RUNNING, _SUCCEEDED, _SKIPPED = Status.QUEUED, Status.RUNNING, Status.SUCCEEDED, Status.SKIPPED


class Try(Struct, frozen=True, omit_defaults=True):
    """An attempt that did not succeed, and why. Kept for whoever has to understand a dead letter."""

    number: int
    started_at: datetime | None
    ended_at: datetime
    code: str
    detail: str
    engine: str | None = None


class PhaseState(Struct, frozen=True, omit_defaults=True):
    """Where one phase, or one item of it, stands.

    `attempt` is the number of commands given for it, ever (of a phase with `items`, which has no
    command of its own: the highest of theirs, ever); `failures` counts those of this round that
    failed, which is what the retry policy looks at. `deferred_by` is set while it waits for a
    provider, `engine_only` once the fallback has taken over. `overrides` are parameters that an
    operator gave; `force` says that this round's commands ask for the work anew, though a result of it
    is there. `ahead` is how many of its tenant's units waited before it when it became ready.
    `made_by` is the job that did it, where that was the job of an earlier version.
    """

    status: Status = Status.QUEUED
    attempt: int = 0
    failures: int = 0
    deadline: datetime | None = None
    lease_until: datetime | None = None
    retry_at: datetime | None = None
    ready_at: datetime | None = None
    ahead: int = 0
    deferred_by: str | None = None
    engine_only: str | None = None
    force: bool = False
    code: str | None = None
    detail: str | None = None
    engine: str | None = None
    degraded: bool = False
    started_at: datetime | None = None
    ended_at: datetime | None = None
    artifacts: tuple[Artifact, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tries: tuple[Try, ...] = ()
    items: Mapping[str, PhaseState] = field(default_factory=dict)
    made_by: UUID | None = None

    @property
    def stand(self) -> Stand:
        """Its place in TRANSITIONS."""
        if self.status is _RUNNING:
            if self.deadline is not None:
                return Stand.OUT
            return Stand.BACKOFF if self.retry_at is not None else Stand.SPREAD
        if self.status is _QUEUED:
            return Stand.BLOCKED if self.ready_at is None else Stand.READY
        return _ENDINGS[self.status]

    @property
    def is_done(self) -> bool:
        """Whether the phases that need it may go on."""
        return self.status is _SUCCEEDED or self.status is _SKIPPED

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or badly."""
        return self.status is not _QUEUED and self.status is not _RUNNING

    @property
    def gave_up(self) -> bool:
        """Whether it is an optional one that could not be done."""
        return self.status is _SKIPPED and self.code is not None

    @property
    def stood_in(self) -> bool:
        """Whether a lesser engine made its result, or that of an item. What was skipped has no result."""
        if self.items:
            return any(unit.stood_in for unit in self.items.values())
        return self.status is _SUCCEEDED and self.degraded

    @property
    def waits(self) -> bool:
        """Whether it waits for room or for a provider: for others, not for its own work."""
        return self.ready_at is not None or self.deferred_by is not None

    def again(self, *, force: bool = False) -> PhaseState:
        """As new, but that attempts go on counting (a key is never used twice) and an operator's parameters stay."""
        return PhaseState(attempt=self.attempt, force=force, tries=self.tries, overrides=self.overrides)


_ENDINGS: Final = {status: Stand(status) for status in Status if status.is_terminal}


class Standing(NamedTuple):
    """What the shell asks of a job at every step, seen in one look at its units."""

    out: dict[str, int]  # how many commands of each phase are out
    ready: dict[Unit, datetime]  # the units that wait for room, with the moment since which they do
    due: datetime | None  # the first deadline or end of a lease of what is out
    retry_at: datetime | None  # the first attempt that waits for its time


NOTHING: Final = Standing({}, {}, None, None)  # of a job that has not begun


class Job(Struct, frozen=True, omit_defaults=True, dict=True):
    """One upload's way through one pipeline version. `phases` has a row for each declared phase, in their order.

    `deadline` is for the work, `expires_at` for all the waiting beside it. A paused job gives no
    commands; its clock stands still until somebody resumes it, at `paused_until` at the latest.
    `spent` are the attempts of phases that an older version had, should a newer one have them again.
    `version` counts the jobs of an upload; `edit_of` is the one of which this is another version.
    """

    id: UUID
    tenant: str
    upload_id: UUID
    pipeline: str
    pipeline_version: int
    original: ObjectRef
    attachments: Mapping[str, ObjectRef]
    options: Mapping[str, Any]
    status: Status
    created_at: datetime
    deadline: datetime
    expires_at: datetime
    phases: Mapping[str, PhaseState]
    lane: Lane = "interactive"
    batch_id: UUID | None = None
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    paused_by: str | None = None
    ended_at: datetime | None = None
    traceparent: str | None = None
    spent: Mapping[str, int] = field(default_factory=dict)
    edit_of: UUID | None = None
    version: int = 1

    def units(self) -> Iterator[tuple[str, str | None, PhaseState]]:
        """Every phase, and every item of those that fan out."""
        for name, state in self.phases.items():
            yield name, None, state
            if state.items:
                for item, unit in state.items.items():
                    yield name, item, unit

    @cached_property
    def standing(self) -> Standing:
        """Computed once: a job is frozen."""
        out: dict[str, int] = {}
        ready: dict[Unit, datetime] = {}
        due: list[datetime] = []
        again: list[datetime] = []
        for name, item, state in self.units():
            if state.deadline is not None:
                out[name] = out.get(name, 0) + 1
                due.append(state.deadline)
                if state.lease_until is not None:
                    due.append(state.lease_until)
            else:
                if state.ready_at is not None:
                    ready[name, item] = state.ready_at
                if state.retry_at is not None:
                    again.append(state.retry_at)
        return Standing(out, ready, min(due, default=None), min(again, default=None))

    @property
    def is_over(self) -> bool:
        """Whether it has ended, well or badly."""
        return self.status is not _QUEUED and self.status is not _RUNNING

    @property
    def degraded(self) -> bool:
        """Whether a lesser engine, or none, did some of its work."""
        return any(state.degraded for state in self.phases.values())

    @property
    def wake_at(self) -> datetime | None:
        """When something is due if nothing comes before: a retry, a deadline, a lease, a pause's end. None once ended.

        A paused job's own clock stands still; what is out keeps its deadline.
        """
        if self.is_over:
            return None
        paused, standing = self.paused_until, self.standing
        due = paused if paused is not None else min(self.deadline, self.expires_at)
        if standing.due is not None:
            due = min(due, standing.due)
        if standing.retry_at is not None and paused is None:
            due = min(due, standing.retry_at)
        return due
