"""Pipelines as data.

A pipeline is a DAG of phases by `needs`. A job pins name and version: the same version never
changes its meaning, so a changed definition needs a new version. The fields of these two classes
are the format of a pipeline's file; `soundness` says what makes one valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Final, Literal

from pydantic import ConfigDict

from contracts.errors import ErrorCode
from contracts.uploads import Lane
from orchestrator.machine.condition import Term, parse

OPTIONS: Final = "options"  # the root of paths into what the caller asked for
ITEM: Final = "item"  # the root of paths into the item that a command of a fan-out is about
_NO_PHASES: Final = (OPTIONS, ITEM)
ANY: Final = "*"  # in `retry`: every transient code that is not named
CPU: Final = "cpu"  # the fallback engine that there always is
LOCAL: Final = "local"  # the provider that it runs on


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a pipeline.

    `command` names a row of the table of commands. `when` is a condition (see `condition`): the
    phase is skipped when it does not hold; terms that read `item` skip single elements. `each` is the
    path of a list: the phase runs once per element; two phases over the same list follow each other
    element by element. `parameters` (by path) and `attachments` (by role of what came with the upload,
    or as PHASE.ARTIFACT) go into the command.
    `retry` are the waits in seconds before the second, third, ... attempt, by error code; `*` is
    every transient code that is not named. After the last attempt `fallback` (an engine) gets as
    many; then `on_failure` says what becomes of the job: it fails, goes on without the phase, or
    goes on and counts as degraded. `providers` are the only ones that may do the work (empty: any).
    `unavailable` says whether the phase waits for a provider or takes the fallback at once.
    `stall_s`: how long an attempt that has told progress may be silent. `running_max` attempts are
    out at once over all jobs, `running_max_per_tenant` of one tenant (None: no limit).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    command: str
    deadline_s: float
    retry: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    when: str | None = None
    each: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[str, ...] = ()
    on_failure: Literal["fail", "skip", "degrade"] = "fail"
    fallback: Literal["cpu"] | None = None
    providers: tuple[str, ...] = ()
    unavailable: Literal["wait", "fallback"] = "wait"
    stall_s: float | None = None
    running_max: int | None = None
    running_max_per_tenant: int | None = None

    def waits(self, row: ErrorCode) -> tuple[float, ...]:
        """The waits after failures with this code, in seconds; as many as there are further attempts."""
        return self.retry.get(row.code, self.retry.get(ANY, ()) if row.transient else ())

    def does_the_same(self, other: Phase) -> bool:
        """Whether what it makes is made in the same way; how long it may take is another matter."""
        return all(getattr(self, name) == getattr(other, name) for name in _MAKING)

    @property
    def condition(self) -> tuple[Term, ...]:
        """The parsed `when`; empty when there is none."""
        return parse(self.when) if self.when else ()


_MAKING: Final = ("command", "needs", "when", "each", "parameters", "attachments")  # what decides a phase's result


@dataclass(frozen=True)
class Pipeline:
    """A declared recipe. `accepts` are the media types of uploads that it can work with.

    `deadline_s` is for the work of one job; while a job waits for room or for a provider it is
    renewed, until `expires_s` after its start, when it ends whatever it waits for. `lane` says who
    goes first. `sensitive` work goes to no provider that the tenant's policy bars; of `sealed` work
    all objects are sealed under a key of their upload's.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    version: int
    accepts: tuple[str, ...]
    deadline_s: float
    phases: tuple[Phase, ...]
    expires_s: float = 24 * 3600.0
    lane: Lane = "interactive"
    sensitive: bool = False
    sealed: bool = False

    def phase(self, name: str) -> Phase:
        """The phase of that name. Raises KeyError when there is none."""
        return self._by_name[name]

    def has(self, name: str) -> bool:
        """Whether there is a phase of that name."""
        return name in self._by_name

    @cached_property
    def in_order(self) -> tuple[Phase, ...]:
        """The phases so that each comes after those that it needs, else in the order of the table."""
        left, placed = list(self.phases), dict[str, Phase]()
        while left:
            phase = next(phase for phase in left if all(need in placed for need in phase.needs))
            placed[phase.name] = phase
            left.remove(phase)
        return tuple(placed.values())

    def ancestors(self, name: str) -> Sequence[str]:
        """Every phase that must end before this one, nearest first."""
        return self._ancestors[name]

    def follows(self, name: str, other: str) -> bool:
        """Whether the two run over the same list, so that an item of the one is an item of the other."""
        each = self._by_name[name].each
        return each is not None and each == self._by_name[other].each

    @cached_property
    def mates(self) -> Mapping[str, tuple[str, ...]]:
        """By phase: the needs that run over the same list, so that each item waits for its mates only."""
        return {
            phase.name: tuple(need for need in phase.needs if self.follows(phase.name, need)) for phase in self.phases
        }

    @cached_property
    def gates(self) -> Mapping[str, tuple[str, ...]]:
        """By phase: the phases that must be over before it begins: its needs that are no mates, and what it asks."""
        found = {}
        for phase in self.phases:
            asked = [term.path for term in phase.condition] + ([phase.each] if phase.each else [])
            roots = (path.partition(".")[0] for path in asked)
            before = [need for need in phase.needs if need not in self.mates[phase.name]]
            found[phase.name] = tuple(
                dict.fromkeys([*before, *(root for root in roots if root not in (OPTIONS, ITEM))])
            )
        return found

    @cached_property
    def reads_items(self) -> frozenset[str]:
        """The phases whose commands name what every item of another phase made or found: they may become too large."""
        found = set()
        for phase in self.phases:
            asked = {path.partition(".")[0] for path in phase.parameters.values()}
            read = {*phase.needs, *(asked - {OPTIONS, ITEM})}
            if any(self._by_name[name].each and not self.follows(phase.name, name) for name in read):
                found.add(phase.name)
        return frozenset(found)

    @cached_property
    def _by_name(self) -> Mapping[str, Phase]:
        return {phase.name: phase for phase in self.phases}

    @cached_property
    def _ancestors(self) -> Mapping[str, tuple[str, ...]]:
        return {phase.name: self._walk(phase.name) for phase in self.phases}

    def _walk(self, name: str) -> tuple[str, ...]:
        found: list[str] = []
        frontier = list(self._by_name[name].needs)
        while frontier:
            near = frontier.pop(0)
            if near not in found:
                found.append(near)
                frontier += self._by_name[near].needs
        return tuple(found)


def version_differences(old: Pipeline, new: Pipeline) -> list[str]:
    """What a job that moves from one version to another would meet, in words."""
    told = []
    for phase in new.phases:
        if not old.has(phase.name):
            told.append(f"{phase.name} is new")
        elif old.phase(phase.name) != phase:
            fields = [f for f in Phase.__dataclass_fields__ if getattr(old.phase(phase.name), f) != getattr(phase, f)]
            told.append(f"{phase.name} has another {' and '.join(fields)}")
    told += [f"{phase.name} is gone" for phase in old.phases if not new.has(phase.name)]
    rest: Sequence[str] = ("accepts", "deadline_s", "expires_s", "lane", "sensitive", "sealed")
    return told + [f"another {name}" for name in rest if getattr(old, name) != getattr(new, name)]
