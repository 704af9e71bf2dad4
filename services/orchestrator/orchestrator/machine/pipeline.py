"""Pipelines as data, and what makes one valid.

A pipeline is a DAG of phases by `needs`. A job pins name and version: the same version never
changes its meaning, so a changed table needs a new version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Final

OPTIONS: Final = "options"  # the root of paths into what the caller asked for


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a pipeline.

    `channel` is the subject of its command. `when` is a path; the phase is skipped when it leads
    to nothing (absent, null, false, 0, empty). A path reads `options.NAME` or `PHASE.FACT`.
    `parameters` and `attachments` go into the command: parameters by path, attachments by role.
    `backoff_s` are the waits before the second, third, ... attempt: attempts = len + 1.
    """

    name: str
    channel: str
    deadline_s: float
    backoff_s: tuple[float, ...] = ()
    needs: tuple[str, ...] = ()
    when: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A declared recipe. `accepts` are the media types of uploads that it can work with."""

    name: str
    version: int
    accepts: tuple[str, ...]
    deadline_s: float
    phases: tuple[Phase, ...]

    def phase(self, name: str) -> Phase:
        """The phase of that name. Raises StopIteration when there is none."""
        return next(phase for phase in self.phases if phase.name == name)

    def ancestors(self, name: str) -> list[str]:
        """Every phase that must end before this one, nearest first."""
        found: list[str] = []
        frontier = list(self.phase(name).needs)
        while frontier:
            near = frontier.pop(0)
            if near not in found:
                found.append(near)
                frontier += self.phase(near).needs
        return found


def mistakes(pipeline: Pipeline, channels: frozenset[str]) -> list[str]:
    """Why this pipeline cannot run, one sentence each; empty when it can. `channels` are the known subjects."""
    names = [phase.name for phase in pipeline.phases]
    wrong = [f"phase {name} is declared twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if not pipeline.phases:
        wrong.append("there is no phase")
    if pipeline.deadline_s <= 0:
        wrong.append("the pipeline has no deadline")
    unknown = [(phase.name, need) for phase in pipeline.phases for need in phase.needs if need not in names]
    wrong += [f"phase {name} needs {need}, which is not declared" for name, need in unknown]
    if wrong:
        return wrong
    try:
        TopologicalSorter({phase.name: phase.needs for phase in pipeline.phases}).prepare()
    except CycleError as cycle:
        return [f"phases need each other in a circle: {' -> '.join(cycle.args[1])}"]
    for phase in pipeline.phases:
        if phase.deadline_s <= 0:
            wrong.append(f"phase {phase.name} has no deadline")
        if phase.channel not in channels:
            wrong.append(f"phase {phase.name} uses the channel {phase.channel}, which is not declared")
        for path in (*((phase.when,) if phase.when else ()), *phase.parameters.values()):
            root, dot, leaf = path.partition(".")
            if not dot or not leaf:
                wrong.append(f"phase {phase.name}: path {path!r} does not read options.NAME or PHASE.FACT")
            elif root != OPTIONS and root not in pipeline.ancestors(phase.name):
                wrong.append(f"phase {phase.name}: path {path!r} starts at {root}, which does not end before it")
    return wrong
