"""A pipeline file's text becomes data, with the line of each key.

Who writes such a file is trusted to start jobs, not to know the traps of YAML: aliases that unfold
to gigabytes, a key that silently replaces another, an anchor that holds itself, brackets without
end. All of them are refused with a sentence.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

FILE_BYTES_MAX: Final = 256 * 1024
NODES_MAX: Final = 20_000  # keys and values, each alias counted as all that it stands for
_MERGE: Final = "tag:yaml.org,2002:merge"

Where = tuple[str, ...]  # a path of keys
Lines = dict[Where, int]


class SourceInvalid(Exception):
    """The file cannot be read; `line` is where."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line


def read(path: Path) -> tuple[Any, Lines]:
    """What a YAML or TOML file holds, and the line of each key. Raises SourceInvalid."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise SourceInvalid(1, f"the file cannot be read: {problem.strerror}") from problem
    if len(raw) > FILE_BYTES_MAX:
        raise SourceInvalid(1, f"the file has more than {FILE_BYTES_MAX} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SourceInvalid(raw.count(b"\n", 0, problem.start) + 1, "the file is not UTF-8") from problem
    try:
        return _read_toml(text) if path.suffix.lower() == ".toml" else _read_yaml(text)
    except RecursionError:
        raise SourceInvalid(1, "the file nests too deeply") from None


def nearest(lines: Lines, where: Where) -> int:
    """The line of the place, or of the nearest one around it."""
    return next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)


# -- YAML ------------------------------------------------------------------------------------------


def _read_yaml(text: str) -> tuple[Any, Lines]:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _refuse_bombs(root)
        lines = dict(_yaml_lines(root, ()))
        return loader.construct_document(root), lines
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        raise SourceInvalid(mark.line + 1 if mark else 1, problem.problem or str(problem)) from problem
    except yaml.reader.ReaderError as problem:
        line = text.count("\n", 0, problem.position) + 1
        raise SourceInvalid(line, f"a character that YAML does not allow: {problem.character!r}") from problem
    except (ValueError, TypeError) as problem:  # a date that there is not, a key that is a list
        raise SourceInvalid(1, str(problem)) from problem


def _refuse_bombs(root: yaml.Node) -> None:
    """Count what aliases unfold to, without unfolding them."""
    sizes: dict[int, int] = {}
    inside: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in inside:
            raise SourceInvalid(node.start_mark.line + 1, "an anchor holds itself")
        if id(node) not in sizes:
            inside.add(id(node))
            children: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                children = [one for pair in node.value for one in pair]
            elif isinstance(node, yaml.SequenceNode):
                children = list(node.value)
            sizes[id(node)] = 1 + sum(size(child) for child in children)
            inside.remove(id(node))
        return sizes[id(node)]

    if size(root) > NODES_MAX:
        raise SourceInvalid(1, f"the file unfolds to more than {NODES_MAX} keys and values")


def _yaml_lines(node: yaml.Node, where: Where) -> Iterator[tuple[Where, int]]:
    """The line of each key; of one that is merged in, where its anchor has it."""
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _yaml_lines(child, (*where, "[]"))
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == _MERGE:
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for one in merged:
                yield from _yaml_lines(one, where)
    seen = set()
    for key, value in node.value:
        here = (*where, str(key.value))
        if here in seen:
            raise SourceInvalid(key.start_mark.line + 1, f"{key.value} is declared twice")
        seen.add(here)
        if key.tag != _MERGE:
            yield here, key.start_mark.line + 1
            yield from _yaml_lines(value, here)


# -- TOML ------------------------------------------------------------------------------------------

_NAMED: Final = r"""(?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*"""
_TABLE: Final = re.compile(rf"^\s*\[\s*({_NAMED})\s*\]")
_KEY: Final = re.compile(rf"^\s*({_NAMED})\s*=")
_PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def _read_toml(text: str) -> tuple[Any, Lines]:
    """tomllib tells the line of an error only: a table's header and a key's line are found by their looks."""
    try:
        data = tomllib.loads(text)
    except ValueError as problem:
        found = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", str(problem))
        line = int(found[1]) if found and found[1] else len(text.splitlines()) or 1
        raise SourceInvalid(line, str(problem).removesuffix(found[0]) if found else str(problem)) from problem
    lines: Lines = {}
    table: Where = ()
    for n, line_ in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line_):
            table = _parts(header[1])
            lines.setdefault(table, n)
        elif key := _KEY.match(line_):
            lines.setdefault((*table, *_parts(key[1])), n)
    return data, lines


def _parts(dotted: str) -> Where:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))
