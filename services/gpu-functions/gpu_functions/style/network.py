"""Several LUTs and a small network that weighs them by what a picture shows, for sets of many pairs.

    thumbnail 256² -> mean of 4×4 -> three convolutions -> mean -> tanh: K-1 weights in -1..1; the first is 1
    colour after = fitted LUT + the weighted sum of K residuals, each on every second grid point

After Zeng et al., "Learning Image-adaptive 3D LUTs for High Performance Photo Enhancement in Real-time" (TPAMI
2020), with weights that are bounded: what comes out lies between looks that were learnt, whatever the picture. All
numbers are one vector, so that what a checkpoint holds is that vector, Adam's two and the best so far. With 60 000
numbers and pictures of 64 pixels, narrow types have nothing to win on a GPU: it is float32 everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from onnx import helper
from torch.nn import functional

from gpu_functions.engine import Facts
from gpu_functions.style import exposure, fit, grid
from gpu_functions.style.grid import SIZE, Floats
from gpu_functions.style.prepare import Prepared

BASES: Final = 3
HALF: Final = SIZE // 2 + 1  # points a side of a residual
POOLED: Final = 4  # pixels of the thumbnail in one that is looked at
SAMPLES: Final = 2048  # of a pair
BATCH: Final = 8  # pairs of one step
HELD_OUT: Final = 6  # one pair of so many says when to stop
PATIENCE: Final = 20  # epochs without a better one
RATE: Final = 3e-3
PACE: Final = 0.3  # of the network, beside the residuals
SPREAD: Final = 1.5  # of the scores over all pairs, before tanh: most of its slope is inside
SMOOTH: Final = 3e-5  # of a residual's squared second differences, beside the mean squared error
STEPS: Final = 1e-2  # of squared steps backwards where weights are at their ends: between LUTs that rise all do
KEPT_EVERY: Final = 5  # epochs between two checkpoints
Watch = Callable[[Floats | None, float, Facts], None]  # what to keep, if anything; how far; numbers to tell

# fmt: off
SHAPES: Final[dict[str, tuple[int, ...]]] = {
    "conv1.weight": (16, 3, 3, 3),   "conv1.bias": (16,),
    "conv2.weight": (32, 16, 3, 3),  "conv2.bias": (32,),
    "conv3.weight": (32, 32, 3, 3),  "conv3.bias": (32,),
    "head.weight":  (BASES - 1, 32), "head.bias":  (BASES - 1,),
    "residuals":    (HALF**3, BASES * 3),
}
# fmt: on
NUMBERS: Final = sum(int(np.prod(shape)) for shape in SHAPES.values())
ROWS: Final = 5  # of a state: the numbers, Adam's two moments, the best numbers; epoch, best epoch, its loss


@dataclass(frozen=True, slots=True)
class Network:
    """What was learnt: `bases` float32 [K, 33, 33, 33, 3], and `tensors` of the network that weighs them."""

    bases: Floats
    tensors: dict[str, Floats]

    def weights(self, thumbnail: Floats) -> Floats:
        """The weight of each basis for a thumbnail [3, 256, 256]: [K]."""
        parts = {name: torch.from_numpy(tensor) for name, tensor in self.tensors.items()}
        with torch.inference_mode():
            shares: Floats = _weights(parts, _looked_at(torch.from_numpy(thumbnail)[None]))[0].numpy()
        return shares


def learn(
    base: Floats,
    pairs: Sequence[Prepared],
    seed: int,
    epochs: int,
    device: str = "cpu",
    kept: Floats | None = None,
    watch: Watch = lambda *_: None,
) -> Network:
    """Bases and network together, by Adam, from the fitted LUT `base` on; the same seed gives the same numbers.

    The numbers of the epoch are taken that did best on the pairs held out. `device` is a Place's. `kept` is what
    `watch` was given by this very training, whenever it was interrupted; what is no such thing is ignored.
    """
    where = torch.device("cuda" if device == "gpu" and torch.cuda.is_available() else "cpu")
    with _exact():
        course = _Course(base, pairs, seed, where, kept)
        for epoch in range(course.epoch, epochs):
            if epoch - course.best_epoch > PATIENCE:
                break
            course.step(RATE * (1 - epoch / epochs))
            keeps = course.epoch % KEPT_EVERY == 0 or course.epoch == epochs
            told: Facts = {"loss": round(course.loss, 8), "epoch": course.epoch}
            watch(course.state() if keeps else None, course.epoch / epochs, told)
        watch(course.state(), 1.0, {})
    parts = {name: part.cpu().numpy() for name, part in _parts(course.best).items()}
    residuals = parts.pop("residuals").reshape(HALF, HALF, HALF, BASES * 3)
    spread = grid.read(residuals, grid.identity()).reshape(SIZE, SIZE, SIZE, BASES, 3).transpose(3, 0, 1, 2, 4).copy()
    spread[0] += base
    return Network(np.ascontiguousarray(spread, np.float32), parts)


class _Course:
    """One training between two epochs."""

    def __init__(
        self, base: Floats, pairs: Sequence[Prepared], seed: int, where: torch.device, kept: Floats | None
    ) -> None:
        self._seed, self._where = seed, where
        self._looked_at = torch.cat([_looked_at(torch.from_numpy(pair.thumbnail)[None]) for pair in pairs]).to(where)
        found = [_drawn(base, pair, seed) for pair in pairs]
        self._points, self._near, self._wanted, self._weight = (
            torch.from_numpy(np.stack(column)).to(where) for column in zip(*found, strict=True)
        )
        self._base = torch.from_numpy(np.ascontiguousarray(base[::2, ::2, ::2])).to(where)
        ends = [(1.0, *signs) for signs in product((-1.0, 1.0), repeat=BASES - 1)]
        self._ends = torch.tensor(ends, device=where)  # weights between which all others lie
        drawn = np.random.default_rng(seed).permutation(
            len(pairs)
        )  # not every sixth: a bracket of exposures is periodic
        self._held_out = sorted(drawn[: max(1, len(pairs) // HELD_OUT)].tolist())
        self._taught = [index for index in range(len(pairs)) if index not in self._held_out]
        if kept is None or kept.shape != (ROWS, NUMBERS) or kept.dtype != np.float32:
            kept = np.zeros((ROWS, NUMBERS), np.float32)
            kept[0] = kept[3] = _begun(seed, self._looked_at).numpy()
            kept[4, 2] = 1.0  # of colours in 0..1
        rows = torch.from_numpy(np.array(kept)).to(where)
        self._numbers, self._first, self._second, self.best = rows[0].requires_grad_(), rows[1], rows[2], rows[3]
        self.epoch, self.best_epoch = (int(np.clip(number, 0, 1_000_000)) for number in kept[4, :2])
        self.loss = float(kept[4, 2])
        self._pace = torch.ones(NUMBERS, device=where)
        self._pace[: -(HALF**3) * BASES * 3] = PACE

    def step(self, rate: float) -> None:
        """One epoch: every pair once, in an order of its own, half of the batches mirrored."""
        self._even()
        random = np.random.default_rng([self._seed, self.epoch])
        order = random.permutation(self._taught)
        for batch in np.array_split(order, max(1, len(order) // BATCH)):
            error = self._error(batch, mirrored=bool(random.integers(2)))
            (slope,) = torch.autograd.grad(error, self._numbers)
            self._moved(slope, rate)
        self.epoch += 1
        with torch.no_grad():
            loss = float(self._error(np.array(self._held_out), mirrored=False))
        if loss < self.loss:
            self.loss, self.best_epoch, self.best = loss, self.epoch, self._numbers.detach().clone()

    def _even(self) -> None:
        """Let the scores have the mean 0 and the same spread over all pairs.

        They would otherwise drift to one end of tanh, all alike, from where no slope leads back: five of eight
        trainings ended as one LUT. Nothing is lost by it: what all pictures have in common is the first basis's.
        """
        with torch.no_grad():
            parts = _parts(self._numbers)
            shown = _shown(parts, self._looked_at[torch.tensor(self._taught, device=self._where)])
            weight = parts["head.weight"]
            weight *= SPREAD / ((shown @ weight.T).std(0, correction=0) + 1e-6)[:, None]
            parts["head.bias"].copy_(-(shown @ weight.T).mean(0))

    def state(self) -> Floats:
        """All that it takes to go on from here."""
        rows = torch.stack([self._numbers.detach(), self._first, self._second, self.best]).cpu().numpy()
        last = np.zeros((1, NUMBERS), np.float32)
        last[0, :3] = self.epoch, self.best_epoch, self.loss
        return np.concatenate([rows, last])

    def _error(self, batch: np.ndarray, mirrored: bool) -> torch.Tensor:
        """The mean squared error of these pairs, and what roughness and steps backwards cost."""
        chosen = torch.from_numpy(batch).to(self._where)
        parts, seen = _parts(self._numbers), self._looked_at[chosen]
        shares = _weights(parts, seen.flip(3) if mirrored else seen)
        points, near = self._points[chosen].flatten(0, 1), self._near[chosen].flatten(0, 1)
        shifts = functional.embedding_bag(points, parts["residuals"], per_sample_weights=near, mode="sum")
        mixed = (shifts.view(len(batch), SAMPLES, BASES, 3) * shares[:, None, :, None]).sum(2)
        squared = ((mixed - self._wanted[chosen]) ** 2).mean(2)
        residuals = parts["residuals"].view(HALF, HALF, HALF, BASES, 3)
        looks = self._base[:, :, :, None] + torch.einsum("rgbkc,ek->rgbec", residuals, self._ends)
        rough = sum((residuals.diff(n=2, dim=axis) ** 2).sum() for axis in range(3))
        back = sum((functional.relu(-looks[..., axis].diff(dim=axis)) ** 2).sum() for axis in range(3))
        return (squared * self._weight[chosen]).sum(1).mean() + SMOOTH * rough + STEPS * back

    def _moved(self, slope: torch.Tensor, rate: float) -> None:
        """Adam (Kingma and Ba, 2015); of its two memories' first steps the ratio is right as it is."""
        with torch.no_grad():
            self._first.lerp_(slope, 0.1)
            self._second.lerp_(slope * slope, 0.01)
            self._numbers -= rate * self._pace * self._first / (self._second.sqrt() + 1e-8)


