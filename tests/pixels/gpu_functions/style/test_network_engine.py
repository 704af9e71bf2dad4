"""A worker with a GPU tries a network on an archive, and goes on where it was interrupted."""

from __future__ import annotations

from gpu_functions.engine import Place
from gpu_functions.style.learn import Course
from gpu_functions.style.train import PairsLut
from tests.pixels.gpu_functions.style.archives import archive, paired
from tests.pixels.gpu_functions.style.conftest import Heard
from tests.pixels.gpu_functions.style.test_network import edited, scene

PAIRS = 8


def test_the_engine_on_a_gpu_tries_a_network_and_goes_on_to_the_same_bytes() -> None:
    """Torch takes the CPU where there is no card."""
    edits = iter(range(PAIRS))
    original = archive(paired([scene(seed) for seed in range(PAIRS)], lambda picture: edited(picture, next(edits))))
    engine, heard = PairsLut(Place("gpu"), Course(pairs_min=5, folds=2, epochs=6)), Heard()
    outputs, _ = engine.run({"original": original}, {"seed": 7}, heard)
    assert 6 in [facts.get("epoch") for _, facts in heard.told]
    fractions = [fraction for fraction, _ in heard.told]
    assert fractions == sorted(fractions)
    amid = next(saved for saved in heard.saved if saved[:1] != b"{")  # after the fifth epoch
    again, _ = engine.run({"original": original}, {"seed": 7}, Heard(kept=amid))
    assert {role: one.data for role, one in again.items()} == {role: one.data for role, one in outputs.items()}
