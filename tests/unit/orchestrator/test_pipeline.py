"""Which pipelines are refused, and with which words."""

from __future__ import annotations

import pytest

from orchestrator.machine.pipeline import Phase, Pipeline, mistakes
from orchestrator.pipelines import CHANNELS, PIPELINES

KNOWN = frozenset({"x"})


def pipeline(*phases: Phase, deadline_s: float = 60) -> Pipeline:
    return Pipeline("p", 1, (), deadline_s, phases)


@pytest.mark.parametrize("built_in", PIPELINES, ids=lambda p: p.name)
def test_the_built_in_pipelines_are_sound(built_in: Pipeline) -> None:
    assert mistakes(built_in, frozenset(CHANNELS)) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        pytest.param(pipeline(), "there is no phase", id="empty"),
        pytest.param(pipeline(Phase("a", "x", 1), Phase("a", "x", 1)), "a is declared twice", id="twice"),
        pytest.param(pipeline(Phase("a", "x", 1, needs=("b",))), "needs b, which is not declared", id="unknown need"),
        pytest.param(
            pipeline(Phase("a", "x", 1, needs=("b",)), Phase("b", "x", 1, needs=("a",))), "in a circle", id="cycle"
        ),
        pytest.param(pipeline(Phase("a", "x", 0)), "a has no deadline", id="phase without deadline"),
        pytest.param(pipeline(Phase("a", "x", 1), deadline_s=0), "has no deadline", id="pipeline without deadline"),
        pytest.param(pipeline(Phase("a", "y", 1)), "channel y", id="unknown channel"),
        pytest.param(pipeline(Phase("a", "x", 1, when="faces")), "does not read", id="path without root"),
        pytest.param(
            pipeline(Phase("a", "x", 1), Phase("b", "x", 1, when="a.faces")), "does not end before it", id="not before"
        ),
        pytest.param(
            pipeline(Phase("a", "x", 1, parameters={"p": "gone.fact"})), "does not end before it", id="unknown root"
        ),
    ],
)
def test_a_mistake_is_named(wrong: Pipeline, says: str) -> None:
    assert any(says in sentence for sentence in mistakes(wrong, KNOWN))


def test_ancestors_come_nearest_first() -> None:
    chain = pipeline(Phase("a", "x", 1), Phase("b", "x", 1, needs=("a",)), Phase("c", "x", 1, needs=("b",)))
    assert chain.ancestors("c") == ["b", "a"]
