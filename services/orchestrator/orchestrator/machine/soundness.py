"""What makes a pipeline valid: everything that would leave a job without a way on is refused at start."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Final

from contracts.errors import ERRORS
from contracts.uploads import OPTIONS as KNOWN_OPTIONS
from orchestrator.machine.condition import ConditionInvalid, Term, contradiction
from orchestrator.machine.inputs import Retry
from orchestrator.machine.pipeline import ANY, ITEM, LOCAL, OPTIONS, Phase, Pipeline
from orchestrator.machine.reading import IMAGE, ORIGINAL

TIME_MAX_S: Final = 30 * 24 * 3600.0  # longer than a month is a slip of the pen
PHASES_MAX: Final = 50  # one event may tell of them all
WAITS_MAX: Final = 20
PARAMETERS_MAX: Final = 6  # each may be all that a phase found out: 6 of 64 KiB fit into a command
ATTACHMENTS_MAX: Final = 10
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")  # it stands in keys of work and of objects
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+")
_ROOTS: Final = (OPTIONS, ITEM)
_STAND_INS: Final = (Retry.START, Retry.DEGRADED, *_ROOTS)  # words that stand where a phase's name could

Facts = Mapping[str, frozenset[str]]  # by command: all that it finds out, ANY: nobody knows
Where = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """Why a pipeline cannot run, and where it says so: a path of keys into its file."""

    where: Where
    sentence: str


def mistakes(pipeline: Pipeline, commands: Facts) -> list[Mistake]:
    """Everything that is wrong, empty when it can run. `commands` are the known ones with the facts that each finds."""
    wrong = [*_of_the_whole(pipeline), *_of_needs(pipeline)]
    if not wrong:  # what follows walks along the needs
        for phase in pipeline.phases:
            wrong += [
                Mistake(("phases", phase.name, *where), f"phase {phase.name} {sentence}")
                for where, sentence in (*_of_phase(pipeline, phase, commands), *_of_paths(pipeline, phase, commands))
            ]
    return wrong


def _of_the_whole(pipeline: Pipeline) -> Iterator[Mistake]:
    if not _NAME.fullmatch(pipeline.name):
        yield Mistake(("name",), _naming(pipeline.name))
    if not 1 <= pipeline.version < 2**31:
        yield Mistake(("version",), "versions begin with 1")
    if not pipeline.accepts:
        yield Mistake(("accepts",), "the pipeline accepts nothing")
    for media_type in pipeline.accepts:
        if not _MEDIA_TYPE.fullmatch(media_type):
            yield Mistake(("accepts",), f"{media_type!r} is no media type")
    for field in ("deadline_s", "expires_s"):
        if not 0 < getattr(pipeline, field) <= TIME_MAX_S:
            yield Mistake((field,), f"{field} must be more than 0 and at most {TIME_MAX_S:.0f} seconds")
    if pipeline.expires_s < pipeline.deadline_s:
        yield Mistake(("expires_s",), "the pipeline expires before its deadline")
    if not 1 <= len(pipeline.phases) <= PHASES_MAX:
        yield Mistake(("phases",), f"there are {len(pipeline.phases)} phases; a pipeline has 1 to {PHASES_MAX}")


def _of_needs(pipeline: Pipeline) -> Iterator[Mistake]:
    names = [phase.name for phase in pipeline.phases]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Mistake(("phases", name), f"phase {name} is declared twice")
        if not _NAME.fullmatch(name) or name in _STAND_INS:
            yield Mistake(("phases", name), _naming(name))
    complete = True
    for phase in pipeline.phases:
        for need in phase.needs:
            if need not in names:
                complete = False
                yield Mistake(
                    ("phases", phase.name, "needs"), f"phase {phase.name} needs {need}, which is not declared"
                )
    if complete:
        try:
            TopologicalSorter({phase.name: phase.needs for phase in pipeline.phases}).prepare()
        except CycleError as cycle:
            circle = list(reversed(cycle.args[1]))  # each needs the next
            yield Mistake(("phases", circle[0], "needs"), f"phases need each other in a circle: {' -> '.join(circle)}")


def _naming(name: str) -> str:
    if name in _STAND_INS:
        return f"{name!r} has a meaning of its own and names no phase"
    return f"{name!r} is no name: up to 32 small letters, digits, - and _, the first a letter or a digit"


Found = Iterator[tuple[Where, str]]


def _of_phase(pipeline: Pipeline, phase: Phase, commands: Facts) -> Found:
    if phase.command not in commands:
        known = ", ".join(sorted(commands))
        yield ("command",), f"gives the command {phase.command!r}, which nobody takes; there are {known}"
    if not 0 < phase.deadline_s <= pipeline.deadline_s:
        yield ("deadline_s",), "needs a deadline_s of more than 0 and at most its pipeline's"
    for code, waits in phase.retry.items():
        if code != ANY and code not in ERRORS:
            yield ("retry", code), f"retries {code!r}, which is no error code"
        if len(waits) > WAITS_MAX or not all(0 <= wait <= pipeline.deadline_s for wait in waits):
            yield ("retry", code), f"waits up to {WAITS_MAX} times, each no longer than its pipeline may work"
    for role in phase.attachments:
        if role in (ORIGINAL, IMAGE):
            yield ("attachments",), f"reads {role!r} anyway; it is no attachment"
        if (root := role.partition(".")[0]) != role and root not in pipeline.ancestors(phase.name):
            yield ("attachments",), f"reads {role!r}, but does not come after {root}: name it among its needs"
        elif root != role and pipeline.phase(root).each:
            yield ("attachments",), f"cannot attach {role!r}: {root} fans out, and what its items make is read anyway"
    for field, most in (("parameters", PARAMETERS_MAX), ("attachments", ATTACHMENTS_MAX)):
        if len(getattr(phase, field)) > most:
            yield (field,), f"has {len(getattr(phase, field))} {field}, {most} are allowed"
    if phase.fallback and phase.providers and LOCAL not in phase.providers:
        yield ("fallback",), f"may not fall back: the provider {LOCAL} is not among its providers"
    if phase.unavailable == "fallback" and not phase.fallback:
        yield ("unavailable",), "takes a fallback that it has not"
    if phase.stall_s is not None and not 0 < phase.stall_s <= phase.deadline_s:
        yield ("stall_s",), "needs a stall_s of more than 0 and at most its deadline_s"
    for limit in ("running_max", "running_max_per_tenant"):
        value = getattr(phase, limit)
        if value is not None and value < 1:
            yield (limit,), f"could never run: {limit} must be at least 1"


def _of_paths(pipeline: Pipeline, phase: Phase, commands: Facts) -> Found:
    for key, path in phase.parameters.items():
        if _of_item(phase, path):
            continue
        if why := _why_unread(pipeline, phase, path, commands):
            yield ("parameters", key), why
    if phase.each is not None and (
        why := _why_unread(pipeline, phase, phase.each, commands) or _why_no_list(pipeline, phase.each)
    ):
        yield ("each",), why
    if phase.when is not None:
        try:
            terms = phase.condition
        except ConditionInvalid as problem:
            yield ("when",), f"has no condition: {problem}"
            return
        reasons = [
            why
            for t in terms
            if not _of_item(phase, t.path)
            and (why := _why_unread(pipeline, phase, t.path, commands) or _why_not(pipeline, t))
        ]
        if reasons:
            yield ("when",), reasons[0]
        elif why := contradiction(_all_that_must_hold(pipeline, phase)):
            yield ("when",), f"can never run: {why}"


def _of_item(phase: Phase, path: str) -> bool:
    return phase.each is not None and path.partition(".")[0] == ITEM


def _why_unread(pipeline: Pipeline, phase: Phase, path: str, commands: Facts) -> str | None:
    root, _, leaf = path.partition(".")
    if not leaf or root == ITEM:
        return f"has a path {path!r} that reads neither options.NAME nor PHASE.FACT"
    if root == OPTIONS:
        known = ", ".join(sorted(KNOWN_OPTIONS))
        return (
            None if leaf in KNOWN_OPTIONS else f"reads the option {leaf!r}, which no caller can give; there are {known}"
        )
    if root not in pipeline.ancestors(phase.name):
        return f"reads {path!r}, but does not come after {root}: name it among its needs"
    facts = commands.get(pipeline.phase(root).command)
    if facts is not None and leaf not in facts and ANY not in facts:
        return f"reads {path!r}, but {root} finds out no {leaf!r}; there are {', '.join(sorted(facts)) or 'none'}"
    return None


def _fans_out(pipeline: Pipeline, path: str) -> str | None:
    root = path.partition(".")[0]
    return root if root not in _ROOTS and pipeline.phase(root).each is not None else None


def _why_no_list(pipeline: Pipeline, each: str) -> str | None:
    root = _fans_out(pipeline, each)
    return f"cannot fan out over {each!r}: {root} fans out itself, and finds a thing per item" if root else None


def _why_not(pipeline: Pipeline, term: Term) -> str | None:
    root = _fans_out(pipeline, term.path)
    if root is None or term.op in ("is", "not"):
        return None
    return f"cannot compare {term.path!r}: {root} fans out, and finds a thing per item"


def _all_that_must_hold(pipeline: Pipeline, phase: Phase) -> list[Term]:
    """Its own terms, and those of the phases that must have run for them: what was skipped has found out nothing."""
    terms: list[Term] = []
    left, seen = [phase], set[str]()
    while left:
        one = left.pop()
        seen.add(one.name)
        terms += one.condition
        asked = [term.path for term in one.condition if not term.holds(None)] + ([one.each] if one.each else [])
        roots = (path.partition(".")[0] for path in asked)
        left += [pipeline.phase(root) for root in roots if root not in _ROOTS and root not in seen]
    return terms
