"""From samples of colours before and after to a LUT: a closed form, then a smooth residual.

The closed form is ridge regression on the 20 monomials of degree three and less in R, G, B: it sees all
colours at once, needs few pairs and bakes to a grid. What it cannot bend to is added on the grid itself:
the smallest smooth change that brings the samples where they belong, by conjugate gradients on the
normal equations of trilinear interpolation (sparse, 27 neighbours per point).

Every sum is kept per pair, so that leaving a pair out is a subtraction and not another reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from gpu_functions.style import grid
from gpu_functions.style.grid import SIZE, Floats

Doubles = npt.NDArray[np.float64]

RIDGE: Final = 1e-6  # of a mean square: pulls the polynomial to the identity where pairs show nothing
SMALL: Final = 1e-8  # weight of the residual's own square, beside the mean squared error: unseen points keep the base
MONOTONE: Final = 1e-4  # weight of squared steps backwards of a channel along its own axis
MONOTONE_ROUNDS: Final = 1
STEPS_MAX: Final = 25
STEPS_COARSE: Final = 80
TOLERANCE: Final = 1e-3  # of the right side's norm: below what 8 bits can show
SEEN_SHARE: Final = 1e-5  # of a pair's pixels, on average, that make a grid point seen
SURE: Final = 3.0  # grid points (of 33) from a seen one up to which a colour is known,
UNSURE: Final = 12.0  # and from which it is not


@dataclass(frozen=True, slots=True)
class Samples:
    """Colours of one pair: `before` and `after` float32 [M, 3] in 0..1, `weights` float32 [M] of sum 1."""

    before: Floats
    after: Floats
    weights: Floats


@dataclass(frozen=True, slots=True)
class Sums:
    """What `pairs` pairs add to the normal equations; every pair counts the same. N³ is 35 937.

    `squares` 20×20 and `products` 20×3 of the monomials and what is to be added to each colour; `points` N³×N³ and
    `targets` N³×3 of the trilinear weights and the colours after; `seen` N³: the share of pixels at a point.
    """

    pairs: int
    squares: Doubles
    products: Doubles
    points: sparse.csr_matrix
    targets: Doubles
    seen: Doubles

    def __sub__(self, other: Sums) -> Sums:
        """Without the pairs of `other`."""
        return Sums(
            self.pairs - other.pairs, *(mine - its for mine, its in zip(self._parts(), other._parts(), strict=True))
        )

    def _parts(self) -> tuple[Any, ...]:
        return self.squares, self.products, self.points, self.targets, self.seen

    @staticmethod
    def of(parts: Iterable[Sums]) -> Sums:
        """All of them together."""
        parts = list(parts)
        added = [sum(column[1:], column[0]) for column in zip(*(part._parts() for part in parts), strict=True)]
        return Sums(sum(part.pairs for part in parts), *added)


def sums(samples: Samples, gains: npt.NDArray[Any] | None = None) -> Sums:
    """The sums of one pair, whose light is multiplied by `gains` [3] before it meets the LUT."""
    before = samples.before if gains is None else grid.from_light(grid.to_light(samples.before) * gains)
    terms, weight = monomials(before), samples.weights.astype(np.float64)[:, None]
    points, near = grid.corners(before)
    count = len(before)
    rows = sparse.csr_matrix(
        (near.ravel().astype(np.float64), points.ravel(), np.arange(0, 8 * count + 1, 8)), (count, SIZE**3)
    )
    weighted = rows.multiply(weight).tocsr()
    return Sums(
        pairs=1,
        squares=terms.T @ (terms * weight),
        products=terms.T @ ((samples.after - before) * weight),
        points=(weighted.T @ rows).tocsr(),
        targets=weighted.T @ samples.after.astype(np.float64),
        seen=np.asarray(weighted.sum(axis=0)).ravel(),
    )


def closed(total: Sums) -> Doubles:
    """The polynomial, baked: N³×3."""
    shifts = np.linalg.solve(total.squares / total.pairs + RIDGE * np.eye(20), total.products / total.pairs)
    return _identity() + _grid_terms() @ shifts


def bent(total: Sums, base: Doubles, smooth: float) -> Doubles:
    """`base` and the residual that the samples ask for, N³×3; a smaller `smooth` follows them more closely.

    Steps backwards that come out are taken back in a second round. Of pairs left out nothing may be known: a start
    from the solution of all pairs would be quicker, and would tell of them.
    """
    system = (total.points / total.pairs + smooth * _roughness() + SMALL * sparse.identity(SIZE**3)).tocsr()
    wanted = (total.targets - total.points @ base) / total.pairs
    residual = _coarse(system, wanted)
    held = np.zeros((3, SIZE, SIZE, SIZE), bool)
    for _ in range(1 + MONOTONE_ROUNDS):
        pulled = partial(_pulled, system, held)
        residual = _solved(pulled, wanted - _backwards(base, held), residual, system.diagonal(), STEPS_MAX)
        back = _steps_back(base + residual)
        if not (back & ~held).any():
            break
        held = held | back
    return base + residual


def table(rows: Doubles) -> Floats:
    """N³×3 as a grid in 0..1."""
    return np.clip(rows, 0.0, 1.0).astype(np.float32).reshape(SIZE, SIZE, SIZE, 3)


def confidence(total: Sums) -> Floats:
    """How well each grid point is known, 0..1: 1 by what the pairs showed, falling softly with the distance from it."""
    seen = (total.seen / total.pairs > SEEN_SHARE).reshape(SIZE, SIZE, SIZE)
    away = ndimage.distance_transform_edt(~seen)
    near = np.clip((UNSURE - away) / (UNSURE - SURE), 0.0, 1.0)
    return np.asarray(near * near * (3 - 2 * near), np.float32)


def monomials(colours: npt.NDArray[Any]) -> Doubles:
    """The 20 monomials of degree 0..3 of M×3 colours: M×20."""
    r, g, b = np.asarray(colours, np.float64).T
    one = np.ones_like(r)
    square = [r * r, g * g, b * b, r * g, r * b, g * b]
    cubic = [r**3, g**3, b**3, r * r * g, r * r * b, g * g * r, g * g * b, b * b * r, b * b * g, r * g * b]
    return np.stack([one, r, g, b, *square, *cubic], axis=1)


def _coarse(system: sparse.csr_matrix, wanted: Doubles) -> Doubles:
    """The solution on every second grid point, between which it is straight: what the fine grid is slow to find."""
    up = _upward()
    small = (up.T @ system @ up).tocsr()
    right = up.T @ wanted
    return np.asarray(up @ _solved(lambda x: small @ x, right, np.zeros_like(right), small.diagonal(), STEPS_COARSE))


def _pulled(system: sparse.csr_matrix, held: npt.NDArray[np.bool_], rows: Doubles) -> Doubles:
    return np.asarray(system @ rows + _backwards(rows, held))


def _solved(
    apply: Callable[[Doubles], Doubles], right: Doubles, start: Doubles, diagonal: Doubles, steps_max: int
) -> Doubles:
    """Preconditioned conjugate gradients, all three channels at once: each product reads the matrix once."""
    x, scale = start, 1.0 / diagonal[:, None]
    left = right - apply(x)
    ahead = scaled = scale * left
    energy = _dots(left, scaled)
    goal = TOLERANCE**2 * _dots(right, right)
    for _ in range(steps_max):
        if (_dots(left, left) <= goal).all():
            break
        pushed = apply(ahead)
        step = energy / np.maximum(_dots(ahead, pushed), 1e-300)
        x, left = x + step * ahead, left - step * pushed
        scaled = scale * left
        before, energy = energy, _dots(left, scaled)
        ahead = scaled + energy / np.maximum(before, 1e-300) * ahead
    return x


def _dots(a: Doubles, b: Doubles) -> Doubles:
    """The dot product of each column; einsum, because sums over the long axis of narrow arrays are slow."""
    return np.asarray(np.einsum("nc,nc->c", a, b))


def _steps_back(rows: Doubles) -> npt.NDArray[np.bool_]:
    """Where a channel falls while its own input rises: [channel][r][g][b], marked at the lower point."""
    cube = rows.reshape(SIZE, SIZE, SIZE, 3)
    found = np.zeros((3, SIZE, SIZE, SIZE), bool)
    for channel in range(3):
        steps = np.diff(cube[..., channel], axis=channel)
        found[channel][_but_last(channel)] = steps < 0.0
    return found


def _backwards(rows: Doubles, held: npt.NDArray[np.bool_]) -> Doubles:
    """The gradient of the squared steps that are held at zero."""
    cube, pull = rows.reshape(SIZE, SIZE, SIZE, 3), np.zeros((SIZE, SIZE, SIZE, 3))
    for channel in range(3):
        if held[channel].any():
            steps = MONOTONE * np.diff(cube[..., channel], axis=channel) * held[channel][_but_last(channel)]
            pull[..., channel][_but_last(channel)] -= steps
            pull[..., channel][_but_first(channel)] += steps
    return pull.reshape(-1, 3)


def _but_last(axis: int) -> tuple[slice, ...]:
    return tuple(slice(0, -1) if one == axis else slice(None) for one in range(3))


def _but_first(axis: int) -> tuple[slice, ...]:
    return tuple(slice(1, None) if one == axis else slice(None) for one in range(3))


@cache
def _identity() -> Doubles:
    return grid.identity().reshape(-1, 3).astype(np.float64)


@cache
def _grid_terms() -> Doubles:
    return monomials(_identity())


@cache
def _roughness() -> sparse.csr_matrix:
    """The sum of all squared second differences along the axes of a grid, as a quadratic form: N³×N³."""
    one = sparse.identity(SIZE)
    twice = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], (SIZE - 2, SIZE))
    r, g, b = (_along(*parts) for parts in ((twice, one, one), (one, twice, one), (one, one, twice)))
    return (r.T @ r + g.T @ g + b.T @ b).tocsr()


@cache
def _upward() -> sparse.csr_matrix:
    """From a grid of every second point to the whole one, trilinear: N³×((N+1)/2)³."""
    half = SIZE // 2 + 1
    steps = np.arange(SIZE)
    low = np.minimum(steps // 2, half - 2)
    share = steps / 2 - low
    line = sparse.csr_matrix(
        (np.concatenate([1 - share, share]), (np.tile(steps, 2), np.concatenate([low, low + 1]))), (SIZE, half)
    )
    return _along(line, line, line)


def _along(r: sparse.spmatrix, g: sparse.spmatrix, b: sparse.spmatrix) -> sparse.csr_matrix:
    """One operator for each axis of the grid, as one for all its points."""
    return sparse.kron(sparse.kron(r, g), b).tocsr()
