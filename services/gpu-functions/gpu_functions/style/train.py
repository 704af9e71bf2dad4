"""The engine `pairs-lut`: learns a photographer's look from pairs of pictures before and after an edit.

    read and lay on each other -> closed form (a preview is shown) -> every way, without each pair in turn
    -> the way that is best on pairs left out -> its figures beside the baselines; the gate -> the look of all pairs

Each step is a function of the pairs, the seed and the steps before, so that what a checkpoint holds (how pairs
lie on each other, scores, figures) replaces work and changes nothing: resumed or not, the same bytes come out.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from pydantic import BaseModel, Field, JsonValue

from contracts.errors import error
from gpu_functions.engine import ALONE, OWN_CPU, Facts, Output, Place, Work, input_of
from gpu_functions.style import bundle, cube, exposure, judge, learn, sheet
from gpu_functions.style.align import Found
from gpu_functions.style.checkpoint import Kept, Lying
from gpu_functions.style.grid import Floats
from gpu_functions.style.learn import ADAPTIVE, COURSE, FIXED, FOLDS_MAX, NETWORK, Course, Learnt, Lessons
from gpu_functions.style.pairs import Archive, Pair
from gpu_functions.style.prepare import Prepared, prepare

if TYPE_CHECKING:
    from gpu_functions.style.network import Network

TRAINER: Final = "pairs-lut@2"
PAIRS_MIN: Final = 5
SHOWN: Final = 3  # pairs of the contact sheet
THREADS_MAX: Final = {"cpu": 2, "gpu": 8}  # cores that one training may take: beside a card nobody else wants them
PREPARED: Final = 0.4  # of the whole, when all pairs are read; then all ways tried, the adaptive ones, all judged
TRIED: Final = 0.6
NETWORKS: Final = 0.7  # where networks begin, if there are any
SCORED: Final = 0.85
JUDGED: Final = 0.97
T = TypeVar("T")
R = TypeVar("R")


class TrainParameters(BaseModel):
    """The same `seed` and pairs give the same style, bit for bit."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1)


class PairsLut:
    """`original` (an archive of pairs) -> `style`, `cube`, `preview`, `report`."""

    def __init__(self, place: Place = OWN_CPU, course: Course = COURSE) -> None:
        """Nothing to load. On a "gpu" a network is taught there, if the set is one for a network."""
        self._place, self._course = place, course

    def run(
        self, inputs: Mapping[str, bytes], parameters: Mapping[str, JsonValue], work: Work = ALONE
    ) -> tuple[dict[str, Output], Facts]:
        """See Engine. Raises PAIRS_INVALID, TOO_FEW_PAIRS, STYLE_NOT_LEARNT."""
        seed = TrainParameters.model_validate(parameters).seed
        return _Training(input_of(inputs, "original"), seed, work, self._place.device, self._course).run()


