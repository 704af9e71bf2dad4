"""What the fit must find because the truth is known, and what its predictor says in ONNX as in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from gpu_functions.style import exposure, fit, grid, learn
from gpu_functions.style.exposure import Exposure
from gpu_functions.style.fit import Samples, Sums
from tests.pixels.gpu_functions.style import looks
from tests.pixels.gpu_functions.style.looks import Floats

Look = Callable[[Floats], Floats]


def samples(colours: Floats, look: Look = looks.film) -> Samples:
    after = look(colours.astype(float))
    weights = np.full(len(colours), 1 / len(colours), np.float32)
    return Samples(colours.astype(np.float32), after.astype(np.float32), weights)


def anywhere(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).random((count, 3))


def error_db(rows: Floats, look: Look = looks.film) -> float:
    unseen = anywhere(4000, 99)
    found = grid.read(fit.table(rows), unseen)
    return float(-10 * np.log10(np.mean((found - look(unseen)) ** 2)))


def test_a_cubic_look_is_found_by_the_closed_form() -> None:
    def cubic(c: Floats) -> Floats:
        return 0.1 + 0.7 * c + 0.1 * c**3 + 0.05 * c[:, [1, 2, 0]] * c

    assert error_db(fit.closed(fit.sums(samples(anywhere(2000, 1), cubic))), cubic) > 55  # straight between 33 points


def test_the_residual_bends_where_a_polynomial_cannot() -> None:
    total = fit.sums(samples(anywhere(12_000, 1)))
    base = fit.closed(total)
    assert error_db(fit.bent(total, base, 1e-6)) > error_db(base) + 6


def test_leaving_a_pair_out_is_never_having_had_it() -> None:
    one, two = (fit.sums(samples(anywhere(3000, seed))) for seed in (1, 2))
    left = Sums.of([one, two]) - two
    assert np.allclose(fit.closed(left), fit.closed(one), atol=1e-9)
    assert np.allclose(left.targets, one.targets, atol=1e-12)


def test_a_channel_does_not_fall_while_its_own_input_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few noisy samples: without the term there are steps backwards of 2% and more."""
    colours = anywhere(1500, 3)
    noisy = samples(colours, lambda c: np.clip(c + 0.08 * np.random.default_rng(4).standard_normal(c.shape), 0, 1))
    total = fit.sums(noisy)
    rows = fit.bent(total, fit.closed(total), 1e-6).reshape(33, 33, 33, 3)
    worst = min(float(np.diff(rows[..., channel], axis=channel).min()) for channel in range(3))
    monkeypatch.setattr(fit, "MONOTONE_ROUNDS", 0)  # the same without the second round
    free = fit.bent(total, fit.closed(total), 1e-6).reshape(33, 33, 33, 3)
    before = min(float(np.diff(free[..., channel], axis=channel).min()) for channel in range(3))
    assert worst > before / 2


def test_confidence_is_whole_by_what_was_seen_and_none_far_from_it() -> None:
    dark = fit.confidence(fit.sums(samples(anywhere(5000, 5) * 0.4)))
    assert dark[:12, :12, :12].min() == 1.0
    assert dark[-4:, -4:, -4:].max() == 0.0
    line = dark[np.arange(33), np.arange(33), np.arange(33)]
    assert (np.diff(line) <= 0).all()
    assert np.abs(np.diff(line)).max() < 0.35  # soft: nothing shows where a look ends


def test_what_the_editor_evened_out_is_found_again() -> None:
    """Ten pictures of other brightness, one light after: the gains that are learnt undo the brightness."""
    shown, pairs, stops = [], [], np.linspace(-2, 2, 10)
    for index, stop in enumerate(stops):
        scene = anywhere(4096, index) * 0.8
        picture = looks.from_light(looks.to_light(scene) * 0.25 * 2.0**stop)
        shown.append(exposure.statistics(picture.T.reshape(3, 64, 64).astype(np.float32)))
        edited = looks.film(looks.from_light(looks.to_light(scene) * 0.5)).astype(np.float32)
        pairs.append(replace(samples(picture), after=edited))
    learnt = exposure.learn(shown, pairs)
    gains = np.log2([learnt.gains(one)[1] for one in shown])
    assert np.abs((gains - gains.mean()) - (stops.mean() - stops)).max() < 0.15


def test_the_onnx_model_says_what_numpy_says() -> None:
    random = np.random.default_rng(1)
    wanted = Exposure(random.normal(0, 0.3, (3, 5)), random.normal(0, 0.2, 3))
    model = exposure.model(wanted)
    assert model == exposure.model(wanted)
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    thumbnails = (
        random.random((3, 3, 256, 256), np.float32) * np.array([0.05, 0.5, 1.0], np.float32)[:, None, None, None]
    )
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    gains, weights = session.run(["gains", "weights"], {"thumbnail": thumbnails})
    truth = np.stack([wanted.gains(exposure.statistics(one)) for one in thumbnails])
    assert gains == pytest.approx(truth, rel=2e-4)
    assert (weights == np.ones((3, 1))).all()


@pytest.mark.parametrize(
    ("scores", "way"),
    [
        ({"closed": 36.0, "stiff": 38.0, "free": 37.0, "adaptive-closed": 36.1}, "stiff"),
        ({"closed": 20.0, "stiff": 19.0, "free": 18.0, "adaptive-stiff": 22.9, "adaptive-free": 22.0}, "closed"),
        ({"closed": 20.0, "stiff": 19.0, "free": 18.0, "adaptive-stiff": 22.0, "adaptive-free": 23.1}, "adaptive-free"),
    ],
    ids=["the best fixed one", "adaptivity that gains less than 3 dB is not taken", "what it has earned, it gets"],
)
def test_pairs_left_out_decide(scores: dict[str, float], way: str) -> None:
    assert learn.best(scores) == way
