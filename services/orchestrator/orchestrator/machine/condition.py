"""Conditions of phases: `when: analyze.faces and options.style_strength > 0`.

A condition is one or more terms joined by `and`:

    PATH            the value is there and not null, false, 0 or empty
    not PATH        the opposite
    PATH == VALUE   VALUE is a JSON scalar (a text in double quotes); the types must be the same
    PATH != VALUE   the opposite
    PATH < VALUE    likewise <= > >=: two numbers or two texts, nothing else

A path reads `options.NAME` or `PHASE.FACT`. `contradiction` finds terms that exclude each other,
so that a phase that can never run is refused when its pipeline is declared.
"""

from __future__ import annotations

import itertools
import json
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import JsonValue

NUMBER_MAX: Final = 2**53  # beyond it a float is not exact, and neither is a reason why nothing lies between two
TEXT_CHARS_MAX: Final = 2000
_TERM: Final = re.compile(
    r'(?P<not>not\s+)?(?P<path>[^\s=!<>"]+)(?:\s*(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]+))?\s*'
)
_AND: Final = re.compile(r"and\s+")
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class ConditionInvalid(ValueError):
    """The text is no condition; the message says where."""


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison. `op` is "is", "not" or an operator; `value` is None for the first two."""

    path: str
    op: str
    value: JsonValue = None

    def holds(self, found: JsonValue) -> bool:
        """Whether the value found at the path satisfies the term."""
        match self.op:
            case "is":
                return bool(found)
            case "not":
                return not found
            case "==":
                return _kind(found) == _kind(self.value) and found == self.value
            case "!=":
                return not (_kind(found) == _kind(self.value) and found == self.value)
            case _:
                kind = _kind(found)
                return kind in ("number", "text") and kind == _kind(self.value) and _ORDER[self.op](found, self.value)


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case _:
            return "structure"


@lru_cache(maxsize=1024)
def parse(text: str) -> tuple[Term, ...]:
    """The terms of a condition. Raises ConditionInvalid."""
    if len(text) > TEXT_CHARS_MAX:
        raise ConditionInvalid(f"it has {len(text)} characters, {TEXT_CHARS_MAX} are allowed")
    rest, terms = text.strip(), []
    while True:
        match = _TERM.match(rest)
        if match is None or (match["not"] and match["op"]) or match["path"] in ("and", "or", "not"):
            raise ConditionInvalid(f"{rest!r} begins with neither PATH, not PATH, nor PATH OP VALUE")
        terms.append(_term(match))
        rest = rest[match.end() :]
        if not rest:
            return tuple(terms)
        joint = _AND.match(rest)
        if joint is None:
            raise ConditionInvalid(f"{rest!r}: terms are joined by `and`")
        rest = rest[joint.end() :]


def _term(match: re.Match[str]) -> Term:
    if match["op"] is None:
        return Term(match["path"], "not" if match["not"] else "is")
    try:
        value = json.loads(match["value"])
    except ValueError as problem:
        raise ConditionInvalid(f"{match['value']!r} is no JSON value; a text stands in double quotes") from problem
    if isinstance(value, list | dict):
        raise ConditionInvalid(f"{match['value']!r} is no scalar")
    if isinstance(value, int | float) and not abs(value) < NUMBER_MAX:
        raise ConditionInvalid(f"{match['value']!r} is no number below 2 to the power of 53")
    if match["op"] in _ORDER and _kind(value) not in ("number", "text"):
        raise ConditionInvalid(f"{match['value']!r} is neither more nor less than anything")
    return Term(match["path"], match["op"], value)


def contradiction(terms: Sequence[Term]) -> str | None:
    """Why the terms can never hold together, or None. Terms about one path are tried with every value that matters."""
    for path in dict.fromkeys(term.path for term in terms):
        mine = [term for term in terms if term.path == path]
        if not any(all(term.holds(value) for term in mine) for value in _witnesses(mine)):
            return f"nothing that {path} can be satisfies it"
    return None


def _witnesses(terms: Sequence[Term]) -> list[JsonValue]:
    """Values of which one satisfies the terms if any value does.

    No term tells two values apart that lie between the same two neighbours of its bounds, so each
    bound, one value on each side of it, and the same about 0 and "" (where `is` changes) are enough.
    """
    numbers = sorted({0.0, *(float(t.value) for t in terms if isinstance(t.value, int | float))})
    between = [(a + b) / 2 for a, b in itertools.pairwise(numbers)]
    texts = {"", *(t.value for t in terms if isinstance(t.value, str))}
    after = [text + "\0" for text in texts]  # the very next text: if anything lies between two, this does
    return [None, False, True, [], [0], *numbers, *between, numbers[0] - 1, numbers[-1] + 1, *texts, *after]