class _Training:
    def __init__(self, archive: bytes, seed: int, work: Work, device: str, course: Course) -> None:
        self._started = time.monotonic()
        self._archive, self._seed, self._work = Archive(archive), seed, work
        self._device, self._course = device, course
        of = hashlib.sha256(f"{TRAINER} {device} {seed} {hashlib.sha256(archive).hexdigest()}".encode()).hexdigest()[
            :40
        ]
        self._kept = Kept.read(work.checkpoint(), of)
        self._step = 0
        self._told: Facts = {}
        self._rejected: dict[int, str] = {}  # by the index of the pair in the order of names
        self._used: list[int] = []
        self._span = (0.0, 1.0)  # of the whole, that a network's training takes

    def run(self) -> tuple[dict[str, Output], Facts]:
        """All steps, in order. Raises TOO_FEW_PAIRS, STYLE_NOT_LEARNT."""
        pairs = self._prepared()
        large = self._course.is_for(len(pairs))
        lessons = Lessons(pairs, self._course.folds if large else FOLDS_MAX, self._taught)
        first = lessons.whole("closed")
        self._work.show("preview", sheet.sheet([(pair, first.lut(pair)) for pair in pairs[:SHOWN]]))
        scores = self._scored(lessons, large)
        way = learn.best(scores)
        rows = self._judged(lessons, way)
        figures = judge.mean(list(rows.values()))
        if figures["psnr"] < figures["psnr_histogram"]:
            raise error("STYLE_NOT_LEARNT", _gate(figures))
        self._span = (JUDGED, 1.0)
        learnt = lessons.whole(way)
        metrics: Facts = {**figures, "pairs": len(pairs), "ways": {name: round(db, 3) for name, db in scores.items()}}
        style = self._style(learnt, way, pairs, metrics)
        outputs = {
            "style": Output(bundle.write(style), "application/octet-stream"),
            "cube": Output(cube.write(_mean_lut(learnt, pairs), "Safelight style"), "application/octet-stream"),
            "preview": sheet.sheet([(pairs[index], self._held_out(lessons, way, index)) for index in range(SHOWN)]),
            "report": self._report(style, rows),
        }
        self._tell(1.0, {})
        return outputs, self._facts(style, figures)

    def _prepared(self) -> list[Prepared]:
        """The pairs that can be learnt from. Raises TOO_FEW_PAIRS."""
        listed = list(enumerate(self._archive.pairs))
        found: list[Prepared] = []
        known: set[str] = set()
        for (index, _), result in zip(listed, self._at_once(self._prepare, listed), strict=True):
            if isinstance(result, str):
                self._kept.lying[str(index)] = self._rejected[index] = result
            elif result[0].hashes[0] in known:
                self._rejected[index] = "duplicate"
            else:
                found.append(result[0])
                known.add(result[0].hashes[0])
                self._used.append(index)
                self._kept.lying[str(index)] = Lying.of(result[1])
            self._advance((index + 1) / len(listed) * PREPARED, {"pairs_used": len(found)})
        if len(found) < PAIRS_MIN:
            raise error("TOO_FEW_PAIRS", self._too_few())
        return found

    def _prepare(self, numbered: tuple[int, Pair]) -> tuple[Prepared, Found] | str:
        index, pair = numbered
        kept = self._kept.lying.get(str(index))
        if isinstance(kept, str):
            return kept
        return prepare(self._archive, pair, kept.found() if kept else None, self._seed + index)

    def _scored(self, lessons: Lessons, large: bool) -> dict[str, float]:
        """Per way the mean PSNR over the folds; adaptive ways are tried where their closed form gives hope, a network
        where the set is large and the first fold gives it.
        """
        names = [*FIXED, "adaptive-closed"]
        self._folds(lessons, names, PREPARED, TRIED)
        means = self._mean_scores(names, len(lessons.folds))
        if learn.is_hopeful(means):
            names += ADAPTIVE
            self._folds(lessons, names, TRIED, NETWORKS if large else SCORED)
        if large and self._networks(lessons):
            names.append(NETWORK)
        return self._mean_scores(names, len(lessons.folds))

    def _folds(self, lessons: Lessons, names: Sequence[str], start: float, end: float) -> None:
        """Score the ways of `names` on each fold where they are not scored yet."""

        def score(fold: int) -> dict[str, float]:
            known = self._kept.scores.get(str(fold), {})
            return known | lessons.scores([name for name in names if name not in known], fold)

        folds = range(len(lessons.folds))
        for fold, scores in zip(folds, self._at_once(score, folds), strict=True):
            self._kept.scores[str(fold)] = scores
            best = max(self._mean_scores(names, fold + 1).values())
            told: Facts = {"loss": round(10 ** (-best / 10), 8), "psnr_held_out": round(best, 3)}
            self._advance(start + (end - start) * (fold + 1) / len(folds), told)

    def _networks(self, lessons: Lessons) -> bool:
        """Teach a network on each fold, one after the other; False when the first says that it is in vain."""
        for fold in range(len(lessons.folds)):
            each = (SCORED - NETWORKS) / len(lessons.folds)
            self._span = (NETWORKS + each * fold, NETWORKS + each * (fold + 1))
            scores = self._kept.scores[str(fold)]
            lessons.without(NETWORK, fold)
            if NETWORK not in scores:
                scores |= lessons.scores([NETWORK], fold)
            self._advance(self._span[1], {})
            if not learn.is_promising(scores) and fold == 0:
                return False
        return True

    def _taught(self, name: str, base: Floats, pairs: Sequence[Prepared]) -> Network:
        """See learn.Teach: torch is not imported before it is needed."""
        from gpu_functions.style import network

        def watch(state: Floats | None, done: float, told: Facts) -> None:
            fraction = self._span[0] + (self._span[1] - self._span[0]) * done * 0.99
            if state is not None:
                self._kept.networks[name] = state
                self._work.save(self._kept.write())
            self._tell(fraction, told)

        known = self._kept.networks.get(name)
        return network.learn(base, pairs, self._seed, self._course.epochs, self._device, known, watch)

    def _mean_scores(self, names: Sequence[str], folds: int) -> dict[str, float]:
        rows: list[dict[str, float]] = [self._kept.scores[str(fold)] for fold in range(folds)]
        return {name: float(np.mean([row[name] for row in rows])) for name in names}

    def _judged(self, lessons: Lessons, way: str) -> dict[int, dict[str, float]]:
        """Every figure of each pair, by the look that was learnt without it."""

        def judged(fold: int) -> list[dict[str, float]]:
            left_out = lessons.folds[fold]
            kept = [self._kept.figures.get(str(index), {}) for index in left_out]
            if all(row.keys() == judge.FIGURES for row in kept):
                return kept
            learnt = lessons.without(way, fold)
            others = [pair for index, pair in enumerate(lessons.pairs) if index not in left_out]
            pairs = [lessons.pairs[index] for index in left_out]
            return [judge.measured(pair, learnt.lut(pair), others) for pair in pairs]

        for fold, rows in enumerate(self._at_once(judged, range(len(lessons.folds)))):
            self._kept.figures |= {str(index): row for index, row in zip(lessons.folds[fold], rows, strict=True)}
            self._advance(SCORED + (JUDGED - SCORED) * (fold + 1) / len(lessons.folds), {})
        return {index: self._kept.figures[str(index)] for index in range(len(lessons.pairs))}

    def _held_out(self, lessons: Lessons, way: str, index: int) -> cube.Cube:
        fold = next(place for place, fold in enumerate(lessons.folds) if index in fold)
        return lessons.without(way, fold).lut(lessons.pairs[index])

    def _style(self, learnt: Learnt, way: str, pairs: Sequence[Prepared], metrics: Facts) -> bundle.Style:
        provenance: Facts = {
            "trainer": TRAINER,
            "seed": self._seed,
            "kind": learnt.kind,
            "way": way,
            "pairs": [{"before": pair.hashes[0], "after": pair.hashes[1]} for pair in pairs],
        }
        predictor, network = None, dict[str, Floats]()
        if learnt.exposure is not None:
            predictor = exposure.model(learnt.exposure)
            network = {
                "exposure.weights": learnt.exposure.weights.astype(np.float32),
                "exposure.bias": learnt.exposure.bias.astype(np.float32),
            }
        if learnt.network is not None:
            from gpu_functions.style import network as networks

            predictor, network = networks.model(learnt.network), learnt.network.tensors
        return bundle.Style(learnt.style.bases, learnt.style.confidence, predictor, network, metrics, provenance)

    def _report(self, style: bundle.Style, rows: Mapping[int, Mapping[str, float]]) -> Output:
        """The one output that names files, for the person whose files they are."""
        stems = [pair.stem for pair in self._archive.pairs]
        used = [{"name": stems[index], **rows[place]} for place, index in enumerate(self._used)]
        rejected = [{"name": stems[index], "reason": self._rejected[index]} for index in sorted(self._rejected)]
        told = {"metrics": style.metrics, "provenance": style.provenance, "pairs": used, "rejected": rejected}
        return Output(json.dumps(told, indent=1, sort_keys=True).encode(), "application/json")

    def _facts(self, style: bundle.Style, figures: Mapping[str, float]) -> Facts:
        told = ("psnr", "psnr_identity", "psnr_histogram", "ssim", "de2000_mean", "de2000_p95")
        return {
            "kind": style.provenance["kind"],
            "pairs_used": len(self._used),
            "pairs_rejected": len(self._rejected),
            **{name: figures[name] for name in told},
            "seconds": round(time.monotonic() - self._started, 3),
        }

    def _at_once(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """`function` of each item, in their order, some at a time where there are cores: numpy lets go of the lock."""
        with ThreadPoolExecutor(min(THREADS_MAX[self._device], os.cpu_count() or 1)) as pool:
            waiting = [pool.submit(function, item) for item in items]
            try:
                for one in waiting:
                    yield one.result()
            finally:
                for one in waiting:
                    one.cancel()

    def _advance(self, fraction: float, facts: Facts) -> None:
        self._work.save(self._kept.write())
        self._tell(fraction, facts)

    def _tell(self, fraction: float, facts: Facts) -> None:
        self._step += 1
        self._told |= facts
        gone = time.monotonic() - self._started
        left: Facts = {"step": self._step, "eta_s": round(gone / fraction * (1 - fraction), 1)}
        self._work.tell(fraction, self._told | left)

    def _too_few(self) -> str:
        """Pairs are named by their number in the order of names: a name is the user's."""
        why = ", ".join(f"pair {index + 1}: {reason}" for index, reason in sorted(self._rejected.items()))
        return f"{len(self._used)} of {len(self._archive.pairs)} pairs can be learnt from" + (f"; {why}" if why else "")


def _mean_lut(learnt: Learnt, pairs: Sequence[Prepared]) -> cube.Cube:
    """The look as one LUT for tools that know no predictor: the mean of what the pairs' pictures are given."""
    if learnt.kind == "fixed":
        return learnt.lut(pairs[0])
    tables = np.stack([learnt.lut(pair).table for pair in pairs])
    return cube.Cube(tables.mean(axis=0, dtype=np.float64).astype(np.float32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _gate(figures: Mapping[str, float]) -> str:
    return (
        f"on pairs that it had not seen it reaches {figures['psnr']:.1f} dB, histogram matching"
        f" {figures['psnr_histogram']:.1f} dB and the untouched picture {figures['psnr_identity']:.1f} dB"
    )
