"""Where the edit depends on what a picture shows, a network that weighs several LUTs is learnt, and pays."""

from __future__ import annotations

import sys
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from gpu_functions import catalog
from gpu_functions.catalog import choose
from gpu_functions.engine import Facts
from gpu_functions.style import adaptive, bundle, fit, judge, learn, network
from gpu_functions.style.checkpoint import Kept
from gpu_functions.style.grid import Floats
from gpu_functions.style.learn import COURSE, Lessons
from gpu_functions.style.network import Network
from gpu_functions.style.prepare import Prepared
from tests.pixels.gpu_functions.style import looks
from tests.pixels.gpu_functions.style.conftest import Preempted

EPOCHS = 24
SIDE = 192
Taught = tuple[list[Prepared], list[Prepared], Floats, Network]


def scene(seed: int) -> looks.Picture:
    """Fog, or (of odd seeds) a mosaic: of the same random colours."""
    random = np.random.default_rng(seed)
    colours = random.random((12 if seed % 2 else 10,) * 2 + (3,)).astype(np.float32)
    way = cv2.INTER_NEAREST if seed % 2 else cv2.INTER_CUBIC
    wide = cv2.resize(colours, (SIDE, SIDE), interpolation=way)
    return np.asarray(np.rint(np.clip(wide, 0, 1) * 255), np.uint8)


def edited(picture: looks.Picture, seed: int) -> looks.Picture:
    """An editor who treats mosaics otherwise than fog."""
    if not seed % 2:
        return looks.fixed(picture)
    return np.asarray(np.rint(looks.film(picture / 255) ** 1.5 * [0.8, 0.9, 1.0] * 255), np.uint8)


def ready(seed: int) -> Prepared:
    before = scene(seed)
    after = edited(before, seed)
    first, second = (picture.reshape(-1, 3)[::12].astype(np.float32) / np.float32(255) for picture in (before, after))
    samples = fit.Samples(first, second, np.full(len(first), 1 / len(first), np.float32))
    inside = np.ones(before.shape[:2], bool)
    return Prepared(samples, bundle.thumbnail(before), before, after, inside, (f"{seed}", f"{seed}"))


def best_of_fixed(known: list[Prepared], pairs: list[Prepared]) -> float:
    lessons = Lessons(known)
    looked = [lessons.whole(name) for name in learn.FIXED]
    return max(
        float(np.mean([judge.psnr(judge.styled(pair, one.lut(pair)), pair) for pair in pairs])) for one in looked
    )


@pytest.fixture(scope="module")
def taught() -> Taught:
    """24 pairs learnt, 10 that were not, the LUT that it was begun from, and what was learnt."""
    pairs = [ready(seed) for seed in range(34)]
    base = Lessons(pairs[:24]).whole(learn.BEGUN).style.bases[0]
    return pairs[:24], pairs[24:], base, network.learn(base, pairs[:24], 7, EPOCHS)


def test_it_beats_every_fixed_look_on_pictures_that_it_has_not_seen(taught: Taught) -> None:
    known, unseen, _, found = taught
    style = bundle.Style(found.bases, np.ones((33, 33, 33), np.float32))
    ones = np.ones(3)
    reached = [
        judge.psnr(judge.styled(pair, bundle.baked(style, ones, found.weights(pair.thumbnail))), pair)
        for pair in unseen
    ]
    assert np.mean(reached) > best_of_fixed(known, unseen) + learn.EARNED_DB


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("pairs", [16, 23])
def test_it_never_ends_as_one_lut_for_all(taught: Taught, pairs: int, seed: int) -> None:
    """Scores that drift to one end of tanh find no way back: of sets and seeds like these most did."""
    known, unseen, base, _ = taught
    found = network.learn(base, known[:pairs], seed, 12)
    spread = np.array([found.weights(pair.thumbnail) for pair in unseen]).std(0)
    assert spread.max() > 0.2


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(taught: Taught) -> None:
    known, _, base, found = taught
    first, again, other = (network.learn(base, known[:8], seed, 3) for seed in (7, 7, 8))
    assert first.bases.tobytes() == again.bases.tobytes() != other.bases.tobytes()
    assert network.model(first) == network.model(again)
    assert network.model(found) != network.model(first)


def test_the_model_in_the_bundle_computes_what_torch_does(taught: Taught) -> None:
    _, unseen, _, found = taught
    for pair in unseen[:4]:
        gains, weights = adaptive.Predictor(network.model(found)).of(pair.thumbnail)
        assert (gains == 1.0).all()
        assert weights == pytest.approx(found.weights(pair.thumbnail), abs=1e-5)
    assert weights[0] == 1.0


def test_a_training_that_was_interrupted_ends_with_the_same_numbers(taught: Taught) -> None:
    known, _, base, _ = taught
    kept: list[Floats] = []

    def interrupted(state: Floats | None, done: float, told: Facts) -> None:
        if told.get("epoch") == 8:
            raise Preempted
        if state is not None:
            kept.append(state)

    whole = network.learn(base, known[:8], 7, 10)
    with pytest.raises(Preempted):
        network.learn(base, known[:8], 7, 10, watch=interrupted)
    assert len(kept) == 1  # of the fifth epoch
    stored = Kept(of="it")
    stored.networks["0"] = kept[0]
    known_again = Kept.read(stored.write(), "it").networks["0"]
    epochs: list[object] = []
    again = network.learn(
        base, known[:8], 7, 10, kept=known_again, watch=lambda _, __, told: epochs.append(told.get("epoch"))
    )
    assert again.bases.tobytes() == whole.bases.tobytes()
    assert epochs == [6, 7, 8, 9, 10, None]


@pytest.mark.parametrize("spoil", [lambda data: data[:-4], lambda data: data.replace(b"F32", b"F64"), lambda _: b"PK"])
def test_a_checkpoint_of_networks_that_was_tampered_with_is_not_believed(spoil: Callable[[bytes], bytes]) -> None:
    stored = Kept(of="it")
    stored.networks["0"] = np.zeros((5, 8), np.float32)
    assert Kept.read(spoil(stored.write()), "it").networks == {}


def test_a_state_of_another_shape_is_begun_anew(taught: Taught) -> None:
    known, _, base, _ = taught
    wrong = network.learn(base, known[:8], 7, 1, kept=np.zeros((5, 8), np.float32))
    assert wrong.bases.tobytes() == network.learn(base, known[:8], 7, 1).bases.tobytes()


def test_a_network_is_for_large_sets_and_where_torch_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COURSE.is_for(60)
    assert not COURSE.is_for(59)
    monkeypatch.setitem(sys.modules, "torch", None)  # what an image without it finds
    assert not COURSE.is_for(200)
    monkeypatch.setattr(catalog, "find_spec", lambda name: None if name == "torch" else name)
    row = choose("style.train", device="gpu").row
    assert (row.label, row.device) == ("pairs-lut@2", "cpu")


def test_it_is_taken_only_where_it_has_earned_it_as_an_adaptive_look_must() -> None:
    scores = {"closed": 30.0, "stiff": 31.0, "free": 29.0, "adaptive-closed": 20.0}
    assert learn.best(scores | {"network": 33.9}) == "stiff"
    assert learn.best(scores | {"network": 34.0}) == "network"
