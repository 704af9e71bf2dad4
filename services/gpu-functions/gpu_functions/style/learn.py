"""The ways a look can be learnt, and what each is worth on pairs that it has not seen.

A fixed look is the closed form, or that and a residual, stiff or free. An adaptive one predicts exposure and
white balance first. Each is learnt anew without one pair after the other (of more than 20 pairs: without one of
20 groups), and the mean PSNR of what was left out decides; an adaptive look must gain 3 dB, for where the
editor's exposure has no reason in the picture it does harm. So must several LUTs that a network weighs by what a
picture shows (`network.py`), which are tried beside the others where the set is large and torch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import numpy as np

from gpu_functions.style import exposure, fit, judge
from gpu_functions.style.bundle import Style, baked
from gpu_functions.style.cube import Cube
from gpu_functions.style.exposure import Exposure
from gpu_functions.style.fit import Sums
from gpu_functions.style.grid import Floats
from gpu_functions.style.prepare import Prepared

if TYPE_CHECKING:
    from gpu_functions.style.network import Network

FOLDS_MAX: Final = 20
EARNED_DB: Final = 3.0  # that an adaptive look must gain on pairs left out
HOPEFUL_DB: Final = 0.5  # that its closed form must gain on the fixed one before the rest of it is tried


@dataclass(frozen=True, slots=True)
class Way:
    """How to learn: whether exposure is predicted, and how smooth the residual is (`fit.bent`; None: there is none)."""

    adaptive: bool
    smooth: float | None


# fmt: off
WAYS: Final[dict[str, Way]] = {
    #                      adaptive  smooth
    "closed":          Way(False,    None),
    "stiff":           Way(False,    3e-4),
    "free":            Way(False,    1e-6),
    "adaptive-closed": Way(True,     None),
    "adaptive-stiff":  Way(True,     3e-4),
    "adaptive-free":   Way(True,     1e-6),
}
# fmt: on
FIXED: Final = tuple(name for name, way in WAYS.items() if not way.adaptive)
ADAPTIVE: Final = tuple(name for name, way in WAYS.items() if way.adaptive and way.smooth is not None)
NETWORK: Final = "network"  # bases and their weights, begun from BEGUN
BEGUN: Final = "stiff"  # a free LUT has bent itself to what is not one look: 6 dB less come of it
Teach = Callable[[str, Floats, Sequence[Prepared]], "Network"]  # for a fold's name: from a LUT, by pairs


@dataclass(frozen=True, slots=True)
class Course:
    """How a network is taught: to sets of `pairs_min` and more, of which `folds` groups are left out in turn.

    A network knows thousands of numbers: fewer pictures than 60 are learnt by heart. Each fold trains it anew, so
    that there are five of them and not 20; four fifths of 60 pairs are still more than it needs.
    """

    pairs_min: int = 60
    folds: int = 5
    epochs: int = 80

    def is_for(self, pairs: int) -> bool:
        """Whether a set of so many pairs is taught to a network here."""
        return pairs >= self.pairs_min and find_spec("torch") is not None


COURSE: Final = Course()


@dataclass(frozen=True, slots=True)
class Learnt:
    """A look that was learnt one way: the style without its papers, and what predicts the exposure before it."""

    style: Style
    exposure: Exposure | None
    network: Network | None = None

    @property
    def kind(self) -> str:
        """`fixed`, or what looks at a picture first."""
        return "network" if self.network else "adaptive" if self.exposure else "fixed"

    def lut(self, pair: Prepared) -> Cube:
        """The look for one picture."""
        if self.network is not None:
            return baked(self.style, np.ones(3), self.network.weights(pair.thumbnail))
        gains = np.ones(3) if self.exposure is None else self.exposure.gains(exposure.statistics(pair.thumbnail))
        return baked(self.style, gains, np.ones(1))


class Lessons:
    """A set of pairs to learn from, in whole or without some."""

    def __init__(self, pairs: Sequence[Prepared], folds: int = FOLDS_MAX, teach: Teach | None = None) -> None:
        """Reads every sample once. `teach` learns what the way `network` needs."""
        self.pairs, self._teach = pairs, teach
        self._parts = [fit.sums(pair.samples) for pair in pairs]
        self._total = Sums.of(self._parts)
        self._facts = [exposure.statistics(pair.thumbnail) for pair in pairs]
        self._known: dict[tuple[str, int], Learnt] = {}  # 20 folds of 6 ways are 70 MB
        count = min(len(pairs), folds)
        self.folds = [tuple(range(fold, len(pairs), count)) for fold in range(count)]

    def whole(self, name: str) -> Learnt:
        """The look of all pairs."""
        if name == NETWORK:
            return self._taught("whole", self.whole(BEGUN), self.pairs)
        return self._learnt(WAYS[name], self._total, range(len(self.pairs)))

    def without(self, name: str, fold: int) -> Learnt:
        """The look of all pairs but those of a fold; learnt once."""
        if (name, fold) not in self._known:
            out = self.folds[fold]
            kept = [index for index in range(len(self.pairs)) if index not in out]
            if name == NETWORK:
                begun, pairs = self.without(BEGUN, fold), [self.pairs[index] for index in kept]
                return self._known.setdefault((name, fold), self._taught(str(fold), begun, pairs))
            total = self._total if WAYS[name].adaptive else self._total - Sums.of(self._parts[index] for index in out)
            self._known[name, fold] = self._learnt(WAYS[name], total, kept)
        return self._known[name, fold]

    def scores(self, names: Sequence[str], fold: int) -> dict[str, float]:
        """Per way the mean PSNR of the pairs of a fold, which it was learnt without."""
        found: dict[str, float] = {}
        for name in names:
            learnt = self.without(name, fold)
            of = [judge.psnr(judge.styled(pair, learnt.lut(pair)), pair) for pair in self._of(fold)]
            found[name] = float(np.mean(of))
        return found

    def _taught(self, name: str, begun: Learnt, pairs: Sequence[Prepared]) -> Learnt:
        if self._teach is None:
            raise ValueError("nobody teaches a network")
        found = self._teach(name, begun.style.bases[0], pairs)
        return Learnt(Style(found.bases, begun.style.confidence), None, found)

    def _of(self, fold: int) -> list[Prepared]:
        return [self.pairs[index] for index in self.folds[fold]]

    def _learnt(self, way: Way, total: Sums, kept: Sequence[int]) -> Learnt:
        predicted = None
        if way.adaptive:
            samples = [self.pairs[index].samples for index in kept]
            predicted = exposure.learn([self._facts[index] for index in kept], samples)
            gains = [predicted.gains(self._facts[index]) for index in kept]
            total = Sums.of(fit.sums(one, gain) for one, gain in zip(samples, gains, strict=True))
        rows = fit.closed(total)
        if way.smooth is not None:
            rows = fit.bent(total, rows, way.smooth)
        return Learnt(Style(fit.table(rows)[None], fit.confidence(total)), predicted)


def best(scores: Mapping[str, float]) -> str:
    """The way that is taken, by its mean PSNR on pairs left out: one that looks first only where it has earned it."""
    fixed = max((name for name in scores if name in FIXED), key=lambda name: scores[name])
    looking = (name for name in scores if name in (*ADAPTIVE, NETWORK))
    adaptive = max(looking, key=lambda name: scores[name], default=fixed)
    return adaptive if scores[adaptive] >= scores[fixed] + EARNED_DB else fixed


def is_hopeful(scores: Mapping[str, float]) -> bool:
    """Whether the closed forms say that the rest of an adaptive look is worth learning."""
    return scores["adaptive-closed"] >= scores["closed"] + HOPEFUL_DB


def is_promising(scores: Mapping[str, float]) -> bool:
    """Whether one fold says that a network is worth teaching on the others."""
    return scores[NETWORK] >= max(scores[name] for name in FIXED) + HOPEFUL_DB
