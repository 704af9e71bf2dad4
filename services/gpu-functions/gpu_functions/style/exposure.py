"""What an editor does to exposure and white balance before the look, predicted from what the picture shows.

    log2 gains [3] = W [3×5] · statistics [5] + b [3]        18 numbers, learnt with the look itself

The statistics are of linear light: the mean of each channel, the mean of the logarithm of luminance (what is
usual) and its root mean square (what is brightest). As an ONNX model the whole way from thumbnail to gains runs
anywhere without this code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from gpu_functions.style import fit, grid
from gpu_functions.style.bundle import THUMBNAIL
from gpu_functions.style.fit import Doubles, Samples
from gpu_functions.style.grid import Floats

LUMA: Final = (0.2126, 0.7152, 0.0722)  # of linear light, ITU-R BT.709
DARK: Final = 1e-3  # ten stops below white: darker than this is noise
STOPS_MAX: Final = 3.0
RIDGE: Final = 1e-3  # on W, beside the mean squared error in shares of its start
ROUNDS: Final = 10
SAMPLES: Final = 1200  # of a pair: 18 numbers need no more
OPSET: Final = 17
IR_VERSION: Final = 8


@dataclass(frozen=True, slots=True)
class Exposure:
    """`weights` 3×5 and `bias` 3, in stops. What `gains` gives are factors on linear light."""

    weights: Doubles
    bias: Doubles

    def gains(self, statistics: Doubles) -> Floats:
        """For statistics [5] or [B, 5]: [3] or [B, 3]."""
        return np.asarray(2.0 ** np.clip(statistics @ self.weights.T + self.bias, -STOPS_MAX, STOPS_MAX), np.float32)


def statistics(thumbnail: Floats) -> Doubles:
    """The five statistics of a thumbnail [3, H, W] in stops."""
    light = grid.to_light(thumbnail).astype(np.float64).reshape(3, -1)
    luminance = np.tensordot(LUMA, light, 1)
    means = np.log2(light.mean(axis=1) + DARK)
    return np.array([*means, np.log2(luminance + DARK).mean(), np.log2(np.sqrt((luminance**2).mean()) + DARK)])


def learn(shown: Sequence[Doubles], samples: Sequence[Samples]) -> Exposure:
    """The gains that let one polynomial explain all pairs best: Levenberg-Marquardt on W and b, the polynomial anew
    after each step. `shown` are the statistics of each pair's picture before.

    Begins where the mean light after would be explained by the gains alone.
    """
    few = [_few(one) for one in samples]
    facts = np.column_stack([np.array(shown), np.ones(len(shown))])
    centre = facts[:, :5].mean(axis=0)
    facts[:, :5] -= centre
    lights = [grid.to_light(one.before).astype(np.float64) for one in few]
    jump = np.array([_stops(one.after) - _stops(one.before) for one in few])
    ridge = np.diag([RIDGE] * 5 + [0.0])
    solution = np.linalg.solve(
        facts.T @ facts / len(few) + 20 * ridge + 1e-9 * np.eye(6), facts.T @ (jump - jump.mean(axis=0)) / len(few)
    ).T
    best, damping = _Try(solution, facts, lights, few), 1e-3
    for _ in range(ROUNDS):
        square, slope = best.normal()
        penal = np.kron(np.eye(3), ridge) * best.start
        step = np.linalg.solve(
            square + penal + damping * np.diag(np.diag(square) + 1e-9), slope - penal @ best.solution.ravel()
        )
        moved = best.solution + step.reshape(3, 6)
        moved[:, 5] -= moved[:, 5].mean()  # brightness that all pairs share is the look's
        tried = _Try(moved, facts, lights, few)
        if tried.loss < best.loss:
            best, damping = tried, damping / 4
        else:
            damping *= 8
    weights = best.solution[:, :5]
    return Exposure(weights, best.solution[:, 5] - weights @ centre)


class _Try:
    """One W and b, the polynomial that fits them, and what is left unexplained."""

    def __init__(self, solution: Doubles, facts: Doubles, lights: Sequence[Doubles], few: Sequence[Samples]) -> None:
        self.solution, self._facts, self._few = solution, facts, few
        stops = np.clip(facts @ solution.T, -STOPS_MAX, STOPS_MAX)
        self._light = [light * 2.0**stop for light, stop in zip(lights, stops, strict=True)]
        self._colours = [grid.from_light(light).astype(np.float64) for light in self._light]
        terms = [fit.monomials(colours) for colours in self._colours]
        square = sum(term.T @ term / len(term) for term in terms) / len(terms)
        right = sum(t.T @ (s.after - c) / len(t) for t, s, c in zip(terms, few, self._colours, strict=True)) / len(
            terms
        )
        self._shifts = np.linalg.solve(square + fit.RIDGE * np.eye(20), right)
        self._left = [s.after - c - t @ self._shifts for t, s, c in zip(terms, few, self._colours, strict=True)]
        self.start = float(np.mean([((s.after - s.before) ** 2).mean() for s in few]))
        error = float(np.mean([(left**2).sum(axis=1).mean() for left in self._left]))
        self.loss = error + RIDGE * self.start * float((solution[:, :5] ** 2).sum())

    def normal(self) -> tuple[Doubles, Doubles]:
        """Gauss-Newton's 18×18 matrix and its right side, per mean squared error."""
        square, slope = np.zeros((18, 18)), np.zeros(18)
        for fact, light, colours, left in zip(self._facts, self._light, self._colours, self._left, strict=True):
            brighter = grid.from_light(light * 2.0**0.05).astype(np.float64)
            turn = np.empty((len(left), 3, 3))  # [pixel, output, channel whose gain moves]
            for channel in range(3):
                pushed = colours.copy()
                pushed[:, channel] = brighter[:, channel]
                moved = pushed - colours + (fit.monomials(pushed) - fit.monomials(colours)) @ self._shifts
                turn[:, :, channel] = moved / 0.05
            one = np.einsum("pok,pol->kl", turn, turn) / len(left)
            side = np.einsum("pok,po->k", turn, left) / len(left)
            square += np.kron(one, np.outer(fact, fact)) / len(self._few)
            slope += np.kron(side, fact) / len(self._few)
        return square, slope