def model(network: Network) -> bytes:
    """The ONNX model: `thumbnail` float32 [B, 3, 256, 256] -> `gains` [B, 3] (all 1), `weights` [B, K]."""
    node = helper.make_node
    nodes = [node("AveragePool", ["thumbnail"], ["small"], kernel_shape=[POOLED] * 2, strides=[POOLED] * 2)]
    nodes += [node("Sub", ["small", "middle"], ["even"]), node("Mul", ["even", "spread"], ["layer0"])]
    for index in (1, 2, 3):
        parts = [f"layer{index - 1}", f"conv{index}.weight", f"conv{index}.bias"]
        nodes.append(node("Conv", parts, [f"sum{index}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(node("Relu", [f"sum{index}"], [f"layer{index}"]))
    nodes += [
        node("ReduceMean", ["layer3"], ["shown"], axes=[2, 3], keepdims=0),
        node("Gemm", ["shown", "head.weight", "head.bias"], ["scores"], transB=1),
        node("Tanh", ["scores"], ["ways"]),
        node("ReduceMean", ["thumbnail"], ["means"], axes=[2, 3], keepdims=0),
        node("Mul", ["means", "zero"], ["none"]),
        node("Add", ["none", "one"], ["gains"]),
        node("Slice", ["gains", "first", "second", "axis"], ["always"]),
        node("Concat", ["always", "ways"], ["weights"], axis=1),
    ]
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    numbers: dict[str, npt.ArrayLike] = {"middle": np.float32(0.5), "spread": np.float32(4.0), "zero": zero, "one": one}
    numbers |= {"first": np.array([0]), "second": np.array([1]), "axis": np.array([1])}
    return exposure.packed_model(nodes, numbers | network.tensors, bases=BASES)


def _parts(numbers: torch.Tensor) -> dict[str, torch.Tensor]:
    """The vector of all numbers as the tensors that it is made of."""
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    return {name: part.view(SHAPES[name]) for name, part in zip(SHAPES, torch.split(numbers, sizes), strict=True)}


def _looked_at(thumbnails: torch.Tensor) -> torch.Tensor:
    return (functional.avg_pool2d(thumbnails, POOLED) - 0.5) * 4.0


def _weights(parts: dict[str, torch.Tensor], looked_at: torch.Tensor) -> torch.Tensor:
    ways = torch.tanh(functional.linear(_shown(parts, looked_at), parts["head.weight"], parts["head.bias"]))
    return torch.cat([torch.ones_like(ways[:, :1]), ways], 1)


def _shown(parts: dict[str, torch.Tensor], layer: torch.Tensor) -> torch.Tensor:
    """What the convolutions see in each picture: [B, 32]."""
    for name in ("conv1", "conv2", "conv3"):
        layer = functional.relu(
            functional.conv2d(layer, parts[f"{name}.weight"], parts[f"{name}.bias"], stride=2, padding=1)
        )
    return layer.mean((2, 3))


def _begun(seed: int, looked_at: torch.Tensor) -> torch.Tensor:
    """Convolutions as He et al. begin them (2015), no residual, and a head that tells these pictures apart.

    Without the last all pictures begin with much the same shares, and one basis is soon given all.
    """
    random = np.random.default_rng(seed)
    parts: dict[str, torch.Tensor] = {}
    for name, shape in SHAPES.items():
        spread = np.sqrt(2.0 / np.prod(shape[1:])) if name.endswith("weight") else 0.0
        parts[name] = torch.from_numpy((random.standard_normal(shape) * spread).astype(np.float32))
    shown = _shown(parts, looked_at.cpu())
    parts["head.weight"] = parts["head.weight"] / (shown.std(0, correction=0) + 1e-3)
    parts["head.bias"] = -parts["head.weight"] @ shown.mean(0)
    return torch.cat([part.flatten() for part in parts.values()])


def _drawn(base: Floats, pair: Prepared, seed: int) -> tuple[np.ndarray, Floats, Floats, Floats]:
    """SAMPLES of a pair: the points of a residual around each and their weights, what the base lacks, its weight."""
    samples: fit.Samples = pair.samples
    chosen = np.random.default_rng(seed).choice(len(samples.before), SAMPLES, replace=len(samples.before) < SAMPLES)
    points, near = grid.corners(samples.before[chosen], HALF)
    lacking = samples.after[chosen] - grid.read(base, samples.before[chosen])
    weights = samples.weights[chosen]
    return points, near, lacking, weights / weights.sum()


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Sums in the same order each time, where torch can; it says so where it cannot."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
