"""Which window of a picture is the better picture: numbers only, no image library.

Every cell of a small grid has an importance: edges, and colours unlike the photo's mean (Achanta 2009), both
counting more near the middle; the faces, when there are any, are one half of it. A window's score adds up, over
the cells inside, importance x how well placed the cell is, and subtracts half the importance left outside:

    placement(u, v) = p(u) p(v)      p(u) = border(u) (0.7 + 0.3 thirds(u))      u, v in 0..1 across the window

border() falls to 0 over the outermost 6 % (what touches a border distracts), thirds() peaks on the lines of the
rule of thirds. Importance sums to 1, so scores of different windows and pictures compare. The scheme follows
smartcrop.js (Jonas Wagner); because p is separable, all windows are scored by two matrix products.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Boxes: TypeAlias = NDArray[np.float64]  # [n, 4]: x, y, width, height, normalised 0..1

CELL: Final = 4  # pixels of the thumbnail along a cell's side: 256 px give 64 cells
BORDER: Final = 0.06  # of the window's side
THIRDS_WIDTH: Final = 0.16  # of the window's side: how far from the line still counts
CENTRE_WIDTH: Final = 0.5  # of the photo's side: people point their cameras at the subject
FACES_SHARE: Final = 0.5  # of all importance
EVEN_SHARE: Final = 0.1  # of the rest, spread evenly, so that one hard edge does not decide alone
LOSS: Final = 0.5  # what a unit of importance left outside costs


def importance(lab: Floats, faces: Boxes) -> Floats:
    """Importance per cell [rows, columns], summing to 1, of a thumbnail in CIELAB [y, x, 3] and the faces on it."""
    light = lab[..., 0]
    across = np.diff(light, axis=1, prepend=light[:, :1])
    down = np.diff(light, axis=0, prepend=light[:1])
    # The root keeps a few hard edges from outweighing a whole textured subject.
    edges = _standing_out(np.sqrt(np.hypot(across, down)))
    colours = _standing_out(np.linalg.norm(lab - lab.mean(axis=(0, 1)), axis=2))
    cells = (1 - EVEN_SHARE) * (_share(edges) + _share(colours)) / 2 + EVEN_SHARE / edges.size
    u, v = _centres(cells.shape[1]), _centres(cells.shape[0])
    seen = _share(cells * np.outer(_bell(v - 0.5, CENTRE_WIDTH), _bell(u - 0.5, CENTRE_WIDTH)))
    if not len(faces):
        return seen
    x, y, w, h = (side[:, np.newaxis] for side in faces.T)
    # A bell over each face: even a face smaller than a cell counts, a larger one more, though not by its area.
    bells_u = _bell(u - x - w / 2, np.maximum(w / 2, 1 / len(u)))
    bells_v = _bell(v - y - h / 2, np.maximum(h / 2, 1 / len(v)))
    return (1 - FACES_SHARE) * seen + FACES_SHARE * _share(np.einsum("nv,nu->vu", bells_v, bells_u))


def scores(cells: Floats, windows: Boxes) -> Floats:
    """The score of each window over the importance `cells`; about 1 at most."""
    x, y, w, h = (side[:, np.newaxis] for side in windows.T)
    u = (_centres(cells.shape[1]) - x) / w
    v = (_centres(cells.shape[0]) - y) / h
    placed = np.einsum("nv,vu,nu->n", _placement(v), cells, _placement(u), optimize=True)
    kept = np.einsum("nv,vu,nu->n", _inside(v), cells, _inside(u), optimize=True)
    # Among equals the middle one, so that a picture without a subject is cut evenly.
    aside = np.abs(x + w / 2 - 0.5)[:, 0] + np.abs(y + h / 2 - 0.5)[:, 0]
    result: Floats = placed - LOSS * (1 - kept) - 0.02 * aside
    return result


def _centres(count: int) -> Floats:
    return (np.arange(count) + 0.5) / count


def _bell(distance: Floats, width: Floats | float) -> Floats:
    result: Floats = np.exp(-((distance / width) ** 2))
    return result


def _standing_out(values: Floats) -> Floats:
    """Cells of what exceeds the median: even texture (grass, noise) and the background's colour are no subject."""
    above = np.maximum(values - np.median(values), 0.0)
    rows, columns = (np.arange(0, side, CELL) for side in above.shape)
    result: Floats = np.add.reduceat(np.add.reduceat(above, rows, axis=0), columns, axis=1)
    return result


def _share(values: Floats) -> Floats:
    total = values.sum()
    return values / total if total > 0 else np.full_like(values, 1 / values.size)


def _inside(u: Floats) -> Floats:
    return ((u >= 0) & (u <= 1)).astype(np.float64)


def _placement(u: Floats) -> Floats:
    border = np.clip(np.minimum(u, 1 - u) / BORDER, 0.0, 1.0)
    thirds = _bell(u - 1 / 3, THIRDS_WIDTH) + _bell(u - 2 / 3, THIRDS_WIDTH)
    result: Floats = border * (0.7 + 0.3 * thirds)
    return result
