"""Conditions: what holds, what is no condition, and which can never hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.machine.condition import NUMBER_MAX, ConditionInvalid, Term, contradiction, parse
from orchestrator.machine.pipeline import Phase
from orchestrator.machine.soundness import mistakes
from tests.unit.orchestrator.given import phase, pipeline

numbers = st.integers(-5, 5) | st.floats(-5, 5).map(lambda n: round(n, 1)) | st.floats(-1e15, 1e15)
texts = st.text(st.sampled_from('ab\0 "\\é'), max_size=3)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.sampled_from([[], [0], {}, {"a": 1}])
ordered = numbers | texts
terms = (
    st.builds(Term, st.just("p.x"), st.sampled_from(["is", "not"]))
    | st.builds(Term, st.just("p.x"), st.sampled_from(["==", "!="]), scalars)
    | st.builds(Term, st.just("p.x"), st.sampled_from(["<", "<=", ">", ">="]), ordered)
)


def text_of(term: Term) -> str:
    if term.op in ("is", "not"):
        return f"{'not ' if term.op == 'not' else ''}{term.path}"
    return f"{term.path} {term.op} {json.dumps(term.value)}"


@pytest.mark.parametrize(
    ("text", "found", "holds"),
    [
        pytest.param("p.x", [1], True, id="what is there"),
        pytest.param("p.x", None, False, id="what is not there"),
        pytest.param("p.x", 0, False, id="nought is as good as nothing"),
        pytest.param("p.x", [], False, id="so is an empty list"),
        pytest.param("not p.x", "", True, id="not: the opposite"),
        pytest.param("p.x > 0", 0.5, True, id="more"),
        pytest.param("p.x > 0", None, False, id="nothing is more than nothing"),
        pytest.param("p.x < 9", "1", False, id="a text is no number"),
        pytest.param('p.x < "b"', "a", True, id="texts have an order"),
        pytest.param("p.x > 0", True, False, id="yes is no number"),
        pytest.param("p.x == 1", 1.0, True, id="1 is 1.0"),
        pytest.param("p.x == 1", True, False, id="yes is not 1"),
        pytest.param("p.x != 1", True, True, id="so it is something else"),
        pytest.param("p.x == null", None, True, id="nothing is null"),
        pytest.param("p.x != 5", None, True, id="nothing is not 5"),
        pytest.param('p.x == "black and white"', "black and white", True, id="and inside of a text joins nothing"),
        pytest.param('p.x=="a"and p.x', "a", True, id="blanks can be left out"),
        pytest.param("p.x >= 1 and p.x <= 1", 1, True, id="both"),
        pytest.param("p.x >= 1 and p.x <= 1", 2, False, id="not both"),
    ],
)
def test_whether_it_holds(text: str, found: Any, holds: bool) -> None:
    assert all(term.holds(found) for term in parse(text)) is holds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "'' begins with neither", id="nothing"),
        pytest.param("p.x and", "'and': terms are joined by `and`", id="an and too many"),
        pytest.param("and p.x", "'and p.x' begins with neither", id="an and at the beginning"),
        pytest.param("p.x or p.y", "'or p.y': terms are joined by `and`", id="or"),
        pytest.param("p.x = 1", "'= 1': terms are joined", id="one sign of equality"),
        pytest.param("p.x == warm", "'warm' is no JSON value; a text stands in double quotes", id="a bare word"),
        pytest.param("p.x == 'warm'", "\"'warm'\" is no JSON value", id="single quotes"),
        pytest.param("p.x == [1]", "'[1]' is no scalar", id="a list"),
        pytest.param("p.x == NaN", "is no number below", id="no number"),
        pytest.param("p.x < 1e999", "is no number below", id="infinity"),
        pytest.param(f"p.x < {NUMBER_MAX}", "is no number below", id="a number that no float holds exactly"),
        pytest.param("p.x < true", "'true' is neither more nor less than anything", id="less than yes"),
        pytest.param("not p.x == 1", "begins with neither", id="not of a comparison"),
        pytest.param("p.x == ", "'==': terms are joined", id="no value"),
        pytest.param("p.x " * 600, "it has 2400 characters", id="a novel"),
    ],
)
def test_what_is_no_condition(text: str, says: str) -> None:
    with pytest.raises(ConditionInvalid) as problem:
        parse(text)
    assert says in str(problem.value)


@settings(max_examples=50)
@given(st.lists(terms, min_size=1, max_size=5))
def test_what_is_written_down_reads_the_same(some: list[Term]) -> None:
    assert parse(" and ".join(map(text_of, some))) == tuple(some)


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        terms = parse(text)
    except ConditionInvalid:
        return
    assert terms


@given(st.lists(terms, max_size=12), values)
def test_what_something_satisfies_is_never_called_a_contradiction(some: list[Term], value: Any) -> None:
    assert contradiction([term for term in some if term.holds(value)]) is None


@settings(max_examples=50)
@given(st.lists(terms, max_size=4), st.lists(terms, max_size=4))
def test_more_terms_contradict_no_less(some: list[Term], more: list[Term]) -> None:
    if contradiction(some):
        assert contradiction([*some, *more])


@pytest.mark.parametrize(
    ("text", "can_hold"),
    [
        pytest.param("p.x and not p.x", False, id="there and not there"),
        pytest.param("p.x > 1 and p.x < 1", False, id="more and less than 1"),
        pytest.param("p.x >= 1 and p.x <= 1 and p.x != 1", False, id="exactly 1 and not 1"),
        pytest.param("p.x > 1 and p.x < 2", True, id="between two numbers"),
        pytest.param("p.x > -0.5 and p.x < 0.5 and p.x", True, id="near nought, but not nought"),
        pytest.param("p.x >= 0 and p.x <= 0 and p.x", False, id="nought, but there"),
        pytest.param('p.x > "a" and p.x < "b"', True, id="between two texts"),
        pytest.param('p.x > "a" and p.x < "a\\u0000"', False, id="between a text and the next one"),
        pytest.param('p.x > "a" and p.x < "a\\u0001"', True, id="there is exactly one text between"),
        pytest.param('p.x > "a" and p.x != "a\\u0000" and p.x < "ab"', True, id="not the next one, but one after it"),
        pytest.param('p.x > 1 and p.x > "a"', False, id="a number and a text"),
        pytest.param("p.x == true and p.x == 1", False, id="yes and 1"),
        pytest.param('not p.x and p.x != null and p.x != false and p.x != 0 and p.x != ""', True, id="an empty list"),
        pytest.param("p.x > 1 and p.y < 1", True, id="two things have nothing to do with each other"),
        pytest.param("p.x == null and not p.x", True, id="nothing"),
    ],
)
def test_contradictions(text: str, can_hold: bool) -> None:
    assert (contradiction(parse(text)) is None) is can_hold


# -- conditions of a pipeline --------------------------------------------------------------------


def sentences(*phases: Phase) -> list[str]:
    known = {"noop": frozenset({"*"}), "look": frozenset({"n", "list"})}
    return [mistake.sentence for mistake in mistakes(pipeline(*phases), known)]


def test_a_phase_that_could_only_run_where_another_cannot_is_refused() -> None:
    a = phase("a", when="options.style")
    assert sentences(a, phase("b", "a", when="a.n > 0 and not options.style")) == [
        "phase b can never run: nothing that options.style can be satisfies it"
    ]
    assert sentences(a, phase("b", "a", when="not a.n and not options.style")) == [], "it runs where a was skipped"
    assert sentences(a, phase("b", "a", each="a.list", when="not options.style")) != [], "no list without a"


def test_what_a_phase_finds_out_is_known_for_some_commands() -> None:
    a = phase("a", command="look")
    assert sentences(a, phase("b", "a", when="a.n")) == []
    assert sentences(a, phase("b", "a", when="a.m")) == [
        "phase b reads 'a.m', but a finds out no 'm'; there are list, n"
    ]


def test_a_fan_out_over_what_a_fan_out_found_is_refused() -> None:
    assert sentences(phase("a"), phase("b", "a", each="a.x"), phase("c", "b", each="b.x")) == [
        "phase c cannot fan out over 'b.x': b fans out itself, and finds a thing per item"
    ]


def test_a_comparison_with_what_many_items_found_is_refused() -> None:
    fan = (phase("a"), phase("b", "a", each="a.x"))
    assert sentences(*fan, phase("c", "b", when="b.n > 3")) == [
        "phase c cannot compare 'b.n': b fans out, and finds a thing per item"
    ]
    assert sentences(*fan, phase("c", "b", when="b.n")) == [], "whether any found it can be asked"
