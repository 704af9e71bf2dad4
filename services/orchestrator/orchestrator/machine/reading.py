"""What commands read: the upload, the caller's options, and what earlier phases made and found out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import JsonValue, TypeAdapter, ValidationError

from contracts.artifacts import Artifact, ObjectRef
from contracts.phases import ItemId, RunPhase
from orchestrator.machine.job import Job, PhaseState
from orchestrator.machine.pipeline import ITEM, OPTIONS, Phase, Pipeline

ORIGINAL: Final = "original"  # the role of the upload itself
IMAGE: Final = "image"  # the role under which an artifact replaces the original for the phases after it
_ITEM_IDS: Final = TypeAdapter(list[ItemId])
_NOTHING: Final[Mapping[str, PhaseState]] = {}


class Reading:
    """What the commands of one job can read now. `phases` are its phases as they move."""

    __slots__ = ("_elements", "_job", "_phases", "_pipeline")

    def __init__(self, job: Job, phases: Mapping[str, PhaseState], pipeline: Pipeline) -> None:
        self._job = job  # only what never changes is read of it
        self._phases = phases
        self._pipeline = pipeline
        self._elements: dict[str, dict[str, JsonValue]] = {}  # by path of a list, then by id

    def holds(self, phase: Phase, item: str | None = None) -> bool:
        """Whether the phase's condition holds: with an item what it asks of that one, else all that it asks besides."""
        asked = (term for term in phase.condition if (term.path.partition(".")[0] == ITEM) is (item is not None))
        return all(term.holds(self.value(term.path, phase, item)) for term in asked)

    def value(self, path: str, reader: Phase, item: str | None) -> JsonValue:
        """What `reader`, or the item of it, finds at a path; None for nothing.

        Of a phase that fans out over the same list, an item reads what its own mate found. Any
        other reader gets a mapping from the items to what each of them found.
        """
        root, _, leaf = path.partition(".")
        if root == OPTIONS:
            return self._job.options.get(leaf)
        if root == ITEM:
            element = self._element(reader, item)
            return element.get(leaf) if leaf and isinstance(element, dict) else element
        state = self._phases[root]
        if self._pipeline.phase(root).each is None:
            return state.facts.get(leaf)
        if item is not None and self._pipeline.follows(reader.name, root):
            mate = state.items.get(item)
            return mate.facts.get(leaf) if mate else None
        return {id_: unit.facts[leaf] for id_, unit in state.items.items() if leaf in unit.facts}

    def item_ids(self, phase: Phase) -> list[str] | None:
        """The ids of the phase's items in their order, None when there is no list of things with distinct ids."""
        found = self.value(phase.each or "", phase, None)
        if found is None:
            return []
        if not isinstance(found, list):
            return None
        try:
            ids = _ITEM_IDS.validate_python([_id(n, one) for n, one in enumerate(found)])
        except ValidationError:
            return None
        return ids if len(ids) == len(set(ids)) else None

    def _element(self, phase: Phase, item: str | None) -> JsonValue:
        path = phase.each or ""
        if path not in self._elements:
            found = self.value(path, phase, None)
            self._elements[path] = {_id(n, one): one for n, one in enumerate(found if isinstance(found, list) else [])}
        return self._elements[path].get(item or "")

    def command(self, phase: Phase, item: str | None, attempt: int, state: PhaseState, deadline: datetime) -> RunPhase:
        """The command that runs an attempt of the phase, or of an item of it."""
        parameters: dict[str, Any] = {}
        overrides = self._phases[phase.name].overrides
        if phase.parameters or overrides:
            found = {name: self.value(path, phase, item) for name, path in phase.parameters.items()}
            parameters = {name: value for name, value in {**found, **overrides}.items() if value is not None}
        return RunPhase(
            job_id=self._job.id,
            phase=phase.name,
            item=item,
            attempt=attempt,
            tenant=self._job.tenant,
            inputs=self._inputs(phase, item),
            parameters=parameters,
            deadline=deadline,
            engine=state.engine_only,
            providers=list(phase.providers),
            force=state.force,
            sensitive=self._pipeline.sensitive,
        )

    def _inputs(self, phase: Phase, item: str | None) -> dict[str, ObjectRef]:
        job = self._job
        found: dict[str, ObjectRef] = {ORIGINAL: job.original, IMAGE: self._image(phase, item) or job.original}
        for role in phase.attachments:
            if role in job.attachments:
                found[role] = job.attachments[role]
            elif (made := self._made(role)) is not None:
                found[role] = made
        for need in phase.needs:  # a fan-in reads what each item made
            if self._phases[need].items and not self._pipeline.follows(phase.name, need):
                for id_, unit in self._phases[need].items.items():
                    found |= {f"{need}.{id_}.{artifact.name}": artifact for artifact in unit.artifacts}
        return found

    def _made(self, path: str) -> Artifact | None:
        """The artifact at PHASE.ARTIFACT."""
        name, _, artifact = path.partition(".")
        state = self._phases.get(name)
        return next((one for one in state.artifacts if one.name == artifact), None) if state else None

    def _image(self, phase: Phase, item: str | None) -> Artifact | None:
        """The newest picture: what the nearest phase before made of this item, else named like it, else for all."""
        for name in self._pipeline.ancestors(phase.name):
            made: tuple[Artifact, ...] = self._phases[name].artifacts
            if item is not None and self._pipeline.follows(phase.name, name):
                made = self._phases[name].items[item].artifacts if item in self._phases[name].items else ()
            if made:
                for stem in (IMAGE,) if item is None else (item, IMAGE):
                    for artifact in made:
                        if artifact.name.startswith(f"{stem}."):
                            return artifact
        return None


def _id(n: int, element: JsonValue) -> str:
    """An element's own `id`, or the element when it is a text, or its number from 1."""
    own = element.get("id") if isinstance(element, dict) else element
    return own if isinstance(own, str) else str(n + 1)
