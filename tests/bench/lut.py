"""`just bench lut [--megapixels N]`: a LUT over a picture on one core, beside Pillow, OpenColorIO, numba, torch.

Each is given the table of one look (33³, the strength in it) and the pixels, as for every photo: what it takes to
get its table ready is in the figure. MP/s are of CPU time, the best of three. `start` is what a fresh process pays
for its first use (imports, compiling from numba's cache) beyond numpy's, in CPU seconds and MiB. `error` is the
greatest distance in codes from tetrahedral interpolation in double precision: 0.5 is perfect rounding.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psutil

Array = npt.NDArray[Any]
Kernel = Callable[[Array, Array], Array]  # table [33, 33, 33, 3], pixels H×W×3 -> pixels

SIZE: Final = 33
MEGAPIXELS: Final = 12
WIDTH: Final = 4000
TILE: Final = 250
RUNS: Final = 3
CHECKED: Final = 200_000  # pixels that are compared with the definition
ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


def ours(table: Array, pixels: Array) -> Array:
    """The engine's kernel."""
    from gpu_functions.style import cube, kernel

    return kernel.apply(pixels, cube.Cube(table, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def ocio(table: Array, pixels: Array) -> Array:
    """OpenColorIO at the picture's own depth: what ours is where Halide has no wheel, and was before."""
    import PyOpenColorIO as Ocio

    lut = Ocio.Lut3DTransform(gridSize=SIZE)
    lut.setInterpolation(Ocio.INTERP_TETRAHEDRAL)
    lut.setData(np.ascontiguousarray(table).ravel())
    depth = {1: Ocio.BIT_DEPTH_UINT8, 2: Ocio.BIT_DEPTH_UINT16}[pixels.itemsize]
    config, result = Ocio.Config.CreateRaw(), np.empty_like(pixels)
    processor = config.getProcessor(lut).getOptimizedCPUProcessor(depth, depth, Ocio.OPTIMIZATION_LOSSLESS)
    source, target = (
        Ocio.PackedImageDesc(side, side.shape[1], side.shape[0], 3, depth, *reversed(side.strides))
        for side in (pixels, result)
    )
    processor.apply(source, target)
    return result


def ocio_float(table: Array, pixels: Array) -> Array:
    """OpenColorIO through float pixels, as one who has float pixels would."""
    import PyOpenColorIO as Ocio

    lut = Ocio.Lut3DTransform(gridSize=SIZE)
    lut.setInterpolation(Ocio.INTERP_TETRAHEDRAL)
    lut.setData(np.ascontiguousarray(table).ravel())
    processor = Ocio.Config.CreateRaw().getProcessor(lut).getDefaultCPUProcessor()
    white, result = np.float32(np.iinfo(pixels.dtype).max), np.empty_like(pixels)
    for top in range(0, len(pixels), 128):
        strip = pixels[top : top + 128] / white
        processor.apply(Ocio.PackedImageDesc(strip, strip.shape[1], strip.shape[0], 3))
        np.clip(strip, 0.0, 1.0, out=strip)
        result[top : top + 128] = np.rint(strip * white)
    return result


def pillow(table: Array, pixels: Array) -> Array:
    """Pillow's Color3DLUT: trilinear, 8 bit."""
    from PIL import Image, ImageFilter

    rows = np.ascontiguousarray(table.transpose(2, 1, 0, 3)).ravel()
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.Color3DLUT(SIZE, rows.tolist())))  # it wants a list


def numba_fixed(table: Array, pixels: Array) -> Array:
    """See lut_numba."""
    from tests.bench import lut_numba

    return lut_numba.fixed_point(table, pixels)


def numba_colours(table: Array, pixels: Array) -> Array:
    """See lut_numba."""
    from tests.bench import lut_numba

    return lut_numba.every_colour(table, pixels)


def numba_sorted(table: Array, pixels: Array) -> Array:
    """See lut_numba."""
    from tests.bench import lut_numba

    return lut_numba.without_branches(table, pixels)


def numba_float(table: Array, pixels: Array) -> Array:
    """See lut_numba."""
    from tests.bench import lut_numba

    return lut_numba.floating(table, pixels)


def with_numpy(table: Array, pixels: Array) -> Array:
    """Trilinear by numpy, as training reads a grid."""
    from gpu_functions.style import grid

    white, result = np.iinfo(pixels.dtype).max, np.empty_like(pixels)
    for top in range(0, len(pixels), 64):
        result[top : top + 64] = np.rint(grid.read(table, pixels[top : top + 64] / np.float32(white)) * white)
    return result


