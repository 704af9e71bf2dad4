"""Pipelines as files: those beside this module are built in, a user's lie in a folder of their own.

A file is YAML or TOML and holds one pipeline, in the fields of `machine.pipeline.Pipeline`; its
phases are a mapping by name. Keys that begin with `x-` are for anchors and mean nothing. Whatever
is wrong is refused at start, with the file and the line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from contracts import phases
from contracts.channel import Channel
from contracts.phases import RunPhase, StopPhase
from orchestrator.machine.pipeline import ANY, Phase, Pipeline
from orchestrator.machine.soundness import Mistake, mistakes
from orchestrator.pipelines import source
from orchestrator.pipelines.source import SourceInvalid

BUILT_IN: Final = Path(__file__).parent
FILES: Final = (".yaml", ".yml", ".toml")
_PIPELINE: Final = TypeAdapter(Pipeline)


@dataclass(frozen=True, slots=True)
class Row:
    """A command that phases may give. `stop` asks its worker to give an attempt up; `facts` are all that it finds."""

    channel: Channel[RunPhase]
    stop: Channel[StopPhase] | None = None
    gpu: bool = False
    facts: frozenset[str] = frozenset({ANY})


_PHOTO_FACTS: Final = frozenset(
    [
        "width",
        "height",
        "media_type",
        "orientation",
        "bit_depth",
        "color_profile",
        "captured_at",
        "camera",
        "blur",
        "exposure",
        "noise",
        "horizon",
        "phash",
        "faces",
        "detections",
        "cull",
    ]
)

_DOCUMENT_FACTS: Final = frozenset(["kind", "pages", "to_read", "reasons"])

# fmt: off
COMMANDS: Final[dict[str, Row]] = {
    # name       channel             stopped by        on a GPU   finds out
    "analyze":   Row(phases.RUN_ANALYZE,                           facts=_PHOTO_FACTS),
    "style":     Row(phases.RUN_STYLE,   phases.STOP_GPU, gpu=True),
    "retouch":   Row(phases.RUN_RETOUCH, phases.STOP_GPU, gpu=True),
    "cleanup":   Row(phases.RUN_CLEANUP, phases.STOP_GPU, gpu=True),
    "train":     Row(phases.RUN_TRAIN,   phases.STOP_GPU, gpu=True),
    "import":    Row(phases.RUN_IMPORT,  phases.STOP_GPU),
    "ocr":       Row(phases.RUN_OCR,     phases.STOP_GPU, gpu=True),
    "splat":     Row(phases.RUN_SPLAT,   phases.STOP_GPU, gpu=True),
    "crop":      Row(phases.RUN_CROP),
    "variants":  Row(phases.RUN_VARIANTS),
    "inspect":   Row(phases.RUN_INSPECT,                           facts=_DOCUMENT_FACTS),
    "rasterize": Row(phases.RUN_RASTERIZE),
    "assemble":  Row(phases.RUN_ASSEMBLE),
    "deliver":   Row(phases.RUN_DELIVER),
    "noop":      Row(phases.RUN_NOOP),
}
# fmt: on


class PipelineInvalid(Exception):
    """A pipeline's file cannot be used; the message holds a line `file:line: why` for each mistake."""


def built_in(*, bench: bool = False) -> list[Pipeline]:
    """The pipelines that come with Safelight; `bench` adds the no-op one."""
    return [load(path) for path in sorted(BUILT_IN.glob("*.yaml")) if bench or path.stem != "noop"]


def in_folder(folder: Path) -> list[Pipeline]:
    """A user's pipelines. Raises PipelineInvalid, also for a name and version that two files declare."""
    if not folder.is_dir():
        raise PipelineInvalid(f"{folder}: there is no such folder")
    found: dict[tuple[str, int], Path] = {}
    loaded, wrong = [], []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in FILES or path.name.startswith("."):
            continue
        try:
            pipeline = load(path)
        except PipelineInvalid as problem:
            wrong.append(str(problem))
            continue
        known = found.setdefault((pipeline.name, pipeline.version), path)
        if known != path:
            wrong.append(f"{path}:1: {pipeline.name}@{pipeline.version} is declared in {known.name} too")
        loaded.append(pipeline)
    if wrong:
        raise PipelineInvalid("\n".join(wrong))
    return loaded


def load(path: Path) -> Pipeline:
    """The pipeline of one file. Raises PipelineInvalid."""
    try:
        data, lines = source.read(path)
    except SourceInvalid as problem:
        raise PipelineInvalid(f"{path}:{problem.line}: {problem}") from problem
    pipeline, wrong = _pipeline_of(data)
    if pipeline is not None:
        wrong = mistakes(pipeline, {name: row.facts for name, row in COMMANDS.items()})
    if pipeline is None or wrong:
        at_lines = sorted((source.nearest(lines, one.where), one.sentence) for one in wrong)
        raise PipelineInvalid("\n".join(f"{path}:{line}: {sentence}" for line, sentence in at_lines))
    return pipeline


# -- from a file's data to a pipeline --------------------------------------------------------------


def _pipeline_of(data: Any) -> tuple[Pipeline | None, list[Mistake]]:
    if not isinstance(data, Mapping):
        return None, [Mistake((), "the file holds no mapping")]
    listed = data.get("phases", {})
    if not isinstance(listed, Mapping):
        return None, [Mistake(("phases",), "phases are a mapping from names to phases")]
    wrong = []
    for name, phase in listed.items():
        if not isinstance(name, str):
            wrong.append(Mistake(("phases",), f"the name of a phase is a text: put {name} in quotes"))
        elif not isinstance(phase, Mapping):
            wrong.append(Mistake(("phases", name), f"phase {name} is no mapping"))
        elif "name" in phase:
            wrong.append(Mistake(("phases", name, "name"), f"phase {name}: its key is its name, it has no field name"))
    if wrong:
        return None, wrong
    whole = {str(key): value for key, value in data.items() if not str(key).startswith("x-")}
    if "phases" in whole:
        whole["phases"] = [{**phase, "name": name} for name, phase in listed.items()]
    try:
        # Through JSON, where pydantic can be strict: 1 is a number and a list is a tuple, but "1" is a text.
        return _PIPELINE.validate_json(json.dumps(whole, default=str), strict=True), []
    except TypeError:
        return None, [Mistake((), "a key is no text")]
    except ValidationError as problem:
        return None, [_told(list(listed), one["type"], one["loc"], one["msg"]) for one in problem.errors()]


_TYPES: Final = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}


def _told(phases: Sequence[str], kind: str, loc: Sequence[str | int], message: str) -> Mistake:
    """A mistake of shape, in our words."""
    where = [str(part) for part in loc]
    who, fields = "the pipeline", Pipeline.__dataclass_fields__
    if len(loc) > 1 and loc[0] == "phases" and isinstance(loc[1], int):
        where[1] = phases[loc[1]]
        who, fields = f"phase {where[1]}", Phase.__dataclass_fields__
        loc = loc[2:]
    field = ".".join(str(part) for part in loc if isinstance(part, str))
    each = "each of " if loc and isinstance(loc[-1], int) else ""
    match kind:
        case "missing":
            return Mistake(tuple(where), f"{who} has no {field}")
        case "unexpected_keyword_argument":
            near = get_close_matches(field, fields, 1)
            return Mistake(tuple(where), f"{who}: there is no field {field}" + (f"; is it {near[0]}?" if near else ""))
    expected = f"must be {_TYPES[kind]}" if kind in _TYPES else message.replace("Input should be", "must be")
    return Mistake(tuple(where), f"{who}: {each}{field} {expected}")