def model(exposure: Exposure) -> bytes:
    """The ONNX model: `thumbnail` float32 [B, 3, 256, 256] -> `gains` [B, 3], `weights` [B, 1] (all 1)."""
    numbers: dict[str, npt.ArrayLike] = {
        "knee": np.float32(0.04045), "slope": np.float32(1 / 12.92), "offset": np.float32(0.055),
        "scale": np.float32(1 / 1.055), "gamma": np.float32(2.4), "dark": np.float32(DARK),
        "luma": np.array(LUMA, np.float32).reshape(1, 3, 1, 1), "per_stop": np.float32(1 / np.log(2.0)),
        "two": np.float32(2.0), "zero": np.zeros((1, 1), np.float32), "one": np.ones((1, 1), np.float32),
        "low": np.float32(-STOPS_MAX), "high": np.float32(STOPS_MAX), "channel": np.array([1], np.int64),
        "exposure.weights": exposure.weights.astype(np.float32), "exposure.bias": exposure.bias.astype(np.float32),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Less", ["thumbnail", "knee"], ["is_dark"]),
        node("Mul", ["thumbnail", "slope"], ["straight"]),
        node("Add", ["thumbnail", "offset"], ["lifted"]),
        node("Mul", ["lifted", "scale"], ["base"]),
        node("Pow", ["base", "gamma"], ["curved"]),
        node("Where", ["is_dark", "straight", "curved"], ["light"]),
        node("ReduceMean", ["light"], ["means"], axes=[2, 3], keepdims=0),
        *_stops_of("means", "stops"),
        node("Mul", ["light", "luma"], ["shares"]),
        node("ReduceSum", ["shares", "channel"], ["luminance"], keepdims=0),
        *_stops_of("luminance", "tones"),
        node("ReduceMean", ["tones"], ["usual"], axes=[1, 2], keepdims=0),
        node("Unsqueeze", ["usual", "channel"], ["usual_column"]),
        node("Mul", ["luminance", "luminance"], ["energy"]),
        node("ReduceMean", ["energy"], ["power"], axes=[1, 2], keepdims=0),
        node("Sqrt", ["power"], ["root"]),
        *_stops_of("root", "bright"),
        node("Unsqueeze", ["bright", "channel"], ["bright_column"]),
        node("Concat", ["stops", "usual_column", "bright_column"], ["statistics"], axis=1),
        node("Gemm", ["statistics", "exposure.weights", "exposure.bias"], ["wanted"], transB=1),
        node("Clip", ["wanted", "low", "high"], ["held"]),
        node("Pow", ["two", "held"], ["gains"]),
        node("Mul", ["usual_column", "zero"], ["none"]),
        node("Add", ["none", "one"], ["weights"]),
    ]
    return packed_model(nodes, numbers, bases=1)


def packed_model(nodes: list[Any], numbers: dict[str, npt.ArrayLike], bases: int) -> bytes:
    """An ONNX model of a predictor's inputs and outputs; the same parts give the same bytes."""
    shaped = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "predictor",
        [shaped("thumbnail", TensorProto.FLOAT, ["batch", 3, THUMBNAIL, THUMBNAIL])],
        [shaped("gains", TensorProto.FLOAT, ["batch", 3]), shaped("weights", TensorProto.FLOAT, ["batch", bases])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(made.SerializeToString(deterministic=True))


def _stops_of(source: str, target: str) -> list[Any]:
    """log2(source + DARK)."""
    return [
        helper.make_node("Add", [source, "dark"], [f"{target}.raised"]),
        helper.make_node("Log", [f"{target}.raised"], [f"{target}.log"]),
        helper.make_node("Mul", [f"{target}.log", "per_stop"], [target]),
    ]


def _few(samples: Samples) -> Samples:
    every = max(1, len(samples.before) // SAMPLES)
    return Samples(samples.before[::every], samples.after[::every], samples.weights[::every])


def _stops(colours: Floats) -> Doubles:
    return np.asarray(np.log2(grid.to_light(colours).mean(axis=0).astype(np.float64) + DARK))
