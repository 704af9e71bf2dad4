"""What a new version of an upload takes over from the job of which it is an edit, and what it does again.

A phase is taken over, with its artifacts and facts, where all of this holds; else it begins anew:

- the job before has done it, or has found that there is nothing to do;
- both definitions make its result in the same way (`Phase.does_the_same`);
- its condition comes out as it did, and where it holds, the options and attachments that it reads
  are the same, by value and by content;
- whatever it needs is taken over.

Nothing is copied and nothing is bought again: artifacts keep their keys, under the job that wrote
them (`made_by`). Attempts count anew, for keys bear the new job's id. What an operator gave a phase
as a parameter stays, unless the caller now chooses what it stood for.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from msgspec.structs import replace

from orchestrator.machine.inputs import Base
from orchestrator.machine.job import Job, PhaseState
from orchestrator.machine.pipeline import OPTIONS, Phase, Pipeline
from orchestrator.machine.reading import Reading


def phases(job: Job, pipeline: Pipeline, base: Base) -> dict[str, PhaseState]:
    """The phases as the new job begins with them, in the order of the pipeline."""
    before = base.job
    if (before.upload_id, before.tenant, before.pipeline) != (job.upload_id, job.tenant, job.pipeline):
        return dict(job.phases)
    taken: dict[str, PhaseState] = {}
    for phase in pipeline.in_order:
        state = before.phases.get(phase.name)
        if state is None or not state.is_done or not all(need in taken for need in phase.needs):
            continue
        if _is_as_before(phase, pipeline, Reading(job, taken, pipeline), job, base):
            taken[phase.name] = _taken(state, before.id)
    return {
        phase.name: taken.get(phase.name) or PhaseState(overrides=_kept(phase, job, before))
        for phase in pipeline.phases
    }


def _is_as_before(phase: Phase, pipeline: Pipeline, reading: Reading, job: Job, base: Base) -> bool:
    before, pinned = base.job, base.pinned
    if pinned is None or not pinned.has(phase.name) or not phase.does_the_same(pinned.phase(phase.name)):
        return False
    holds = reading.holds(phase)
    if holds != Reading(before, before.phases, pinned).holds(phase):
        return False
    return not holds or not any(_changes(phase, job, before))


def _changes(phase: Phase, job: Job, before: Job) -> Iterator[bool]:
    """Of each thing that it reads of the caller's: is it another one? What it reads of phases, `needs` has judged."""
    for path in (*phase.parameters.values(), phase.each or ""):
        yield _is_other(path, job, before)
    for role in phase.attachments:
        now, then = job.attachments.get(role), before.attachments.get(role)
        yield (now and now.sha256) != (then and then.sha256)


def _is_other(path: str, job: Job, before: Job) -> bool:
    root, _, leaf = path.partition(".")
    return root == OPTIONS and job.options.get(leaf) != before.options.get(leaf)


def _taken(state: PhaseState, by: UUID) -> PhaseState:
    items = {id_: _taken(unit, by) for id_, unit in state.items.items()}
    return replace(state, attempt=0, failures=0, tries=(), force=False, items=items, made_by=state.made_by or by)


def _kept(phase: Phase, job: Job, before: Job) -> dict[str, object]:
    state = before.phases.get(phase.name)
    given = state.overrides.items() if state is not None else ()
    return {
        name: value
        for name, value in given
        if name in phase.parameters and not _is_other(phase.parameters[name], job, before)
    }