def torch_tetrahedra(table: Array, pixels: Array) -> Array:
    """The GPU's engine on the CPU."""
    import torch

    from gpu_functions.style import cube, tensor

    torch.set_num_threads(1)
    lut = cube.Cube(table, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    [found] = tensor.apply([pixels], [lut], torch.device("cpu"))
    return found


def torch_grid_sample(table: Array, pixels: Array) -> Array:
    """torch's grid_sample: trilinear."""
    import torch

    torch.set_num_threads(1)
    volume = torch.from_numpy(np.ascontiguousarray(table.transpose(3, 0, 1, 2)))[None]
    white, result = np.float32(np.iinfo(pixels.dtype).max), np.empty_like(pixels)
    for top in range(0, len(pixels), 128):
        places = torch.from_numpy(pixels[top : top + 128, :, ::-1] / white * 2 - 1)[None, None]
        found = torch.nn.functional.grid_sample(volume, places, align_corners=True, padding_mode="border")
        result[top : top + 128] = np.rint(found[0, :, 0].permute(1, 2, 0).numpy() * white)
    return result


@dataclass(frozen=True, slots=True)
class Contender:
    """`deep`: whether it knows 16 bit. `slow`: it is shown a twelfth of the picture, and not twice."""

    name: str
    kernel: Kernel
    deep: bool = True
    slow: bool = False


# fmt: off
CONTENDERS: Final = (
    Contender("ours (Halide)",                   ours),
    Contender("OpenColorIO, own depth",          ocio),
    Contender("OpenColorIO through float",       ocio_float),
    Contender("Pillow Color3DLUT, trilinear",    pillow,            deep=False),
    Contender("numba, fixed point",              numba_fixed,       deep=False),
    Contender("numba, table of 2^24 colours",    numba_colours,     deep=False),
    Contender("numba, float, six branches",      numba_float),
    Contender("numba, float, sorted",            numba_sorted),
    Contender("numpy, trilinear",                with_numpy,        slow=True),
    Contender("torch, tetrahedra",               torch_tetrahedra,  slow=True),
    Contender("torch grid_sample, trilinear",    torch_grid_sample, slow=True),
)
# fmt: on


def look(strength: float) -> Array:
    """A curved look in which channels mix, blended with the identity."""
    axis = np.linspace(0, 1, SIZE)
    plain = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    r, g, b = np.moveaxis(plain, -1, 0)
    film = np.stack([0.1 + 0.8 * r**0.8, 0.7 * g + 0.3 * b * g, np.clip(1.1 * b**1.3 - 0.2 * r, 0, 1)], -1)
    return np.asarray(plain + strength * (film - plain), np.float32)


def picture(megapixels: int) -> npt.NDArray[np.uint8]:
    """Tiles of real photos, no two alike: what lies beside each other is what a camera saw."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    photos += [getattr(data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    chance = np.random.default_rng(7)
    result = np.empty((megapixels * 1_000_000 // WIDTH // TILE * TILE, WIDTH, 3), np.uint8)
    for top in range(0, len(result), TILE):
        for left in range(0, WIDTH, TILE):
            photo = photos[chance.integers(len(photos))]
            y, x = (chance.integers(0, side - TILE + 1) for side in photo.shape[:2])
            result[top : top + TILE, left : left + TILE] = photo[y : y + TILE, x : x + TILE]
    return result


def exact(table: Array, colours: Array) -> Array:
    """Tetrahedral interpolation by its definition, in double precision; colours M×3 in 0..1."""
    place = colours * (SIZE - 1)
    cell = np.minimum(np.floor(place), SIZE - 2)
    order = np.argsort(cell - place, axis=1)
    rest = np.take_along_axis(place - cell, order, axis=1)
    shares = -np.diff(np.column_stack([np.ones(len(rest)), rest, np.zeros(len(rest))]), axis=1)
    corner, result = cell.astype(int), np.zeros_like(colours)
    for step in range(4):
        result += shares[:, step, None] * table[tuple(corner.T)]
        if step < 3:
            corner[np.arange(len(corner)), order[:, step]] += 1
    return np.clip(result, 0, 1)


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="bench lut", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megapixels", type=int, default=MEGAPIXELS)
    megapixels = parser.parse_args(arguments).megapixels
    shallow = picture(megapixels)
    noise = np.random.default_rng(3).integers(0, 256, shallow.shape, np.uint16)
    deep = shallow.astype(np.uint16) << 8 | noise
    print(f"{megapixels} MP, one core      MP/s: 8 bit   at 0.6   16 bit   at 0.6   error 8 / 16    start")
    for contender in CONTENDERS:
        cells, errors = [], []
        for pixels in (shallow, deep):
            if pixels is deep and not contender.deep:
                cells += ["-", "-"]
                continue
            shown = pixels[: len(pixels) // 12] if contender.slow else pixels
            contender.kernel(look(1.0), shown[:2])  # its start is another figure
            cells += [f"{_rate(contender, look(strength), shown):.0f}" for strength in (1.0, 0.6)]
            errors.append(f"{_error(contender, shown):.2f}")
        seconds, mebibytes = _start(contender)
        row = "".join(f"{cell:>9}" for cell in cells)
        print(f"{contender.name:<30}{row}   {' / '.join(errors):<12} {seconds:6.2f} s {mebibytes:5.0f} MiB", flush=True)


def _rate(contender: Contender, table: Array, pixels: Array) -> float:
    """Megapixels per second of CPU time."""
    took = []
    for _ in range(1 if contender.slow else RUNS):
        started = time.process_time()
        contender.kernel(table, pixels)
        took.append(time.process_time() - started)
    return float(pixels.size / 3e6 / min(took))


def _error(contender: Contender, pixels: Array) -> float:
    some = pixels.reshape(-1, 3)[:: max(1, pixels.size // 3 // CHECKED)]
    white = np.iinfo(pixels.dtype).max
    found = contender.kernel(look(1.0), np.ascontiguousarray(some[:, None]))[:, 0]
    return float(np.abs(found - exact(look(1.0).astype(np.float64), some / white) * white).max())


def _start(contender: Contender) -> tuple[float, float]:
    """CPU seconds and MiB of the first use in a process of its own, which already has numpy and numba's cache."""
    index = str(CONTENDERS.index(contender))
    told = subprocess.run(
        [sys.executable, "-m", "tests.bench.lut", index], check=True, capture_output=True, env=os.environ | ONE_THREAD
    )
    seconds, mebibytes = told.stdout.split()
    return float(seconds), float(mebibytes)


def _first(contender: Contender) -> None:
    process, pixels, table = psutil.Process(), np.zeros((64, 64, 3), np.uint8), look(1.0)
    started, before = time.process_time(), process.memory_info().rss
    contender.kernel(table, pixels)
    print(time.process_time() - started, (process.memory_info().rss - before) / (1 << 20))


if __name__ == "__main__":
    _first(CONTENDERS[int(sys.argv[1])])
